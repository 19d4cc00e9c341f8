"""A report for the terminal: the same words as the page, in lines that printing breaks.

Guarantees: nothing here that the page lacks; mode ``none`` reads "no differential privacy".
"""

from __future__ import annotations

from audit import wording
from audit.measurement import measured_words
from audit.statements import maker_statements
from host.rendering import broken
from privacy.claims import NO_PRIVACY, not_protected, unnoised_runs_sentence
from privacy.notice import HEADING, notice_sentences
from privacy.report_model import Claim, Report


def headline(report: Report) -> str:
    """Return the run and its figure in one line."""
    stated, title = report.privacy, broken(report.plan.recipe.title) or report.plan.run_id
    if not isinstance(stated, Claim):
        return f"{title}: {NO_PRIVACY.lower()}"
    figure = wording.short(stated.charged.epsilon)
    charged = wording.charged(report.plan, stated.charged_rounds)
    return f"{title}: epsilon {figure} at delta {stated.delta} per {stated.unit}, {charged}"


def rendered(report: Report) -> str:
    """Return the report's plain words, figures and rounds."""
    parts = [
        "\n".join(line for line in (headline(report), wording.total_spend(report)) if line),
        _section("What this does", (wording.what_this_does(report),)),
        _section("What limits what the sum reveals", wording.what_limits_the_sum(report)),
        _section("What we rely on", wording.what_we_rely_on(report)),
        _section("What is not protected", not_protected(report.plan)),
        _section(wording.MAKERS_STATEMENT, maker_statements(report)),
        _section(wording.MEASURED, measured_words(report)),
        _section("The figures", _figures(report)),
        _section("With whom", tuple(f"{name}: {value}" for name, value in wording.mask_rows(report))),
        _section(HEADING, notice_sentences(report.plan)),
        _section("Rounds", (wording.rounds_summary(report),)),
    ]
    if report.ledger is not None:
        parts.append(_section("The owner's ledger", _ledger(report)))
    return "\n\n".join(part for part in parts if part)


def aligned(name: str, words: str) -> str:
    """Return a name and a text beside it."""
    return f"{name:<14}  {words}"


def _section(title: str, lines: tuple[str, ...]) -> str:
    return "\n".join((title, *(f"  {broken(line)}" for line in lines))) if lines else ""


def _figures(report: Report) -> tuple[str, ...]:
    stated = report.privacy
    if not isinstance(stated, Claim):
        return (NO_PRIVACY.lower(),)
    trusted = tuple(f"against {who}: epsilon {epsilon}" for who, epsilon, _ in wording.trust_rows(report))
    return (
        *trusted,
        f"a person who is two units: epsilon {wording.short(stated.group_of_two)}",
        f"replace-one relation: epsilon {wording.short(stated.replace_one)}",
        f"planned for all {report.plan.recipe.rounds} rounds: epsilon {wording.short(stated.planned_epsilon)}",
        f"cross-checks: Renyi {wording.short(stated.checks.rdp)}, general {wording.short(stated.checks.general)}",
    )


def _ledger(report: Report) -> tuple[str, ...]:
    part = report.ledger
    assert part is not None  # the caller asked
    unprotected = sum(run.event is None for run in part.runs)
    lines = [f"population {part.population}, record {part.sequence}, runs: {len(part.runs)}"]
    if part.budget is not None:
        spent = wording.short(part.lifetime_epsilon)
        lines.append(f"spent over all runs: epsilon {spent} of {part.budget.epsilon} at delta {part.budget.delta}")
        lines += [why] if (why := wording.why_lifetime_is_more(part)) else []
    if unprotected:
        lines.append(unnoised_runs_sentence(unprotected))
    return tuple(lines)
