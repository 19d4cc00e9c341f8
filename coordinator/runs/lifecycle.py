"""The life of a run: approvals, rounds, attempts, the end.

Guarantees: every run reaches a terminal state within its deadlines; nothing is offered or told before it is committed;
after a restart a run goes on from its rows alone.
Leaves to others: the protocol (``coordinator.protocol.round``), the numbers of a completed round
(``coordinator.runs.completion``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, ParamSpec

from coordinator.database import attempt_rows, run_rows, standing_rows, turn_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.database.run_rows import RoundRecord, RunState
from coordinator.runs import completion, release
from coordinator.runs.attempt import RESTARTED, Attempt, ReplayError, bound_members, restarted_members
from coordinator.runs.run import Run
from coordinator.storage.content import Change, left_for_later
from privacy.errors import LocalError, Phase, RoundAborted
from privacy.secagg.messages import Position

P = ParamSpec("P")
SHOWN_MEMBERS: Final = 50  # that a next step names
FAILURES: Final = 3  # of a round, after which it is not tried again though the plan may have more attempts


class Lifecycle:
    """Moves one run on; :meth:`advance` is called after every change and a few times a second."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._advancing = asyncio.Lock()  # one step at a time, though the run's own lock is given up in between
        self._look = True
        self._gathered = False
        self._members: Mapping[str, MemberRecord] | None = (
            None  # as they were when somebody's key last stopped counting
        )
        self._without_key: list[str] = []
        self._judged: tuple[int, int] | None = None  # the aborted attempt after which those who may go on were counted
        self._free = 0
        self._quorum_since: float | None = None
        self._finishing_since: float | None = None
        self._waits_for = ""  # the run whose turn it is, as last logged
        self._rosters: dict[str, frozenset[str]] = {}  # of runs that it has waited for

    def look_again(self) -> None:
        """Let the next step look at what commands may have changed, which reads the database."""
        self._look = True

    async def advance(self) -> None:
        """Do the next thing that is due: end, start, open, close or complete."""
        run = self._run
        async with self._advancing, run.lock:
            run.catch_up()
            if run.record.state.ended:
                if not run.erased:
                    await run.stored(run.erase)
                return
            try:
                if not (self._look and await self._must_end()):
                    self._look = False
                    await self._go_on()
            except BaseException:
                run.distrust_memory()
                raise

    async def _must_end(self) -> bool:
        """Look at what commands may have changed; end the run if it cannot go on."""
        run, context = self._run, self._run.context
        with context.store.read() as connection:
            run.record = run_rows.refreshed(connection, run.record)
            excluded = standing_rows.excluded_members(connection, run.run_id)
        if excluded != run.excluded:
            run.exclude(excluded)
        gone = self._gone()
        over = len(run.rounds) == run.rules.recipe.rounds
        running = run.record.state is RunState.RUNNING
        refused = [answer for answer in run.answers.values() if not answer.approved and answer.member in run.roster]
        back = sorted(refused, key=lambda answer: (answer.at, answer.member))
        left = [answer for answer in back if answer.code == "E-MEMBER-LEFT"]
        if run.record.abort_requested:
            await self._end(RunState.ABORTED, "E-RUN-ENDED", "the operator ended the run")
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

    def _gone(self) -> list[str]:
        """Return whose key no longer counts; looked for once after each change among the members."""
        run, members = self._run, self._run.context.members()
        if members is not self._members:
            active = {name: member.identity_key for name, member in members.items() if member.active}
            self._members = members
            self._without_key = [name for name in sorted(run.roster) if active.get(name) != run.identities[name]]
        return self._without_key

    async def _go_on(self) -> None:
        run = self._run
        if run.record.held:
            if run.open_position is not None:
                await self._abort_attempt(run.open_position, RoundAborted(run.record.code, run.record.reason))
        elif run.record.state is RunState.CREATED:
            await self._await_approvals()
        elif run.attempt is not None:
            run.attempt.stop_waiting(run.excluded)
            late = run.latecomers.in_phase(run.attempt.machine.phase)
            if run.attempt.due(run.context.liveness.may_answer, late):
                await self._close(run.attempt)
        elif len(run.rounds) == run.rules.recipe.rounds:
            await self._finish()
        elif run.open_position is not None:
            await self._open(run.open_position)
        elif run.tried and (hopeless := self._hopeless()):
            await (self._void(hopeless) if self._may_void() else self._end_with_last(hopeless))
        elif self._used_up():
            last = run.tried[-1]
            reason = f"round {last.round} was not completed in {last.attempt} attempts; the last: {last.reason}"
            await self._end(RunState.ABORTED, "E-RUN-FAILED", reason)
        elif not run.record.paused and self._enough_live():
            await self._open_in_turn(Position(run.plan.hash, len(run.rounds) + 1, len(run.tried) + 1))

    def _used_up(self) -> bool:
        """Return whether the round is not tried again: it failed too often, or has had all attempts of the plan.

        An attempt that ended because somebody restarted is none of the failures.
        """
        tried = self._run.tried
        failed = sum(attempt.code != RESTARTED for attempt in tried)
        return failed >= FAILURES or len(tried) >= self._run.rules.max_attempts

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
        if run.excluded:
            free += f"; excluded by the operator: {', '.join(sorted(run.excluded))}"
        return f"round {last.round}, attempt {last.attempt}: {last.reason}; it cannot be tried again: {free}"

    def _may_void(self) -> bool:
        """Return whether the run may go on without this round's sum.

        Not without noise (docs/protocol.md section 6), not where no round follows, and not twice in a row: a member
        that spoils every round must not spend everybody's budget.
        """
        run, last = self._run, self._run.tried[-1]
        before = run.rounds[-1].voided if run.rounds else False
        return run.rules.privacy.noised and last.round < run.rules.recipe.rounds and not before

    async def _end_with_last(self, reason: str) -> None:
        await self._end(RunState.ABORTED, self._run.tried[-1].code, reason)

    async def _void(self, reason: str) -> None:
        """Close a round that can have no sum any more; the next one starts from the adapter before it."""
        run, context, last = self._run, self._run.context, self._run.tried[-1]
        at = Position(run.plan.hash, last.round, last.attempt)
        done = await run.stored(
            completion.void_round,
            run.rules,
            run.files,
            at,
            drafts=run.drafts,
            previous=run.offer(at).previous_transcript,
            now=context.now(),
        )
        change = await self._kept(run.keep_round, done.round)
        run.also(lambda connection: run_rows.add_round(connection, run.run_id, done))
        await run.written()
        await run.stored(self._settle, done, change)
        run.reload_and_notify("round-voided", round=at.round, reason=reason)

    async def _await_approvals(self) -> None:
        run = self._run
        refusals = [answer for name in sorted(run.roster) if (answer := run.answers.get(name)) and not answer.approved]
        if refusals:
            names = [answer.member for answer in refusals]
            others = ",".join(sorted(run.roster.difference(names))[:SHOWN_MEMBERS])
            said = "; ".join(f"{answer.member}: {answer.because}" for answer in refusals)
            next_step = f"to go on without {', '.join(names)}: onlysum coordinator run create DRAFT --members {others}"
            run.log.warning(
                "plan-refused-by", members=names, codes=[answer.code for answer in refusals], next=next_step
            )
            await self._end(RunState.REFUSED, refusals[0].code, f"{said}; {next_step}")
            return
        if run.roster <= run.answers.keys():
            now = run.context.now()
            run.also(lambda connection: run_rows.set_run_state(connection, run.run_id, RunState.RUNNING, now=now))
            await run.written()
            run.reload_and_notify("run-started", participants=len(run.roster))

    def _enough_live(self) -> bool:
        """Return whether enough participants are there; the first time, wait a little for all of them.

        Who was late and has sent nothing since does not count: attempts that it alone could complete are not spent.
        """
        run, clock = self._run, self._run.context.clock
        wanted = run.roster - run.excluded.keys() - run.latecomers.silent
        live = run.context.liveness.all_live() & wanted
        if len(live) < run.rules.min_survivors:
            self._quorum_since = None
            return False
        if self._quorum_since is None:
            self._quorum_since = clock.monotonic()
        waited = clock.monotonic() - self._quorum_since
        self._gathered |= live == wanted or waited >= run.context.settings.durations.gather_seconds
        return self._gathered

    async def _open_in_turn(self, at: Position) -> None:
        """Open a new attempt, unless another run has some of the participants: a machine trains one run at a time.

        An attempt that is open already is never waited with: it has been offered.
        """
        run, context = self._run, self._run.context
        async with context.opening:  # two runs of this daemon must not both find that it is their turn
            ahead = await run.work(self._ahead)
            if ahead != self._waits_for:
                self._waits_for = ahead
                run.log.info("run-waits" if ahead else "run-goes-on", other=ahead)
            if not ahead:
                await self._open(at)

    def _ahead(self) -> str:
        """Return the id of the run that this one waits for; empty if it is its turn."""
        run, context = self._run, self._run.context
        stalled = turn_rows.stalled_after(context.settings.durations.gather_seconds)
        with context.store.read() as connection:
            return turn_rows.ahead(connection, run.record, now=context.now(), stalled=stalled, rosters=self._rosters)

    async def _open(self, at: Position) -> None:
        run, context, again = self._run, self._run.context, self._run.open_position is not None
        try:
            run.attempt = await run.stored(
                Attempt.open,
                context.store,
                run.spool,
                run.plan,
                run.offer(at),
                lease=run.lease,
                rows=run.rows,
                clock=context.clock,
                timers=run.timers,
            )
        except ReplayError as error:
            await self._abort_attempt(at, RoundAborted(error.code, error.detail))
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
        if attempt.timer.overdue:
            self._note_late(attempt, attempt.machine.awaited() & run.context.liveness.all_live())
        try:
            await run.work(attempt.close)
        except RoundAborted as aborted:
            await self._abort_attempt(at, RoundAborted(await self._cause(attempt, aborted), aborted.reason))
            return
        if run.attempt is not attempt:  # what it builds on could not be committed: it is opened again
            return
        if phase is Phase.UNMASK:
            await self._complete_round(attempt, answered)
        else:
            attempt.journal_close(phase, answered)
            await run.written()
        run.reload("phase-closed", round=at.round, attempt=at.attempt, phase=phase.name, answered=len(answered))
        if phase is Phase.UNMASK and len(run.rounds) < run.rules.recipe.rounds and not await self._must_end():
            await (
                self._go_on()
            )  # the next offer brings the certificate: one thing to tell, and not two after each other
        run.notify()

    def _note_late(self, attempt: Attempt, late: frozenset[str]) -> None:
        """Note who let a phase go by though its daemon is connected; others are away, which costs nobody a wait."""
        if not late:
            return
        run, at, phase = self._run, attempt.position, attempt.machine.phase
        run.log.warning("late-members", round=at.round, attempt=at.attempt, phase=phase.name, members=sorted(late))
        now = run.context.now()
        run.also(
            lambda connection: standing_rows.add_late(connection, run.run_id, sorted(late), phase=phase.name, now=now)
        )
        for member in late:
            run.latecomers.was_late(member, phase)

    async def _cause(self, attempt: Attempt, aborted: RoundAborted) -> str:
        """Return the code of an attempt that ended early: restarts and slowness are told apart from other failures."""
        run, machine = self._run, attempt.machine
        if aborted.code != "E-ROUND-TOO-FEW":
            return aborted.code
        missing = machine.expected() - machine.answered()
        await run.written()  # so that all abstentions can be read
        if missing and missing <= restarted_members(run.context.store, run.run_id, attempt.position):
            return RESTARTED
        return "E-ROUND-DEADLINE" if attempt.timer.expired else aborted.code

    async def _complete_round(self, attempt: Attempt, answered: frozenset[str]) -> None:
        run, context, at = self._run, self._run.context, attempt.position
        done = await run.stored(
            completion.complete_round,
            run.rules,
            run.files,
            attempt.machine.result,
            drafts=run.drafts,
            previous=attempt.machine.offer.previous_transcript,
            now=context.now(),
        )
        change = await self._kept(run.keep_round, at.round)
        if run.attempt is not attempt:
            raise LocalError("E-STATE-BUSY", "what the round builds on could not be committed: it is opened again")
        attempt.journal_close(Phase.UNMASK, answered)
        now = context.now()
        run.also(lambda connection: run_rows.add_round(connection, run.run_id, done))
        run.also(lambda connection: attempt_rows.end_attempt(connection, run.run_id, at, "completed", now=now))
        await run.written()
        run.attempt = None
        await run.stored(self._settle, done, change)

    async def _kept(self, keep: Callable[P, Change | None], *args: P.args, **kwargs: P.kwargs) -> Change | None:
        """Keep files elsewhere, if they are, and add what is said of them to what is committed next."""
        run = self._run
        change = None if run.files.content is None else await run.stored(keep, *args, **kwargs)
        if change is not None:
            run.also(change.write)
        return change

    def _settle(self, done: RoundRecord, change: Change | None) -> None:
        """Publish a round that was committed; remove uploads to it, and the adapter that it started from."""
        run, number = self._run, done.round
        run.files.publish(number, done.adapter_hash)
        run.spool.clear_round(run.run_id, number, done.attempt)
        if number > 1:  # the start is always needed
            with left_for_later(run.run_id):
                run.files.forget(number - 1, keep_released=run.released(number - 1) is not None)
        if change is not None and run.files.content is not None:
            with left_for_later(run.run_id):
                run.files.content.delete(change.dropped)

    async def _abort_attempt(self, at: Position, aborted: RoundAborted) -> None:
        run, now = self._run, self._run.context.now()
        run.also(
            lambda connection: attempt_rows.end_attempt(
                connection, run.run_id, at, "aborted", now=now, code=aborted.code, reason=aborted.reason
            )
        )
        await run.written()
        run.attempt = None
        if run.spool.elsewhere:
            await run.stored(run.spool.clear_round, run.run_id, at.round, at.attempt)
        else:
            run.spool.clear_round(run.run_id, at.round, at.attempt)  # no upload to it counts any more
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
        await run.written()  # so that the report finds all of it
        if run.tried or run.rounds:  # something was started, and so charged: there is something to report
            note = await run.stored(
                release.finish,
                context.store,
                context.operator,
                run.plan,
                run.files,
                drafts=run.drafts,
                now=context.now(),
            )
            reason = "; ".join(part for part in (reason, note) if part)
            await self._kept(run.keep_end)
        now = context.now()
        if at is not None:
            run.also(
                lambda connection: attempt_rows.end_attempt(
                    connection, run.run_id, at, "aborted", now=now, code=code, reason=reason
                )
            )
        run.also(
            lambda connection: run_rows.set_run_state(connection, run.run_id, state, now=now, code=code, reason=reason)
        )
        await run.written()
        run.attempt = None
        run.clear()
        run.reload_and_notify("run-ended", state=state.value, code=code, reason=reason)
