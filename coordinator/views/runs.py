"""All runs, one line each; a single run is in ``coordinator.views.overview``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coordinator.database import run_rows
from coordinator.opened import OpenHome
from host.rendering import Json, Line, moment, table, timestamp

SHOWN_ID: Final = 12  # characters of a run's id
SHOWN_TITLE: Final = 40


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run and how far it is."""

    run_id: str
    title: str
    state: str
    paused: bool
    rounds_completed: int
    rounds: int
    code: str  # of why it ended, empty if it did not or completed
    reason: str
    created_at: int

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "run": self.run_id,
            "title": self.title,
            "state": self.state,
            "paused": self.paused,
            "rounds_completed": self.rounds_completed,
            "rounds": self.rounds,
            "code": self.code,
            "reason": self.reason,
            "created_at": timestamp(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class RunList:
    """All runs, in the order of the database."""

    runs: tuple[RunRow, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [run.to_json() for run in self.runs]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        if not self.runs:
            return ["No runs yet. Next: onlysum coordinator run create DRAFT --members A,B,C"]
        rows = [
            (
                run.run_id[:SHOWN_ID],
                run.state + (" (paused)" if run.paused else ""),
                f"{run.rounds_completed}/{run.rounds}",
                moment(run.created_at),
                run.title[:SHOWN_TITLE],
            )
            for run in self.runs
        ]
        ended = [f"{run.run_id[:SHOWN_ID]}: {run.code} {run.reason}".rstrip() for run in self.runs if run.code]
        return [*table(("RUN", "STATE", "ROUNDS", "CREATED (UTC)", "TITLE"), rows), *ended]


def run_list(opened: OpenHome) -> RunList:
    """Read all runs."""
    rows = []
    with opened.store.read() as connection:
        for run in run_rows.list_runs(connection):
            recipe = run.parsed().recipe
            rows.append(
                RunRow(
                    run_id=run.run_id,
                    title=recipe.title,
                    state=run.state.value,
                    paused=run.paused,
                    rounds_completed=sum(not done.voided for done in run_rows.list_rounds(connection, run.run_id)),
                    rounds=recipe.rounds,
                    code=run.code,
                    reason=run.reason,
                    created_at=run.created_at,
                )
            )
    return RunList(tuple(rows))
