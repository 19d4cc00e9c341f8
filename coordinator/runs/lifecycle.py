"""The life of a run: approvals, rounds, attempts, the end.

Guarantees: every run reaches a terminal state within its deadlines; nothing is offered or told before it is committed;
after a restart a run goes on from its rows alone.
Leaves to others: the protocol (``coordinator.protocol.round``), the numbers of a completed round
(``coordinator.runs.completion``).
"""

from __future__ import annotations

from coordinator.database import attempt_rows, member_rows, run_rows
from coordinator.database.run_rows import RunState
from coordinator.runs import completion, release
from coordinator.runs.attempt import Attempt, ReplayError, bound_members
from coordinator.runs.run import Run
from privacy.errors import Phase, RoundAborted
from privacy.secagg.messages import Position


class Lifecycle:
    """Moves one run on; :meth:`advance` is called after every change and a few times a second."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._gathered = False
        self._judged: tuple[int, int] | None = None  # the aborted attempt after which those who may go on were counted
        self._free = 0
        self._quorum_since: float | None = None
        self._finishing_since: float | None = None

    async def advance(self) -> None:
        """Do the next thing that is due: end, start, open, close or complete."""
        run = self._run
        async with run.lock:
            if run.record.state.ended or await self._must_end():
                return
            try:
                await self._go_on()
            except BaseException:
                run.attempt = None  # memory may be ahead of the journal: the next call opens it again from there
                raise

    async def _must_end(self) -> bool:
        """Look at what commands may have changed; end the run if it cannot go on."""
        run, context = self._run, self._run.context
        with context.store.read() as connection:
            run.record = run_rows.find_run(connection, run.run_id)
            answers = run_rows.list_approvals(connection, run.run_id)
            active = {
                member.name: member.identity_key for member in member_rows.list_members(connection) if member.active
            }
        gone = [member.id for member in run.rules.roster if active.get(member.id) != bytes.fromhex(member.identity_key)]
        over = len(run.rounds) == run.rules.recipe.rounds
        running = run.record.state is RunState.RUNNING
        back = [answer for answer in answers if not answer.approved and answer.member in run.roster]
        left = [answer for answer in back if answer.code == "E-MEMBER-LEFT"]
        if run.record.abort_requested:
            await self._end(RunState.ABORTED, "E-RUN-FAILED", "the operator ended the run")
        elif left and not over:
            await self._end(RunState.ABORTED, left[0].code, f"{left[0].member} has left the federation")
        elif gone and not over:
            await self._end(RunState.ABORTED, "E-MEMBER-REVOKED", f"the key of {gone[0]} no longer counts")
        elif back and running and not over:
            reason = f"{back[0].member} has taken its approval back: {back[0].because}"
            await self._end(RunState.ABORTED, back[0].code, reason)
        elif not over and run.attempt is None and context.clock.now() >= run.rules.expires_at:
            await self._end(RunState.ABORTED, "E-PLAN-EXPIRED", "the plan expired before the run was over")
        return run.record.state.ended

    async def _go_on(self) -> None:
        run = self._run
        if run.record.held:
            if run.open_position is not None:
                self._abort_attempt(run.open_position, RoundAborted(run.record.code, run.record.reason))
        elif run.record.state is RunState.CREATED:
            await self._await_approvals()
        elif run.attempt is not None:
            if run.attempt.due(run.context.liveness.may_answer(run.roster)):
                await self._close(run.attempt)
        elif len(run.rounds) == run.rules.recipe.rounds:
            await self._finish()
        elif run.open_position is not None:
            await self._open(run.open_position)
        elif run.tried and (hopeless := self._hopeless()):
            await self._end(RunState.ABORTED, run.tried[-1].code, hopeless)
        elif len(run.tried) >= run.rules.max_attempts:
            last = run.tried[-1]
            reason = f"round {last.round} was not completed in {last.attempt} attempts; the last: {last.reason}"
            await self._end(RunState.ABORTED, "E-RUN-FAILED", reason)
        elif not run.record.paused and self._enough_live():
            await self._open(Position(run.plan.hash, len(run.rounds) + 1, len(run.tried) + 1))

    def _hopeless(self) -> str:
        """Return why the round cannot be tried again though attempts are left: too few may still take part; or nothing.

        The cause is that of the first attempt after which this is so, and no other attempt hides it.
        """
        run, last = self._run, self._run.tried[-1]
        if self._judged != (last.round, last.attempt):
            self._judged = last.round, last.attempt
            at = Position(run.plan.hash, last.round, last.attempt)
            self._free = len(run.roster - bound_members(run.context.store, run.run_id, at))
        if self._free >= run.rules.min_survivors:
            return ""
        free = f"only {self._free} of {len(run.roster)} participants have signed no survivors and are in no dispute"
        return f"round {last.round}, attempt {last.attempt}: {last.reason}; it cannot be tried again: {free}"

    async def _await_approvals(self) -> None:
        run = self._run
        for name in sorted(run.roster):
            answer = run.answers.get(name)
            if answer is not None and not answer.approved:
                await self._end(RunState.REFUSED, answer.code, f"{name}: {answer.because}")
                return
        if run.roster <= run.answers.keys():
            with run.context.store.begin() as connection:
                run_rows.set_run_state(connection, run.run_id, RunState.RUNNING, now=run.context.now())
            run.reload_and_notify("run-started", participants=len(run.roster))

    def _enough_live(self) -> bool:
        """Return whether enough participants are there; the first time, wait a little for the whole roster."""
        run, clock = self._run, self._run.context.clock
        live = run.context.liveness.all_live() & run.roster
        if len(live) < run.rules.min_survivors:
            self._quorum_since = None
            return False
        if self._quorum_since is None:
            self._quorum_since = clock.monotonic()
        waited = clock.monotonic() - self._quorum_since
        self._gathered |= live == run.roster or waited >= run.context.settings.durations.gather_seconds
        return self._gathered

    async def _open(self, at: Position) -> None:
        run, context, again = self._run, self._run.context, self._run.open_position is not None
        try:
            run.attempt = await run.work(
                Attempt.open,
                context.store,
                context.spool,
                run.plan,
                run.offer(at),
                clock=context.clock,
                timers=run.timers,
            )
        except ReplayError as error:
            self._abort_attempt(at, RoundAborted(error.code, error.detail))
            return
        run.reload_and_notify(
            "attempt-resumed" if again else "attempt-opened",
            round=at.round,
            attempt=at.attempt,
            phase=run.attempt.machine.phase.name,
        )

    async def _close(self, attempt: Attempt) -> None:
        run, at = self._run, attempt.position
        phase, answered = attempt.machine.phase, attempt.machine.answered()
        if attempt.timer.overdue and (slow := attempt.machine.awaited()):
            run.log.warning("slow-members", round=at.round, attempt=at.attempt, phase=phase.name, members=sorted(slow))
        try:
            await run.work(attempt.close)
        except RoundAborted as aborted:
            late = attempt.timer.expired and aborted.code == "E-ROUND-TOO-FEW"
            self._abort_attempt(at, RoundAborted("E-ROUND-DEADLINE", aborted.reason) if late else aborted)
            return
        if phase is Phase.UNMASK:
            await self._complete_round(attempt, answered)
        run.reload_and_notify(
            "phase-closed", round=at.round, attempt=at.attempt, phase=phase.name, answered=len(answered)
        )

    async def _complete_round(self, attempt: Attempt, answered: frozenset[str]) -> None:
        run, context, at = self._run, self._run.context, attempt.position
        done = await run.work(
            completion.complete_round,
            run.rules,
            run.files,
            attempt.machine.result,
            previous=attempt.machine.offer.previous_transcript,
            now=context.now(),
        )
        with context.store.begin() as connection:
            attempt.journal_close(connection, Phase.UNMASK, answered)
            run_rows.add_round(connection, run.run_id, done)
            attempt_rows.end_attempt(connection, run.run_id, at, "completed", now=context.now())
        run.attempt = None
        context.spool.clear_round(run.run_id, at.round)
        if at.round > 2:  # the round before may still be on its way to a slow member; the start is always needed
            run.files.forget(at.round - 2, keep_released=run.released(at.round - 2) is not None)

    def _abort_attempt(self, at: Position, aborted: RoundAborted) -> None:
        run, now = self._run, self._run.context.now()
        with run.context.store.begin() as connection:
            attempt_rows.end_attempt(
                connection, run.run_id, at, "aborted", now=now, code=aborted.code, reason=aborted.reason
            )
        run.attempt = None
        run.context.spool.clear_round(run.run_id, at.round)  # no upload to it counts any more
        run.reload_and_notify(
            "attempt-aborted", round=at.round, attempt=at.attempt, code=aborted.code, reason=aborted.reason
        )

    async def _finish(self) -> None:
        """After the last round: wait for evaluators that are there, then export, report and complete."""
        run, clock = self._run, self._run.context.clock
        if self._finishing_since is None:
            self._finishing_since = clock.monotonic()
        waited = clock.monotonic() - self._finishing_since
        missing = {name for name in run.evaluators if run.unmeasured(name)} & run.context.liveness.all_live()
        if missing and waited < run.context.settings.durations.evaluation_seconds:
            return
        await self._end(RunState.COMPLETED, "", "")

    async def _end(self, state: RunState, code: str, reason: str) -> None:
        run, context, at = self._run, self._run.context, self._run.open_position
        if run.tried or run.rounds:  # something was started, and so charged: there is something to report
            note = await run.work(release.finish, context.store, context.operator, run.plan, run.files, context.now())
            reason = "; ".join(part for part in (reason, note) if part)
        with context.store.begin() as connection:
            if at is not None:
                attempt_rows.end_attempt(
                    connection, run.run_id, at, "aborted", now=context.now(), code=code, reason=reason
                )
            run_rows.set_run_state(connection, run.run_id, state, now=context.now(), code=code, reason=reason)
        run.attempt = None
        context.spool.clear_run(run.run_id)
        run.reload_and_notify("run-ended", state=state.value, code=code, reason=reason)
