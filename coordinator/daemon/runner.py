"""The coordinator at work: answers the network service for members whose runs this process leads.

Guarantees: implements :class:`coordinator.daemon.backend.Backend`; a call that fails has changed nothing; a member
whose runs another process leads is sent there.
Leaves to others: which runs are led here, and moving them on (``coordinator.leadership``), what members send
(``coordinator.runs.submissions``), members (``membership``), transport (``service``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Final

from coordinator.config import Settings
from coordinator.daemon.polls import Polls
from coordinator.daemon.refusals import RefusalLog
from coordinator.daemon.troubles import Trouble, Troubles
from coordinator.database import run_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.database.store import Store
from coordinator.database.writer import Writer
from coordinator.enrolment.authority import Authority
from coordinator.enrolment.membership import Members
from coordinator.enrolment.renewal import AuthorityKeeper
from coordinator.home import Home
from coordinator.leadership.leadership import Leadership
from coordinator.leadership.led_runs import LedRuns
from coordinator.leadership.presence import Presence
from coordinator.opened import open_content
from coordinator.runs.ledger_heads import LedgerHeads
from coordinator.runs.liveness import Liveness
from coordinator.runs.run import Run, RunContext, in_thread
from coordinator.runs.submissions import Submissions
from coordinator.runs.uploads import UploadStore
from host.logs import get_logger
from privacy.errors import NetworkError, PeerError, Phase
from privacy.interfaces import Clock, RandomSource
from privacy.secagg.messages import Position
from protos.envelope import (
    MAX_CHUNK_BYTES,
    Abstained,
    Enrolment,
    Evaluation,
    Hello,
    MemberLeft,
    Membership,
    NumberedTask,
    PlanApproved,
    PlanRefused,
    RoundKnown,
    RunSubmission,
    Submission,
    Welcome,
)
from protos.renewal import Renewal, RenewalRequest

SUBMISSION_BYTES: Final = 2**16  # of a submission that has no lists: a text of 4000 characters has at most 16 KiB
MEMBER_BYTES: Final = 3 * 2**10  # that a submission has more per member of a roster: in suite 2 a leaf and its boxes
READ_BYTES: Final = MAX_CHUNK_BYTES // 2


class Runner:
    """The backend of the network service."""

    def __init__(
        self,
        store: Store,
        home: Home,
        settings: Settings,
        authority: Authority,
        *,
        clock: Clock,
        random: RandomSource,
    ) -> None:
        durations = settings.durations
        self.liveness = Liveness(clock, grace=durations.liveness_seconds, settling=durations.gather_seconds)
        self._polls = Polls()
        writer, content = Writer(store), open_content(home, settings, store)
        self._desk = RunContext(
            store=store,
            writer=writer,
            heads=LedgerHeads(store, writer),
            home=home,
            settings=settings,
            spool=UploadStore(settings.spool_path(home), blobs=content.blobs if content else None),
            clock=clock,
            liveness=self.liveness,
            operator=authority.operator,
            changed=self._polls.look,
            members=self._known_members,
            content=content,
        )
        self.refusals = RefusalLog(store, clock)
        self.authority = AuthorityKeeper(home, settings, authority, clock=clock, random=random)
        self._members = Members(self._desk, self.authority, random, self.refusals)
        self._log = get_logger("coordinator")
        self._troubles = Troubles(clock)
        address = settings.participants.address
        files = home.run if content is None else None
        leadership = Leadership(store, clock=clock, random=random, address=address, files=files)
        self.presence = Presence(
            store, clock=clock, process=leadership.holder, address=address, shared=settings.placed(home).shared
        )
        self._led = LedRuns(
            self._desk, leadership, self._polls, troubles=self._troubles, refresh_members=self._members.refresh
        )

    # --- runs ---

    async def serve(self) -> None:
        """Move all runs that this process leads on until cancelled."""
        await self._led.serve()

    async def tick(self) -> None:
        """Move every run as far as it goes now; what :meth:`serve` does, one step at a time."""
        await self._led.tick()

    def discover(self) -> None:
        """Look for members and runs that commands have added or changed, and who leads them."""
        self._led.discover()

    def resign(self) -> None:
        """Let other processes lead what this one led."""
        self._led.resign()

    def run(self, run_id: str) -> Run | None:
        """Return a run that is led here or has ended."""
        return self._led.by_id(run_id)

    # --- members ---

    def _known_members(self) -> Mapping[str, MemberRecord]:
        return self._members.known()

    async def enrol(self, request: Enrolment) -> Membership:
        """Spend a token and issue a certificate, in one transaction."""
        return await self._members.enrol(request)

    async def handshake(self, member: str, hello: Hello) -> Welcome:
        """Match versions, note what the member announces, tell it what was last seen of it."""
        self._led.require_here(member)
        return await self._members.handshake(member, hello, self._led.of(member))

    async def admit(self, member: str, certificate: bytes, session: bytes) -> None:
        """Refuse a member that is unknown, revoked or there twice, or whose certificate (DER) is not its newest."""
        await self._members.admit(member, certificate, session)

    async def renew(self, member: str, present: bytes, request: RenewalRequest) -> Renewal:
        """Return a certificate for a member's new TLS key; ``present`` is the one (DER) with which it asks."""
        return await self._members.renew(member, present, request)

    def failed(self, error: Exception) -> None:
        """Take note of an error of this machine that ended a call."""
        self._troubles.note(error)

    def handshake_refused(self, member: str, error: PeerError) -> None:
        """Name a member whose first words could not be read, because it speaks another version above all."""
        self.refusals.note("handshake-refused", member, error.code)

    def over_quota(self, member: str, error: NetworkError) -> None:
        """Name a member that was refused because it asked for too much: to the operator, and in the security log."""
        self._troubles.add(Trouble(error.code, error.detail))
        self.refusals.note("over-quota", member, error.code)

    def troubles(self) -> tuple[Trouble, ...]:
        """Return what the operator should know of: what went wrong here lately, and who is there twice."""
        return (*self._troubles.recent(), *self._members.twice(), *self._led.troubles())

    # --- tasks ---

    async def next_task(self, member: str, seen: frozenset[bytes], wait_seconds: float) -> NumberedTask | None:
        """Return the oldest current task of the member that it has not seen; wait for one up to the given time."""
        self._members.active(member)
        self._led.require_here(member)
        new_here = not self.liveness.live(member)
        with self.liveness.poll(member), self._polls.waiting(member, seen) as woken:
            if new_here:
                for run in self._led.of(member):
                    run.wakeup.set()
            try:
                async with asyncio.timeout(wait_seconds):
                    while (task := self._first_task(member, seen)) is None:
                        await woken.wait()
                        woken.clear()
                        self._members.active(member)
                        self._led.require_here(member)
            except TimeoutError:
                return None
            return task

    def _first_task(self, member: str, seen: frozenset[bytes]) -> NumberedTask | None:
        for run in self._led.of(member):
            for due in run.tasks(member):
                if due.id not in seen and (task := run.made(due)) is not None:
                    return task
        return None

    # --- what members send ---

    def submission_limit(self, member: str) -> int:
        """Return how many bytes a submission of this member may have: the bundle for its largest roster, and a text."""
        return SUBMISSION_BYTES + MEMBER_BYTES * max((len(run.roster) for run in self._led.of(member)), default=0)

    async def submit(self, member: str, submission: Submission, data: bytes = b"") -> None:
        """Take a message; it is durable when this returns. Repeating the same message is not an error."""
        await self._led.led(member)
        if isinstance(submission, MemberLeft):
            await self._members.leave(member, submission, self._led.of(member))
        else:
            self._members.active(member)
            await Submissions(self._run_of(member, submission)).submit(member, submission, data)

    def _run_of(self, member: str, submission: RunSubmission) -> Run:
        match submission:
            case PlanApproved() | PlanRefused() | Evaluation() | Abstained() | RoundKnown():
                return self._run(member, submission.run_id)
            case _:
                plan_hash = submission.position.plan_hash
                found = next((run for run in self._led.of(member) if run.plan.hash == plan_hash), None)
                if found is None:
                    raise PeerError.by_participant(
                        member, "E-ROUND-CONTEXT", Phase.ADVERTISE_KEYS, "no run of this member has this plan"
                    )
                return found

    def _run(self, member: str, run_id: str) -> Run:
        run = self._led.by_id(run_id)
        if run is None or not run.concerns(member):
            raise PeerError.by_participant(member, "E-WIRE-UNEXPECTED", Phase.PLAN, "no run of this member has this id")
        return run

    async def upload_offset(self, member: str, run_id: str, position: Position, sha256: bytes, length: int) -> int:
        """Announce an upload and return from which byte it is to go on (0 at first)."""
        self._members.active(member)
        await self._led.led(member)
        return await Submissions(self._run(member, run_id)).upload_offset(member, position, sha256, length)

    async def write_chunk(
        self, member: str, run_id: str, position: Position, sha256: bytes, offset: int, data: bytes
    ) -> int:
        """Append a chunk whose own hash the service has checked, and return the next offset."""
        self._members.active(member)
        await self._led.led(member)
        return await Submissions(self._run(member, run_id)).write_chunk(member, position, sha256, offset, data)

    async def read_content(self, member: str, sha256: bytes, offset: int) -> AsyncIterator[bytes]:
        """Yield the rest of some content that this member may read, in chunks of at most 1 MiB."""
        self._members.active(member)
        await self._led.led(member)
        runs = self._led.of(member)
        if self._desk.content is None:
            path = _content(runs, sha256)
        else:
            async with self._desk.storing:
                path = await in_thread(_content, runs, sha256)
        if path is None and (plan := self._plan(member, sha256)):
            for start in range(offset, len(plan), READ_BYTES):
                yield plan[start : start + READ_BYTES]
            return
        if path is None:
            raise PeerError.by_participant(
                member, "E-WIRE-UNEXPECTED", Phase.DOWNLOAD, "there is no such content for this member"
            )
        with path.open("rb") as file:
            file.seek(offset)
            while data := file.read(READ_BYTES):
                yield data

    def _plan(self, member: str, plan_hash: bytes) -> bytes | None:
        """Return the plan of a run that a member took part in: whoever lost it asks for it by its hash."""
        with self._desk.store.read() as connection:
            return run_rows.plan_with_hash(connection, plan_hash, member=member)


def _content(runs: Iterable[Run], sha256: bytes) -> Path | None:
    """Return the file of some content of runs; equal content of a run that ended may be gone."""
    paths = (path for run in runs if (path := run.content(sha256)) is not None)
    return next((path for path in paths if path.exists()), None)
