"""Runs, one line each; a single run is in ``coordinator.views.overview``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from coordinator.database import label_rows, run_rows
from coordinator.labels import Wanted, label_words, match
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
    labels: Mapping[str, str] = field(default_factory=dict)  # the operator's notes

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
            "labels": dict(self.labels),
        }


@dataclass(frozen=True, slots=True)
class RunList:
    """Runs, in the order of the database: all, or those with certain labels."""

    runs: tuple[RunRow, ...]
    wanted: tuple[Wanted, ...] = ()

    def to_json(self) -> Json:
        """Return it for programs."""
        return [run.to_json() for run in self.runs]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        if not self.runs and self.wanted:
            return [f"No run is labelled {' and '.join(map(str, self.wanted))}."]
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
        notes = [
            f"{run.run_id[:SHOWN_ID]}: labelled {', '.join(label_words(run.labels))}" for run in self.runs if run.labels
        ]
        return [*table(("RUN", "STATE", "ROUNDS", "CREATED (UTC)", "TITLE"), rows), *notes, *ended]


def run_list(opened: OpenHome, wanted: Sequence[Wanted] = ()) -> RunList:
    """Read all runs, or those whose labels match all that is wanted."""
    rows = []
    with opened.store.read() as connection:
        labels = label_rows.list_labels(connection)
        for run in run_rows.list_runs(connection):
            if not match(wanted, labels.get(run.run_id, {})):
                continue
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
                    labels=labels.get(run.run_id, {}),
                )
            )
    return RunList(tuple(rows), tuple(wanted))
