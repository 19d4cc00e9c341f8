"""A run's events as they happen.

Guarantees: each event once and in order; nothing about a single participant but that it answered.
Leaves to others: showing them (``coordinator.commands.run_watch``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.database import attempt_rows, run_rows
from coordinator.database.store import Store
from coordinator.runs.attempt import CLOSED
from coordinator.views.overview import measured
from host.rendering import Json
from privacy import canonical
from privacy.printable import printable


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened in a run: in words, and for programs."""

    text: str
    fields: dict[str, Json]

    def to_json(self) -> Json:
        """Return it for programs."""
        return self.fields

    def to_lines(self) -> list[str]:
        """Return it for people."""
        return [self.text]


@dataclass(slots=True)
class Watcher:
    """Reads a run again and again, and remembers which events it has yielded."""

    store: Store
    run_id: str
    event: int = 0
    state: str = ""
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
            yield _happened("plan", f"{answer.member} {verb}", member=answer.member, approved=answer.approved)
        if not run.state.ended:
            yield from self._run(run)
        for attempt in attempts:
            number = (attempt.round, attempt.attempt)
            yield from self._attempt(attempt, [closing for closing in closed if closing[:2] == number])
            done = rounds.get(attempt.round)
            if attempt.state == "completed" and done and self._first(attempt, "completed"):
                without = f", without {', '.join(done.dropouts)}" if done.dropouts else ""
                text = f"round {done.round} completed: the sum of {done.survivors} participants{without}"
                yield _happened("round", text, round=done.round, survivors=done.survivors, dropouts=list(done.dropouts))
            if attempt.state == "aborted" and self._first(attempt, "aborted"):
                text = f"round {attempt.round}, attempt {attempt.attempt} aborted: {attempt.code} {attempt.reason}"
                yield _happened("abort", text, round=attempt.round, attempt=attempt.attempt, code=attempt.code)
            if done and done.voided and done.attempt == attempt.attempt and done.round not in self.voided:
                self.voided.add(done.round)
                text = f"round {done.round} voided: charged, without a sum; the run goes on at the next"
                yield _happened("void", text, round=done.round)
        self.event = max([self.event, *(event.id for _, _, event in closed)])
        for evaluation in evaluations:
            if (evaluation.round, evaluation.evaluator) not in self.measured:
                self.measured.add((evaluation.round, evaluation.evaluator))
                accuracy = round(evaluation.correct / max(1, evaluation.examples), 6)
                yield _happened("evaluation", measured(evaluation), round=evaluation.round, accuracy=accuracy)
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


def _happened(kind: str, text: str, **fields: Json) -> RunEvent:
    return RunEvent(printable(text), {"event": kind, **fields})
