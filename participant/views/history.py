"""What ran when on this machine's data: each run with its decision, its charged rounds, its end and its report."""

from __future__ import annotations

from dataclasses import dataclass

from host.rendering import Json, Line, moment, table, timestamp
from participant.opened import OpenHome
from participant.runs.reporting import REPORT_FILE
from participant.views.plans import SHOWN_ID, plan_list
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

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "run": self.run_id,
            "title": self.title,
            "mode": self.mode,
            "decision": self.decision,
            "ended": self.ended,
            "charged_rounds": self.charged_rounds,
            "first_at": timestamp(self.first_at),
            "last_at": timestamp(self.last_at),
            "reported": self.reported,
        }


@dataclass(frozen=True, slots=True)
class History:
    """All runs, newest first."""

    runs: tuple[RunHistory, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [run.to_json() for run in self.runs]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        rows = [
            (run.run_id[:SHOWN_ID], run.title, run.decision, str(run.charged_rounds), moment(run.first_at),
             moment(run.last_at), run.ended or "-")
            for run in self.runs
        ]  # fmt: skip
        return table(("RUN", "TITLE", "DECISION", "CHARGED", "FROM (UTC)", "TO (UTC)", "ENDED"), rows)


def history(opened: OpenHome) -> History:
    """Read what ran."""
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
    return History(tuple(reversed(found)))
