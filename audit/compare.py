"""Two reports side by side: do they tell one history, and where do their figures differ?

Guarantees: reports of one plan whose completed rounds differ are a contradiction, not a difference: somebody was shown
another history, or one report is false. So is a coordinator's report without a round that a participant, before it was
made, held the certificate of, and one of fewer rounds than the participant was charged for: it would tell a smaller
epsilon.
Leaves to others: whether each report verifies by itself (``verify``).
Source: docs/protocol.md section 5.6.
"""

from __future__ import annotations

from dataclasses import dataclass

from audit import wording
from privacy.evaluation import metrics_words
from privacy.plan import Plan
from privacy.report_model import Claim, Report, figures


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two reports have in common."""

    same_plan: bool
    contradictions: tuple[str, ...]  # never empty if the two cannot both be true
    rows: tuple[tuple[str, str, str], ...]  # what, in the first, in the second


def compare(first: Report, second: Report) -> Comparison:
    """Compare two verified reports."""
    same_plan = first.plan_sha256 == second.plan_sha256
    contradictions: list[str] = []
    if not same_plan and first.plan.run_id == second.plan.run_id:
        contradictions.append("one run id, two plans")
    if same_plan:
        contradictions += _split_rounds(first, second)
    left, right = _facts(first), _facts(second)
    return Comparison(same_plan, tuple(contradictions), tuple((name, left[name], right[name]) for name in left))


def _split_rounds(first: Report, second: Report) -> list[str]:
    contradictions = []
    for mine, theirs in ((first, second), (second, first)):
        contradictions += [
            f"round {number}: the coordinator leaves out what a participant holds proof of"
            for number in _hidden(mine, theirs)
        ]
        if _should_cover(mine, theirs) and mine.plan.privacy.charges(len(mine.rounds)) < _charged(theirs):
            contradictions.append(
                f"the coordinator started {len(mine.rounds)} rounds, a participant was charged for"
                f" {wording.charges(theirs.plan, _charged(theirs))}"
            )
    for left, right in zip(first.rounds, second.rounds, strict=False):
        if left.certificate is None or right.certificate is None:
            continue
        known = [
            (entry.attempt, entry.round_ctx, entry.u2_sha256, entry.survivors, entry.sum_sha256)
            for entry in (left.certificate, right.certificate)
        ]
        if known[0] != known[1]:
            contradictions.append(f"round {left.round}: two different sums or survivor sets were signed")
    return contradictions


def _hidden(coordinator: Report, participant: Report) -> list[int]:
    """Return the rounds that the participant saw completed before the coordinator said that they were not."""
    if not _should_cover(coordinator, participant):
        return []
    known = {entry.round for entry in coordinator.rounds if entry.certificate is not None}
    return [entry.round for entry in participant.rounds if entry.certificate is not None and entry.round not in known]


def _should_cover(coordinator: Report, participant: Report) -> bool:
    """Return whether what the second knows should be in the first: a coordinator's, and not the older one.

    A participant may miss the last result, and an early report knows less.
    """
    roles = (coordinator.made_by.role, participant.made_by.role)
    return roles == ("coordinator", "participant") and coordinator.made_at >= participant.made_at


def _charged(report: Report) -> int:
    return report.privacy.charged_rounds if isinstance(report.privacy, Claim) else 0


def _charges(plan: Plan, claim: Claim) -> str:
    banded = plan.privacy.banded
    return wording.charges(plan, claim.charged_rounds) if banded else str(claim.charged_rounds)


def _facts(report: Report) -> dict[str, str]:
    plan = report.plan
    claim = report.privacy if isinstance(report.privacy, Claim) else None
    last = report.evaluations[-1] if report.evaluations else None
    return {
        "made by": f"{report.made_by.role} {report.made_by.name}",
        "run": plan.run_id[:16],
        "plan": report.plan_sha256[:16],
        "mode": plan.privacy.mode,
        "unit": claim.unit if claim else "-",
        "epsilon (this run)": wording.short(claim.charged.epsilon) if claim else "no differential privacy",
        "delta": claim.delta if claim else "-",
        "charged rounds": _charges(plan, claim) if claim else "-",
        "completed rounds": str(sum(entry.certificate is not None for entry in report.rounds)),
        "transcript": report.transcript_sha256[:16],
        "roster": report.roster,
        "last measurement": metrics_words(figures(last)) if last else "-",
    }
