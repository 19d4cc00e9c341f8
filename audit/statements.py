"""What a report says that nobody can check: the maker's statement.

Guarantees: every leaf of a report that its maker could change and sign again, and that ``verify`` would then still
take, is covered by a sentence here (a test changes each leaf).
Leaves to others: what can be checked (``verify``, ``history``), showing it (``page``, ``text``).
"""

from __future__ import annotations

from typing import Final

from privacy.report_model import Report

# By leaf, "*" for a place in a list. What one report leaves open another maker's may contradict (``audit compare``).
STATEMENTS: Final[dict[str, tuple[str, ...]]] = {
    "When the report was made, and with which programs.": ("made_at", "software.*.name", "software.*.version"),
    "Whether fingerprints were compared, where randomness came from, and that no seeds were kept (simulation).": (
        "roster",
        "randomness",
        "simulation",
    ),
    "How many attempts a round took beyond the one that its survivors signed, and that rounds after the last certified "
    "one did or did not start.": ("rounds.*.attempts",),
    "What each sum was (its hash, with the transcript that follows from it): another maker's report must have the "
    "same.": ("rounds.*.certificate.sum_sha256", "transcript_sha256"),
    "That all measurements which evaluators signed are here.": ("evaluations",),
}
LEDGER_STATEMENTS: Final[dict[str, tuple[str, ...]]] = {
    "Which population was charged, where the ledger ends, and what its owner allows over all runs.": (
        "ledger.sequence",
        "ledger.head_sha256",
        "ledger.key",
        "ledger.population",
        "ledger.budget",
    ),
    "The other runs on this population: that they are all, and what each of them was charged.": (
        "ledger.runs",
        "ledger.lifetime_epsilon",
    ),
    "Rounds charged to this run beyond those in which its maker is among the survivors.": (
        "privacy.charged_rounds",
        "privacy.curve",
    ),
}
NOT_SHOWN: Final = frozenset({"not_protected"})  # readers write their own, from the plan


def maker_statements(report: Report) -> tuple[str, ...]:
    """Return, in sentences, what the maker says and nobody else can check."""
    return (*STATEMENTS, *(LEDGER_STATEMENTS if report.ledger else ()))
