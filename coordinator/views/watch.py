"""A run's events as they happen.

Guarantees: each event once and in order; nothing about a single participant but that it answered.
Leaves to others: showing them (``coordinator.commands.run_watch``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coordinator.database import attempt_rows, run_rows
from coordinator.database.store import Store
from coordinator.runs.attempt import CLOSED
from coordinator.views.overview import measured, metric_values
from host.rendering import Json, moment, timestamp
from privacy import canonical
from privacy.printable import printable


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened in a run: in words, and for programs."""

    text: str
    fields: dict[str, Json]
    at: int  # seconds since the Unix epoch
    detail: bool = False  # people see one line per round: phases, attempts and measurements are in it

    def to_json(self) -> Json:
        """Return it for programs."""
        return self.fields

    def to_lines(self) -> list[str]:
        """Return it for people, with its time."""
        return [] if self.detail else [f"{moment(self.at)} UTC  {self.text}"]


@dataclass(slots=True)
class Watcher:
    """Reads a run again and again, and remembers which events it has yielded."""

    store: Store
    run_id: str
    event: int = 0
    state: str = ""
    code: str = ""  # of why the run ended
    answers: set[tuple[str, bool]] = field(default_factory=set)
    attempts: dict[tuple[int, int], str] = field(default_factory=dict)
    measured: set[tuple[int, str]] = field(default_factory=set)
    voided: set[int] = field(default_factory=set)

    def new_events(self) -> Iterator[RunEvent]:
        """Yield what happened since the last call, in order."""
        with self.store.read() as connection:
            run = run_rows.find_run(connection, self.run_id)
            answers = run_rows.list_approvals(connection, self.run_id)
            attempts = attempt_rows.list_attempts(connection, self.run_id)
            closed = list(attempt_rows.closings_after(connection, self.run_id, self.event, kind=CLOSED))
            rounds = {completed.round: completed for completed in run_rows.list_rounds(connection, self.run_id)}
            evaluations = run_rows.list_evaluations(connection, self.run_id)
        fresh = [answer for answer in answers if (answer.member, answer.approved) not in self.answers]
        self.answers.update((answer.member, answer.approved) for answer in fresh)
        for answer in fresh:
            verb = "approved" if answer.approved else f"refused ({answer.code}): {answer.because}"
            fields: dict[str, Json] = {"member": answer.member, "approved": answer.approved}
            yield _happened("plan", f"{answer.member} {verb}", fields, at=answer.at)
        if not run.state.ended:
            yield from self._run(run, evaluations)
        for attempt in attempts:
            number = (attempt.round, attempt.attempt)
            yield from self._attempt(attempt, [closing for closing in closed if closing[:2] == number])
            done = rounds.get(attempt.round)
            if attempt.state == "completed" and done and self._first(attempt, "completed"):
                yield self._round(done, run.parsed().recipe.rounds, evaluations)
            if attempt.state == "aborted" and self._first(attempt, "aborted"):
                text = f"round {attempt.round}, attempt {attempt.attempt} aborted: {attempt.code} {attempt.reason}"
                fields = {"round": attempt.round, "attempt": attempt.attempt, "code": attempt.code}
                yield _happened("abort", text, fields, at=attempt.ended_at)
            if done and done.voided and done.attempt == attempt.attempt and done.round not in self.voided:
                self.voided.add(done.round)
                text = f"round {done.round} voided: charged, without a sum; the run goes on at the next"
                yield _happened("void", text, {"round": done.round}, at=done.completed_at)
        self.event = max([self.event, *(event.id for _, _, event in closed)])
        for evaluation in evaluations:
            if (evaluation.round, evaluation.evaluator) not in self.measured:
                self.measured.add((evaluation.round, evaluation.evaluator))
                fields = {"round": evaluation.round, "metrics": metric_values(evaluation)}
                yield _happened("evaluation", measured(evaluation), fields, at=evaluation.at, detail=True)
        yield from self._run(run, evaluations)

    def _round(
        self, done: run_rows.RoundRecord, planned: int, evaluations: Sequence[run_rows.EvaluationRecord]
    ) -> RunEvent:
        without = f", without {', '.join(done.dropouts)}" if done.dropouts else ""
        known = [measured(evaluation) for evaluation in evaluations if evaluation.round <= done.round][-1:]
        text = f"round {done.round} of {planned}: the sum of {done.survivors} participants{without}"
        fields: dict[str, Json] = {"round": done.round, "survivors": done.survivors, "dropouts": list(done.dropouts)}
        return _happened("round", "; ".join([text, *known]), fields, at=done.completed_at)

    def _run(self, run: run_rows.RunRecord, evaluations: Sequence[run_rows.EvaluationRecord]) -> Iterator[RunEvent]:
        if run.state.value != self.state:
            self.state, self.code = run.state.value, run.code
            why = f": {run.code} {run.reason}".rstrip() if run.code else ""
            last = f"; {measured(evaluations[-1])}" if run.state.ended and evaluations else ""
            fields: dict[str, Json] = {"state": run.state.value, "code": run.code, "reason": run.reason}
            yield _happened("run", f"run {run.state.value}{why}{last}", fields, at=run.ended_at)

    def _attempt(
        self, attempt: attempt_rows.AttemptRecord, closed: list[tuple[int, int, attempt_rows.EventRecord]]
    ) -> Iterator[RunEvent]:
        place: dict[str, Json] = {"round": attempt.round, "attempt": attempt.attempt}
        if (attempt.round, attempt.attempt) not in self.attempts:
            self.attempts[attempt.round, attempt.attempt] = "open"
            text = f"round {attempt.round}, attempt {attempt.attempt} opened"
            yield _happened("attempt", text, place, at=attempt.opened_at, detail=True)
        for _, _, event in closed:
            body = canonical.decode(event.body)
            if isinstance(body, dict):
                answered = [str(name) for name in body["answered"]]
                text = f"round {attempt.round}: {body['phase']} closed, {len(answered)} answered"
                fields: dict[str, Json] = {"phase": str(body["phase"]), "answered": list(answered), **place}
                yield _happened("phase", text, fields, detail=True)

    def _first(self, attempt: attempt_rows.AttemptRecord, state: str) -> bool:
        known = self.attempts.get((attempt.round, attempt.attempt)) == state
        self.attempts[attempt.round, attempt.attempt] = state
        return not known


def _happened(
    kind: str, text: str, fields: dict[str, Json], *, at: int | None = None, detail: bool = False
) -> RunEvent:
    seen = int(time.time()) if at is None else at
    return RunEvent(printable(text), {"event": kind, "at": timestamp(seen), **fields}, seen, detail)
