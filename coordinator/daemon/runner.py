"""The coordinator at work: answers the network service, and moves every run on.

Guarantees: implements :class:`coordinator.daemon.backend.Backend`; a call that fails has changed nothing; runs that
commands create, pause or end are noticed within :data:`TICK_SECONDS`; one run's trouble never stops another; a database
that is away or busy, or a full disk, is waited out.
Leaves to others: runs (``coordinator.runs.lifecycle``, ``coordinator.runs.submissions``), transport
(``coordinator.daemon.service``).
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Final

import structlog

from coordinator.config import Settings
from coordinator.daemon.quotas import HandshakeRate
from coordinator.daemon.refusals import RefusalLog, noting_refusals
from coordinator.daemon.sessions import Sessions
from coordinator.daemon.troubles import Trouble, Troubles
from coordinator.database import attempt_rows, member_rows, run_rows
from coordinator.database.engines import passing
from coordinator.database.member_rows import MemberRecord, TokenRecord
from coordinator.database.store import Store
from coordinator.enrolment import authority as authorities
from coordinator.enrolment.authority import Authority
from coordinator.home import Home
from coordinator.runs.attempt import HEADS
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.liveness import Liveness
from coordinator.runs.run import Run, RunContext
from coordinator.runs.submissions import Submissions
from coordinator.runs.uploads import UploadStore
from host import credentials
from privacy.errors import LocalError, NetworkError, OnlysumError, PeerError, Phase
from privacy.interfaces import Clock, RandomSource
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import keys
from privacy.secagg.keys import framed
from privacy.secagg.messages import Position
from protos import codec
from protos.envelope import (
    MAX_CHUNK_BYTES,
    Abstained,
    Enrolment,
    Evaluation,
    HeadsShown,
    Hello,
    MemberEntry,
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
from protos.invitation import leaving_bytes, token_hash

TICK_SECONDS: Final = 0.25  # how often rows are looked at that commands may have written
TROUBLE_SECONDS: Final = 2.0  # before a run that met a local error, such as a full disk, is tried again
ENDED_SECONDS: Final = 7 * 86_400  # for so long members are told that a run has ended
SUBMISSION_BYTES: Final = 2**16  # of a submission that has no lists: a text of 4000 characters has at most 16 KiB
MEMBER_BYTES: Final = 3 * 2**10  # that a submission has more per member of a roster: in suite 2 a leaf and its boxes
TWICE: Final = "neither of its two daemons is served until one has been stopped"
READ_BYTES: Final = MAX_CHUNK_BYTES // 2


class Runner:
    """The backend of the network service, with one driver task for each run that goes on."""

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
        self._desk = RunContext(
            store=store,
            home=home,
            settings=settings,
            spool=UploadStore(settings.spool_path(home)),
            clock=clock,
            liveness=self.liveness,
            operator=authority.operator,
            changed=self._wake,
        )
        self._authority = authority
        self._random = random
        self._log = structlog.get_logger("coordinator")
        self._handshakes = HandshakeRate(clock)
        self._sessions = Sessions(clock)
        self._troubles = Troubles(clock)
        self.refusals = RefusalLog(store, clock)
        self._change = asyncio.Event()
        self._members: dict[str, MemberRecord] = {}
        self._runs: dict[str, Run] = {}
        self._lives: dict[str, Lifecycle] = {}
        self._unreadable: set[str] = set()
        self._drivers: dict[str, asyncio.Task[None]] = {}

    # --- runs ---

    async def serve(self) -> None:
        """Move all runs on until cancelled."""
        try:
            while True:
                await self._discover_when_possible()
                for run_id, life in self._lives.items():
                    if run_id not in self._drivers and not self._runs[run_id].record.state.ended:
                        self._drivers[run_id] = asyncio.create_task(self._drive(self._runs[run_id], life))
                self._drivers = {run_id: task for run_id, task in self._drivers.items() if not task.done()}
                await asyncio.sleep(TICK_SECONDS)
        finally:
            for task in self._drivers.values():
                task.cancel()
            await asyncio.gather(*self._drivers.values(), return_exceptions=True)

    async def tick(self) -> None:
        """Move every run as far as it goes now; what :meth:`serve` does, one step at a time."""
        self.discover()
        for run_id, life in self._lives.items():
            run = self._runs[run_id]
            run.wakeup.set()
            while run.wakeup.is_set():
                run.wakeup.clear()
                await life.advance()

    async def _discover_when_possible(self) -> None:
        """Look for changes; a database that cannot be read now is asked again until it can, and said so once."""
        waited = False
        while True:
            try:
                self.discover()
            except LocalError as error:
                if not passing(error):
                    raise
                if not waited:
                    self._log.warning("database-away", code=error.code, error=error.detail)
                waited = True
                await asyncio.sleep(TROUBLE_SECONDS)
            else:
                if waited:
                    self._log.info("database-back")
                return

    def discover(self) -> None:
        """Look for members and runs that commands have added or changed."""
        after = self._desk.now() - ENDED_SECONDS
        with self._desk.store.read() as connection:
            self._members = {member.name: member for member in member_rows.list_members(connection)}
            fresh = [run_id for run_id in run_rows.run_ids(connection, ended_after=after) if run_id not in self._runs]
            records = [run_rows.find_run(connection, one) for one in fresh if one not in self._unreadable]
        for record in records:
            try:
                run = Run(self._desk, record)
            except (OnlysumError, OSError) as error:
                if passing(error):
                    raise
                self._unreadable.add(record.run_id)
                self._log.error("run-unreadable", run=record.run_id, error=str(error))
                continue
            if record.state.ended:
                run.clear()  # a crash may have come between the end and this
            self._runs[record.run_id], self._lives[record.run_id] = run, Lifecycle(run)
            self._wake()

    async def _drive(self, run: Run, life: Lifecycle) -> None:
        while not run.record.state.ended:
            run.wakeup.clear()
            try:
                await life.advance()
            except Exception as error:  # noqa: BLE001  # a full disk, a damaged file: logged, and tried again
                self._troubles.note(error)
                self._log.error("run-in-trouble", run=run.run_id, error=str(error), exc_info=not passing(error))
                await asyncio.sleep(TROUBLE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(run.wakeup.wait(), TICK_SECONDS)

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    # --- joining ---

    @noting_refusals("enrolment-refused", lambda request: str(request.name))
    async def enrol(self, request: Enrolment) -> Membership:
        """Spend a token and issue a certificate, in one transaction."""
        settings, now = self._desk.settings, self._desk.now()
        _check_version(request.name, request.protocol_version)
        authorities.check_enrolment(request, federation=settings.federation)
        tls_key = credentials.spki(authorities.check_request(request.certificate_request, request.name))
        request_hash = hashlib.sha256(framed(tls_key, request.identity_key)).digest()
        try:
            with self._desk.store.begin() as connection:
                token = member_rows.check_token(
                    connection,
                    token_id=request.token_id,
                    secret_hash=token_hash(request.token_id, request.token_secret),
                    name=request.name,
                    request_hash=request_hash,
                    now=now,
                )
                member = member_rows.find_member(connection, request.name)
                if token.used_at is None:
                    member = self._new_member(request, token, member, now)
                    member_rows.enrol_member(connection, member, token_id=token.token_id, request_hash=request_hash)
        except PeerError as refused:
            if refused.code == "E-TOKEN-USED":  # whoever comes here knew the secret: somebody should hear of it
                with self._desk.store.begin() as connection:
                    member_rows.log_security(connection, now, "token-reused", request.name, request.token_id)
            raise
        if member is None or not member.active:
            raise PeerError.by_participant(
                request.name, "E-MEMBER-REVOKED", Phase.ENROLMENT, "the operator revoked its key"
            )
        self._members[member.name] = member
        self._log.info("enrolled", member=member.name, role=member.role.value)
        ca = self._authority.ca_certificate
        return Membership(settings.federation, member.name, member.role, member.certificate, ca)

    def _new_member(self, request: Enrolment, token: TokenRecord, known: MemberRecord | None, now: int) -> MemberRecord:
        if known is not None and known.active:
            rule = "a member of this name is enrolled; the operator revokes it first"
            raise PeerError.by_participant(request.name, "E-IDENTITY-MISMATCH", Phase.ENROLMENT, rule)
        certificate = authorities.issue_member(
            self._authority, request=request.certificate_request, name=request.name, random=self._random, now=now
        )
        return MemberRecord(
            name=request.name,
            role=token.role,
            identity_key=request.identity_key,
            certificate=certificate,
            labels=token.labels,
            software_version="",
            enrolled_at=now,
            revoked_at=None,
        )

    @noting_refusals("handshake-refused")
    async def handshake(self, member: str, hello: Hello) -> Welcome:
        """Match versions, note what the member announces, tell it what was last seen of it."""
        self._handshakes.spend(member)
        _check_version(member, hello.protocol_version)
        known = self._active(member)
        if hello.member != member or hello.role is not known.role:
            raise PeerError.by_participant(
                member, "E-IDENTITY-MISMATCH", Phase.HANDSHAKE, f"it is enrolled as {known.role.value} {member}"
            )
        with self._desk.store.begin() as connection:
            head = member_rows.see_head(connection, known, hello.ledger_head, self._desk.now())
            member_rows.announce(connection, member, version=hello.software_version, offers=hello.datasets)
            for run in self._of(member):
                if not run.record.state.ended:
                    run.latecomers.heard_of(member)  # it may be a new process, which knows nothing of what hung
            last = attempt_rows.last_events_of(connection, member, HEADS.values(), most=codec.MAX_LAST_HEADS)
        shown = (codec.decode_submission(event.body, sender=member) for event in last)
        self._log.info("handshake", member=member, version=hello.software_version)
        return Welcome(
            protocol_version=PROTOCOL_VERSION,
            software_version=version("onlysum"),
            federation=self._desk.settings.federation,
            ledger_head=head,
            last_heads=tuple(heads for heads in shown if isinstance(heads, HeadsShown)),
            members=tuple(MemberEntry(m.name, m.role, m.identity_key) for m in self._members.values() if m.active),
            clock=self._desk.now(),
        )

    @noting_refusals("connection-refused")
    async def admit(self, member: str, certificate: bytes, session: bytes) -> None:
        """Refuse a member that is unknown, revoked or there twice, or whose certificate (DER) is not its newest."""
        if ssl.PEM_cert_to_DER_cert(self._active(member).certificate.decode()) != certificate:
            raise PeerError.by_participant(
                member, "E-MEMBER-REVOKED", Phase.HANDSHAKE, "the member enrolled again with another certificate"
            )

        was_twice = self._sessions.twice(member)
        if session:
            self._sessions.hear(member, session)
        if self._sessions.twice(member):
            if not was_twice:
                with self._desk.store.begin() as connection:
                    member_rows.log_security(connection, self._desk.now(), "identity-twice", member, "")
            raise NetworkError("E-NET-TWICE", f"{member}: {TWICE}")

    def failed(self, error: Exception) -> None:
        """Take note of an error of this machine that ended a call."""
        self._troubles.note(error)

    def troubles(self) -> tuple[Trouble, ...]:
        """Return what the operator should know of: what went wrong here lately, and who is there twice."""
        twice = (Trouble("E-NET-TWICE", f"{member}: {TWICE}") for member in self._sessions.all_twice())
        return (*self._troubles.recent(), *twice)

    def _active(self, member: str) -> MemberRecord:
        known = self._members.get(member)
        if known is not None and known.active:
            return known
        with self._desk.store.read() as connection:
            return member_rows.active_member(connection, member)

    # --- tasks ---

    async def next_task(self, member: str, seen: frozenset[bytes], wait_seconds: float) -> NumberedTask | None:
        """Return the oldest current task of the member that it has not seen; wait for one up to the given time."""
        self._active(member)
        new_here = not self.liveness.live(member)
        with self.liveness.poll(member):
            if new_here:
                for run in self._of(member):
                    run.wakeup.set()
            try:
                async with asyncio.timeout(wait_seconds):
                    while True:
                        change = self._change
                        for run in self._of(member):
                            for task in run.tasks(member):
                                if task.id not in seen:
                                    return task
                        await change.wait()
                        self._active(member)
            except TimeoutError:
                return None

    def _of(self, member: str) -> list[Run]:
        runs = (run for run in self._runs.values() if run.concerns(member))
        return sorted(runs, key=lambda run: (run.record.created_at, run.run_id))

    # --- what members send ---

    def submission_limit(self, member: str) -> int:
        """Return how many bytes a submission of this member may have: the bundle for its largest roster, and a text."""
        return SUBMISSION_BYTES + MEMBER_BYTES * max((len(run.roster) for run in self._of(member)), default=0)

    async def submit(self, member: str, submission: Submission) -> None:
        """Take a message; it is durable when this returns. Repeating the same message is not an error."""
        if isinstance(submission, MemberLeft):
            await self._leave(self._active(member), submission)
        else:
            self._active(member)
            await Submissions(self._run_of(member, submission)).submit(member, submission)

    async def _leave(self, member: MemberRecord, left: MemberLeft) -> None:
        """End a membership that its own key ends; runs that need the member end with that reason."""
        signed = leaving_bytes(federation=self._desk.settings.federation, name=member.name)
        if not keys.verify(member.identity_key, left.signature, signed):
            raise PeerError.by_participant(
                member.name, "E-ROUND-SIGNATURE", Phase.HANDSHAKE, "the leaving is not signed by its identity key"
            )
        now, runs = self._desk.now(), [run for run in self._of(member.name) if not run.record.state.ended]
        with self._desk.store.begin() as connection:
            for run in runs:
                answer = PlanRefused(run.run_id, run.plan.hash, "E-MEMBER-LEFT", "it has left the federation")
                run_rows.add_approval(connection, member.name, answer, now)
            member_rows.revoke_member(connection, member.name, now, left=True)
        self._members[member.name] = replace(member, revoked_at=now)
        self._log.warning("member-left", member=member.name)
        for run in runs:
            async with run.lock:
                run.reload_and_notify("member-left", member=member.name)

    def _run_of(self, member: str, submission: RunSubmission) -> Run:
        match submission:
            case PlanApproved() | PlanRefused() | Evaluation() | Abstained() | RoundKnown():
                return self._run(member, submission.run_id)
            case _:
                plan_hash = submission.position.plan_hash
                found = next((run for run in self._of(member) if run.plan.hash == plan_hash), None)
                if found is None:
                    raise PeerError.by_participant(
                        member, "E-ROUND-CONTEXT", Phase.ADVERTISE_KEYS, "no run of this member has this plan"
                    )
                return found

    def _run(self, member: str, run_id: str) -> Run:
        run = self._runs.get(run_id)
        if run is None or not run.concerns(member):
            raise PeerError.by_participant(member, "E-WIRE-UNEXPECTED", Phase.PLAN, "no run of this member has this id")
        return run

    async def upload_offset(self, member: str, run_id: str, position: Position, sha256: bytes, length: int) -> int:
        """Announce an upload and return from which byte it is to go on (0 at first)."""
        self._active(member)
        return await Submissions(self._run(member, run_id)).upload_offset(member, position, sha256, length)

    async def write_chunk(
        self, member: str, run_id: str, position: Position, sha256: bytes, offset: int, data: bytes
    ) -> int:
        """Append a chunk whose own hash the service has checked, and return the next offset."""
        self._active(member)
        return await Submissions(self._run(member, run_id)).write_chunk(member, position, sha256, offset, data)

    async def read_content(self, member: str, sha256: bytes, offset: int) -> AsyncIterator[bytes]:
        """Yield the rest of some content that this member may read, in chunks of at most 1 MiB."""
        self._active(member)
        paths = (path for run in self._of(member) if (path := run.content(sha256)) is not None)
        path = next((path for path in paths if path.exists()), None)  # equal content of a run that ended may be gone
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


def _check_version(who: str, spoken: int) -> None:
    if spoken != PROTOCOL_VERSION:
        rule = f"it speaks protocol {spoken}, this coordinator speaks protocol {PROTOCOL_VERSION}"
        raise PeerError.by_participant(who, "E-VERSION", Phase.HANDSHAKE, rule)
