"""Whom people may ask about a run, and what is said of their data: the plan's notice, for whoever shows it.

Guarantees: every entry is there; what a plan leaves empty is shown as missing, so that nobody takes silence for an
answer.
Leaves to others: whether the words are true, which nothing can check.
Source: ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

from typing import Final

from privacy.plan import Plan

HEADING: Final = "Whom to ask"
NOT_STATED: Final = "missing: not stated in the plan"


def notice_rows(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return what a plan says of whom to ask and of the data, as (label, words)."""
    notice = plan.recipe.notice
    rows = (
        ("who answers for the run", notice.responsible),
        ("whom to call about the run", notice.contact),
        ("whom to call about the coordinator", plan.operator_contact),
        ("which data of whom is used", notice.data),
        ("how long what is kept", notice.retention),
    )
    return tuple((label, words or NOT_STATED) for label, words in rows)


def notice_sentences(plan: Plan) -> tuple[str, ...]:
    """Return the same, one line per entry."""
    return tuple(f"{label[0].upper()}{label[1:]}: {words}" for label, words in notice_rows(plan))
