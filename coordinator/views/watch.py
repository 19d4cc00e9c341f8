"""``run watch``: a run's events as they happen.

Guarantees: one line an event, each once and in order; on a terminal a live picture stands below them; nothing about a
single participant but that it answered.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coordinator.config import Home
from coordinator.database import attempt_rows, run_rows
from coordinator.database.run_rows import RunState
from coordinator.database.store import Store
from coordinator.runs.attempt import CLOSED
from coordinator.views.overview import Overview, measured, overview
from host.console import Json
from privacy import canonical
from privacy.printable import printable

POLL_SECONDS: Final = 0.3
BAR_WIDTH: Final = 40


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened in a run, as a line and as JSON."""

    text: str
    value: dict[str, Json]


@dataclass(slots=True)
class Watcher:
    """Remembers what was told already."""

    store: Store
    run_id: str
    event: int = 0
    state: str = ""
    answers: set[tuple[str, bool]] = field(default_factory=set)
    attempts: dict[tuple[int, int], str] = field(default_factory=dict)
    measured: set[tuple[int, str]] = field(default_factory=set)

    def new_events(self) -> Iterator[RunEvent]:
        """Yield what happened since the last call, in order."""
        with self.store.read() as connection:
            run = run_rows.find_run(connection, self.run_id)
            answers = run_rows.list_approvals(connection, self.run_id)
            attempts = attempt_rows.list_attempts(connection, self.run_id)
            closed = list(attempt_rows.closings_after(connection, self.run_id, self.event, kind=CLOSED))
            rounds = {one.round: one for one in run_rows.list_rounds(connection, self.run_id)}
            evaluations = run_rows.list_evaluations(connection, self.run_id)
        fresh = [one for one in answers if (one.member, one.approved) not in self.answers]
        self.answers.update((one.member, one.approved) for one in fresh)
        for answer in fresh:
            verb = "approved" if answer.approved else f"refused ({answer.code}): {answer.because}"
            yield _happened("plan", f"{answer.member} {verb}", member=answer.member, approved=answer.approved)
        if not run.state.ended:
            yield from self._run(run)
        for attempt in attempts:
            yield from self._attempt(attempt, [one for one in closed if one[:2] == (attempt.round, attempt.attempt)])
            done = rounds.get(attempt.round)
            if attempt.state == "completed" and done and self._first(attempt, "completed"):
                without = f", without {', '.join(done.dropouts)}" if done.dropouts else ""
                text = f"round {done.round} completed: the sum of {done.survivors} participants{without}"
                yield _happened("round", text, round=done.round, survivors=done.survivors, dropouts=list(done.dropouts))
            if attempt.state == "aborted" and self._first(attempt, "aborted"):
                text = f"round {attempt.round}, attempt {attempt.attempt} aborted: {attempt.code} {attempt.reason}"
                yield _happened("abort", text, round=attempt.round, attempt=attempt.attempt, code=attempt.code)
        self.event = max([self.event, *(one[2].id for one in closed)])
        for one in evaluations:
            if (one.round, one.evaluator) not in self.measured:
                self.measured.add((one.round, one.evaluator))
                accuracy = round(one.correct / max(1, one.examples), 6)
                yield _happened("evaluation", measured(one), round=one.round, accuracy=accuracy)
        yield from self._run(run)

    def _run(self, run: run_rows.RunRecord) -> Iterator[RunEvent]:
        if run.state.value != self.state:
            self.state = run.state.value
            why = f": {run.code} {run.reason}".rstrip() if run.code else ""
            yield _happened(
                "run", f"run {run.state.value}{why}", state=run.state.value, code=run.code, reason=run.reason
            )

    def _attempt(
        self, attempt: attempt_rows.AttemptRecord, closed: list[tuple[int, int, attempt_rows.EventRecord]]
    ) -> Iterator[RunEvent]:
        place: dict[str, Json] = {"round": attempt.round, "attempt": attempt.attempt}
        if (attempt.round, attempt.attempt) not in self.attempts:
            self.attempts[attempt.round, attempt.attempt] = "open"
            yield _happened("attempt", f"round {attempt.round}, attempt {attempt.attempt} opened", **place)
        for _, _, event in closed:
            body = canonical.decode(event.body)
            if isinstance(body, dict):
                answered = [str(name) for name in body["answered"]]
                text = f"round {attempt.round}: {body['phase']} closed, {len(answered)} answered"
                yield _happened("phase", text, phase=str(body["phase"]), answered=list(answered), **place)

    def _first(self, attempt: attempt_rows.AttemptRecord, state: str) -> bool:
        known = self.attempts.get((attempt.round, attempt.attempt)) == state
        self.attempts[attempt.round, attempt.attempt] = state
        return not known


def _happened(kind: str, text: str, **value: Json) -> RunEvent:
    return RunEvent(printable(text), {"event": kind, **value})


def follow(store: Store, home: Home, name: str, *, as_json: bool) -> bool:
    """Print what happens in a run until it ends; return whether it completed."""
    with store.read() as connection:
        watcher = Watcher(store, run_rows.find_run(connection, name).run_id)
    console = Console(no_color="NO_COLOR" in os.environ, highlight=False)
    if as_json or not console.is_terminal:
        return _follow_plainly(watcher, as_json=as_json)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            for one in watcher.new_events():
                live.console.print(one.text, markup=False)
            seen = overview(store, home, watcher.run_id)
            live.update(_picture(seen))
            if seen.run.state.ended:
                break
            time.sleep(POLL_SECONDS)
    for one in watcher.new_events():
        console.print(one.text, markup=False)
    return watcher.state == RunState.COMPLETED.value


def _follow_plainly(watcher: Watcher, *, as_json: bool) -> bool:
    while True:
        for one in watcher.new_events():
            typer.echo(json.dumps(one.value) if as_json else one.text)
        sys.stdout.flush()
        if watcher.state and RunState(watcher.state).ended:
            return watcher.state == RunState.COMPLETED.value
        time.sleep(POLL_SECONDS)


def _picture(seen: Overview) -> Group:
    """Return the live part: a bar over the rounds, and the open phase."""
    done, total, phase = len(seen.rounds), seen.plan.recipe.rounds, seen.phase
    bar = ProgressBar(total=total, completed=done, width=BAR_WIDTH)
    first = Table.grid(padding=(0, 1))
    first.add_row(bar, Text(f"{done} of {total} rounds, {seen.run.state.value}"))
    lines: list[Text] = []
    if phase is not None:
        waits = f", waits for {', '.join(phase.missing[:6])}" if phase.missing else ""
        lines.append(Text(f"{phase.phase}: {len(phase.answered)} of {len(phase.expected)}{waits}"))
    elif seen.undecided:
        lines.append(Text(f"waits for the approval of {', '.join(seen.undecided[:6])}"))
    if seen.evaluations:
        lines.append(Text(measured(seen.evaluations[-1])))
    return Group(first, *lines)
