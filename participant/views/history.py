"""What ran when on this machine's data: each run with its decision, its charged rounds, its end and its report."""

from __future__ import annotations

from dataclasses import dataclass

from participant.opened import OpenHome
from participant.runs.reporting import REPORT_FILE
from participant.views.plans import plan_list
from privacy.ledger_entries import Charge


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A run as its owner remembers it."""

    run_id: str
    title: str
    mode: str
    decision: str
    ended: str | None
    charged_rounds: int
    first_at: int | None  # when the first round was charged
    last_at: int | None
    reported: bool


def history(opened: OpenHome) -> tuple[RunHistory, ...]:
    """Return what ran, newest first."""
    charged: dict[bytes, list[int]] = {}
    for record in opened.ledger.rows():
        if isinstance(record.entry, Charge):
            charged.setdefault(record.entry.plan_hash, []).append(record.at)
    plans, found = opened.review.plans, []
    for row in plan_list(opened).plans:
        times = charged.get(plans.get(row.run_id).hash, [])
        found.append(
            RunHistory(
                run_id=row.run_id,
                title=row.title,
                mode=row.mode,
                decision=row.decision,
                ended=row.ended,
                charged_rounds=len(times),
                first_at=min(times, default=None),
                last_at=max(times, default=None),
                reported=(opened.home.runs / row.run_id / REPORT_FILE).is_file(),
            )
        )
    return tuple(reversed(found))
