"""A run in memory: its rows, its open attempt, what its members are told and may read.

Guarantees: everything here follows from committed rows and files, so a restarted daemon knows the same, and so does
another process that takes the run over; while a thread works on the round, members are told what they were told before.
Leaves to others: moving a run on (``coordinator.runs.lifecycle``), what members send
(``coordinator.runs.submissions``).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

import methods
from coordinator.config import Settings
from coordinator.database import attempt_rows, run_rows, standing_rows
from coordinator.database.attempt_rows import AttemptRecord, Rows
from coordinator.database.lease_rows import Lease
from coordinator.database.member_rows import MemberRecord
from coordinator.database.run_rows import ApprovalRecord, RoundRecord, RunRecord, RunState
from coordinator.database.store import Store
from coordinator.database.writer import Write, Writer
from coordinator.home import Home
from coordinator.runs.attempt import ADVERTISED, HEADS, Attempt
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.ledger_heads import LedgerHeads
from coordinator.runs.liveness import Latecomers, Liveness, PhaseTimers
from coordinator.runs.tasks import DueTask, RunView, evaluator_tasks, roster_tasks
from coordinator.runs.uploads import UploadStore
from coordinator.storage.content import Change, Content
from host.logs import get_logger
from privacy.errors import Phase
from privacy.heads import HeadsShown
from privacy.interfaces import Clock
from privacy.plan import Plan, VerifiedPlan
from privacy.secagg.hashes import adapter_hash, genesis_transcript
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import AttemptOffer, Position, RoundCertificate, VoidedRound
from protos import codec
from protos.envelope import ContentRef, NumberedTask

COORDINATOR: Final = "coordinator"
STORING: Final = 3  # threads that wait for a slow storage at a time: a few are left for all else
OPENED_WITHIN_SECONDS: Final = 5.0  # a call waits so long for an attempt that a new leader reads
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RunContext:
    """What the runs of one daemon share.

    ``changed`` is called when some members of a run may have new tasks; ``members`` are those enrolled, as last looked
    up.
    """

    store: Store
    writer: Writer
    heads: LedgerHeads
    home: Home
    settings: Settings
    spool: UploadStore
    clock: Clock
    liveness: Liveness
    operator: SigningKey
    changed: Callable[[Run, Collection[str]], None]
    members: Callable[[], Mapping[str, MemberRecord]]
    content: Content | None = None  # where files of runs are kept, if not in the directory alone
    storing: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(STORING)
    )  # held while uploads go there
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while a run looks whose turn it is and opens

    def now(self) -> int:
        """Return the time that rows carry."""
        return int(self.clock.now())

    def files(self, run_id: str) -> RunFiles:
        """Return the files of a run."""
        return RunFiles(self.home.run(run_id), None if self.content is None else self.content.of(run_id))


async def to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Do all of something that changes state: a caller that is cancelled waits for its end.

    A member can cancel its own calls at any moment, and must not thereby choose where the coordinator stops.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at: nobody is left who could be told
        raise


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function in a thread; a caller that is cancelled waits for its end, because a thread cannot be stopped."""
    return await to_the_end(asyncio.to_thread(function, *args, **kwargs))


class Run:
    """One run, with its open attempt if there is one."""

    def __init__(self, context: RunContext, record: RunRecord, lease: Lease) -> None:
        """Read a run.

        Args:
            context: of the daemon.
            record: its row.
            lease: under which this process leads it, or under which it ended.
        """
        self.context = context
        self.record = record
        self.lease = lease
        self.plan = VerifiedPlan.verify(record.plan, record.signature, context.operator.public)
        self.files = context.files(record.run_id)
        self.drafts = self.files.drafts(lease.token)
        self.spool = context.spool.led_by(lease.token)
        self.log = get_logger("coordinator").bind(run=record.run_id)
        self.lock = asyncio.Lock()
        self._uploading: dict[str, asyncio.Lock] = {}
        self.wakeup = asyncio.Event()
        self._attempt: Attempt | None = None
        self._is_open = asyncio.Event()  # an attempt is in memory
        self.timers = PhaseTimers(context.clock, context.settings.durations)
        self.roster = frozenset(member.id for member in self.plan.plan.roster)
        self.evaluators = frozenset(evaluator.id for evaluator in self.rules.evaluation.evaluators)
        keys = [(one.id, one.identity_key) for one in self.rules.roster]
        keys += [(evaluator.id, evaluator.identity_key) for evaluator in self.rules.evaluation.evaluators]
        self.identities = {name: bytes.fromhex(key) for name, key in keys}
        self.members = self.roster | self.evaluators
        self._working = 0
        self._asked_meanwhile: set[str] = set()  # who asked for tasks while a thread worked
        self._behind = True
        self._view: RunView | None = None
        self._offered_tasks: dict[str, tuple[DueTask, ...]] = {}
        self._made: dict[bytes, NumberedTask] = {}  # tasks that many members are told alike
        self.last_heads: dict[str, HeadsShown] = {}  # that each member showed last, whatever the attempt
        start = np.memmap(self.files.iterate(0), mode="r").data  # hashed where it lies: it may be long
        self._start = ContentRef(hashlib.sha256(start).digest(), len(start))
        self._start_hash = adapter_hash(start)
        self._initial = ContentRef(
            bytes.fromhex(self.rules.recipe.adapter.initial_hash), self.files.initial.stat().st_size
        )
        self._exact_step = methods.get(self.rules.recipe.adapter.method).exact_step
        self._iterate: ContentRef | None = None  # travels where the method's step is not the same to the bit
        self.answers: dict[str, ApprovalRecord] = {}
        self.tried: tuple[AttemptRecord, ...] = ()  # attempts at the round that is not completed yet
        self.rounds: tuple[RoundRecord, ...] = ()
        self.measured: set[tuple[int, str]] = set()
        self.latecomers = Latecomers()
        self.excluded: dict[str, int] = {}  # by the operator -> the event of it
        self.known_round: dict[str, int]  # participant -> last round that it has been shown to know
        self._closed: tuple[RoundCertificate | VoidedRound, ...] = ()
        self.erased = context.content is None  # what storage, or a disk that refused, has yet of a run that has ended
        with context.store.read() as connection:
            advertised = attempt_rows.last_rounds_of(connection, self.run_id, ADVERTISED)
            self.known_round = {name: max(0, advertised.get(name, 0) - 1) for name in self.roster}
            for name, phase in standing_rows.list_late(connection, self.run_id):
                self.latecomers.was_late(name, Phase[phase])
                self.latecomers.heard_of(name)  # since then, for all that is known: its handshake is about to come
        self.read()

    @property
    def run_id(self) -> str:
        """The run."""
        return self.record.run_id

    @property
    def rules(self) -> Plan:
        """The plan's fields."""
        return self.plan.plan

    @property
    def over(self) -> bool:
        """Whether nothing is to be done for it any more."""
        return self.record.state.ended and self.erased

    @property
    def attempt(self) -> Attempt | None:
        """The open attempt, once its journal was read."""
        return self._attempt

    @attempt.setter
    def attempt(self, opened: Attempt | None) -> None:
        self._attempt = opened
        if opened is None:
            self._is_open.clear()
        else:
            self._is_open.set()

    async def opened(self) -> None:
        """Wait, a bounded time, while the journal of the open attempt is being read, by a leader that has just begun.

        Whoever is refused meanwhile comes again only with its next poll.
        """
        if self.open_position is not None and self.attempt is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_open.wait(), OPENED_WITHIN_SECONDS)

    def concerns(self, member: str) -> bool:
        """Return whether a member takes part in this run."""
        return member in self.roster or member in self.evaluators

    # --- keeping up with the rows ---

    def read(self) -> None:
        """Read the rows again after a change of theirs, and forget what members were told; all of it, or nothing.

        Answers to the plan, measurements and heads are read only where memory is not known to have them.
        """
        behind = self._behind
        with self.context.store.read() as connection:
            record = run_rows.refreshed(connection, self.record)
            fresh = run_rows.list_rounds(connection, self.run_id, after=len(self.rounds))
            tried = attempt_rows.list_attempts(connection, self.run_id, after=len(self.rounds) + len(fresh))
            if behind:
                approvals = run_rows.list_approvals(connection, self.run_id)
                measured = run_rows.list_evaluations(connection, self.run_id)
                shown = attempt_rows.last_by_sender(connection, self.run_id, HEADS.values())
        if fresh:  # a leader that was killed after its commit may have left the last one to be published
            self.files.publish(fresh[-1].round, fresh[-1].adapter_hash)
        iterate = None if self._exact_step or not fresh else self.files.iterate(fresh[-1].round).read_bytes()
        closed = [self._closing(one) for one in fresh]
        if behind:
            last = {name: codec.decode_submission(event.body, sender=name) for name, event in shown.items()}
            self.answers = {approval.member: approval for approval in approvals}
            self.measured = {(one.round, one.evaluator) for one in measured}
            self.last_heads = {name: heads for name, heads in last.items() if isinstance(heads, HeadsShown)}
        self.record, self.tried = record, tried
        self.rounds, self._closed = (*self.rounds, *fresh), (*self._closed, *closed)
        if iterate is not None:
            self._iterate = ContentRef(hashlib.sha256(iterate).digest(), len(iterate))
        self._forget_offered()
        self._behind = False

    def rows(self) -> Rows:
        """Return the rows that are committed next; if they cannot be, memory is not trusted any more."""
        return self.context.writer.rows(self.lease, self.distrust_memory)

    def also(self, write: Write, on_failure: Callable[[], None] = lambda: None) -> None:
        """Add any other statement about this run to what is committed next."""
        self.context.writer.also(self.lease, write, on_failure)

    async def written(self) -> None:
        """Wait, holding the lock no longer, until all that was added is durable; meanwhile nobody is told more.

        The caller holds the lock, and has it again when this returns or raises.
        """
        self._working += 1
        self.lock.release()
        try:
            await self.context.writer.written()
        finally:
            await to_the_end(self.lock.acquire())
            self._working -= 1
            self._answer_who_asked()

    def uploading(self, member: str) -> asyncio.Lock:
        """Return the lock of a member's own uploads, which go to its own file."""
        return self._uploading.setdefault(member, asyncio.Lock())

    def distrust_memory(self) -> None:
        """After a failure: memory may be ahead of the rows, or behind what was committed before the answer was lost.

        The attempt is opened again from its journal, and :meth:`catch_up` reads the rows before anything else is done.
        """
        self.attempt = None
        self._view = None
        self._behind = True

    def distrust_answers(self) -> None:
        """Read the answers to the plan again with the next :meth:`read`: something else has written them."""
        self._behind = True

    def catch_up(self) -> None:
        """Read the rows if memory is not known to agree with them."""
        if self._behind:
            self.read()

    def _closing(self, done: RoundRecord) -> RoundCertificate | VoidedRound:
        if done.voided:
            return VoidedRound(self.plan.hash, done.round)
        certificate: RoundCertificate = codec.decode_certificate(done.certificate, sender=COORDINATOR)
        return certificate

    def exclude(self, excluded: dict[str, int]) -> None:
        """Take note of whom the operator leaves out now."""
        self.excluded = excluded
        self.reload_and_notify("members-excluded", members=", ".join(sorted(excluded)))

    def reload_and_notify(self, event: str, **details: str | int) -> None:
        """After a committed change: read, log, and wake whoever has a new task."""
        self.reload(event, **details)
        self.notify()

    def reload(self, event: str, **details: str | int) -> None:
        """After a committed change of which members are told only with the next one: read and log."""
        self.read()
        self.log.info(event, **details)

    def notify(self) -> None:
        """Wake whoever has a new task, and move the run on."""
        self.wakeup.set()
        self.context.changed(self, self.members)

    async def work(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run something long in a thread; members are told what they were told before until it is done."""
        self._working += 1
        try:
            return await in_thread(function, *args, **kwargs)
        finally:
            self._working -= 1
            self._answer_who_asked()

    async def stored(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As :meth:`work`, of something that may wait for a slow storage: a few do so at a time."""
        if self.context.content is None:
            return await self.work(function, *args, **kwargs)
        async with self.context.storing:
            return await self.work(function, *args, **kwargs)

    def clear(self) -> None:
        """Publish what a run leaves that has ended under this lease, and remove its uploads and sums.

        Nobody needs these any more, but the sum of a measurement.
        """
        self.files.publish_end(self.lease.token)
        if not self.context.spool.clear_run(self.run_id):
            self.erased = False
        if self.rules.recipe.measured is None:
            self.files.forget_sums()

    def erase(self) -> None:
        """Remove what nobody needs of a run that has ended, also from where files are kept elsewhere.

        Raises:
            LocalError: ``E-DISK-*`` or ``E-STORAGE-AWAY``: to be tried again.
        """
        self.spool.erase_run(self.run_id)
        if self.files.content is not None:
            self.files.content.sweep()
        self.erased = True

    def keep_round(self, number: int) -> Change | None:
        """Keep what was written of a round elsewhere, if files are; return what the transaction says of it."""
        before = number - 1  # the start is always needed
        released = before >= 1 and self.released(before) is not None
        superseded = self.files.superseded(before, keep_released=released) if before else ()
        return self.files.keep_round(number, self.drafts, superseded)

    def keep_end(self) -> Change | None:
        """As :meth:`keep_round`, of what was written at the run's end."""
        return self.files.keep_end(self.drafts, sums=self.rules.recipe.measured is not None)

    # --- what the next attempt starts from ---

    @property
    def open_position(self) -> Position | None:
        """The position of the attempt that the rows have as open."""
        last = self.tried[-1] if self.tried else None
        return None if last is None or last.state != "open" else Position(self.plan.hash, last.round, last.attempt)

    def offer(self, at: Position) -> AttemptOffer:
        """Return the offer of an attempt at the next round."""
        last = self.rounds[-1] if self.rounds else None
        return AttemptOffer(
            position=at,
            previous_transcript=last.transcript if last else genesis_transcript(self.plan.hash),
            adapter_hash=last.adapter_hash if last else self._start_hash,
        )

    # --- evaluation ---

    def released(self, round_number: int) -> ContentRef | None:
        """Return the released adapter that is measured after a round, or ``None`` if none is (yet)."""
        last, every = self.rules.recipe.rounds, self.rules.evaluation.every
        if round_number == 0:
            return self._start
        if round_number > len(self.rounds) or not (round_number % every == 0 or round_number == last):
            return None
        done = self.rounds[round_number - 1]
        return ContentRef(done.released_sha256, done.length)

    def unmeasured(self, evaluator: str) -> list[tuple[int, ContentRef]]:
        """Return the adapters that an evaluator should still measure, by round."""
        if self.record.state in (RunState.CREATED, RunState.REFUSED):
            return []
        candidates = ((number, self.released(number)) for number in range(len(self.rounds) + 1))
        return [
            (number, adapter)
            for number, adapter in candidates
            if adapter is not None and (number, evaluator) not in self.measured
        ]

    # --- what members are told and may read ---

    def tasks(self, member: str) -> tuple[DueTask, ...]:
        """Return a member's current tasks, oldest first; nothing new while a thread works on the round."""
        if member not in self._offered_tasks:
            if self._working:
                self._asked_meanwhile.add(member)
                return ()
            self._offered_tasks[member] = tuple(self._tasks(member))
        return self._offered_tasks[member]

    def made(self, due: DueTask) -> NumberedTask | None:
        """Return a task as it is told, if it still is one; what many are told alike is made once."""
        numbered = self._made.get(due.alike) if due.alike else None
        if numbered is None:
            numbered = due.numbered()
            if numbered is not None and due.alike:
                self._made[due.alike] = numbered
        return numbered

    def answered(self, member: str) -> None:
        """Look anew at what a member is asked for, because it has answered."""
        self._offered_tasks.pop(member, None)
        self.tasks(member)

    def _forget_offered(self) -> None:
        """Forget what members were told, because something has changed."""
        self._offered_tasks.clear()
        self._made.clear()
        self._view = None

    def _answer_who_asked(self) -> None:
        """Let those look again who asked for tasks while a thread worked."""
        if self._asked_meanwhile and not self._working:
            asked, self._asked_meanwhile = self._asked_meanwhile, set()
            self.context.changed(self, asked)

    def _tasks(self, member: str) -> list[DueTask]:
        answer = self.answers.get(member)
        if member in self.evaluators:
            due = [] if answer is not None and not answer.approved else self.unmeasured(member)
            return list(evaluator_tasks(self._seen_as(), answered_plan=answer is not None, due=due))
        knows = self.known_round[member]
        return list(roster_tasks(self._seen_as(), member, answered_plan=answer is not None, knows=knows))

    def _seen_as(self) -> RunView:
        """Return what tasks follow from; made anew after a change."""
        if self._view is None:
            self._view = self._look()
        return self._view

    def _look(self) -> RunView:
        last = self.tried[-1] if self.tried else None
        failed = last if last is not None and last.state == "aborted" else None
        return RunView(
            plan=self.rules,
            plan_bytes=self.record.plan,
            signature=self.record.signature,
            initial_adapter=self._initial,
            state=self.record.state,
            code=self.record.code,
            closed=self._closed,
            machine=self.attempt.machine if self.attempt else None,
            sums=tuple(None if done.voided else ContentRef(done.sum_sha256, done.sum_length) for done in self.rounds),
            adapter=self._iterate,
            heads=self.attempt.heads if self.attempt else {},
            aborted=(Position(self.plan.hash, failed.round, failed.attempt), failed.code) if failed else None,
            excluded=self.excluded,
        )

    def content(self, sha256: bytes) -> Path | None:
        """Return the file of some content that the members of this run may read."""
        if sha256 == self._initial.sha256:
            return self.files.initial
        if self._iterate is not None and sha256 == self._iterate.sha256:
            return self.files.iterate(len(self.rounds))
        for done in reversed(self.rounds):
            if sha256 == done.sum_sha256 and not done.voided:
                return self.files.sum(done.round)
        for number in range(len(self.rounds), -1, -1):
            released = self.released(number)
            if released is not None and released.sha256 == sha256:
                return self.files.released(number)
        return None
