"""One attempt at a round as the daemon runs it: the pure round, its journal in the database, and its deadline.

Guarantees: whatever changes the round's state is added to the rows that are committed next, in the order in which it
happened; an attempt opened again from its events is the same. If a call raises anything but a ``PeerError`` or
``RoundAborted``, or the rows cannot be committed, memory may be ahead of the journal: the attempt must be opened again.
Leaves to others: the rules (``coordinator.protocol.round``), waiting for the commit before anything that follows leaves
(``coordinator.runs.submissions``, ``coordinator.runs.lifecycle``).
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.database import attempt_rows, standing_rows
from coordinator.database.attempt_rows import COORDINATOR, EventRecord, Rows
from coordinator.database.lease_rows import Lease
from coordinator.database.store import Store
from coordinator.protocol.round import CoordinatorRound, Message
from coordinator.runs.liveness import PhaseTimer, PhaseTimers
from coordinator.runs.uploads import Upload, UploadStore
from privacy import canonical
from privacy.errors import LocalError, PeerError, Phase
from privacy.heads import Moment
from privacy.interfaces import Clock
from privacy.plan import VerifiedPlan
from privacy.secagg.messages import (
    Advertisement,
    AttemptOffer,
    Complaint,
    MaskedUpload,
    Position,
    Receipt,
    SurvivorSignature,
)
from protos import codec
from protos.envelope import (
    Abstained,
    Evaluation,
    HeadsShown,
    MemberLeft,
    MessageWithHeads,
    PlanApproved,
    PlanRefused,
    RoundKnown,
    Submission,
)

CLOSED: Final = "close"  # kind of the event that ends a phase; its body names the phase and who had answered
ADVERTISED: Final = Advertisement.__name__
ABSTAINED: Final = Abstained.__name__
COMPLAINED: Final = Complaint.__name__
SIGNED: Final = SurvivorSignature.__name__
# Kinds of the events that keep what a member showed last in a run, by moment.
HEADS: Final = {moment: f"{HeadsShown.__name__}-{moment.name}" for moment in Moment}
RESTARTED: Final = "E-ROUND-RESTART"  # of an abstention, and of an attempt that such ones ended
MOST_SHOWN: Final = 8  # times that a member may change its heads at one moment: each is a row on disk
MOST_THREADS: Final = 4  # that remove masks; other runs want to go on


class ReplayError(LocalError):
    """An attempt does not come back from its events, or an upload of it is gone: it must be given up."""


class Attempt:
    """An open attempt at a round of one run."""

    def __init__(
        self,
        rows: Callable[[], Rows],
        spool: UploadStore,
        machine: CoordinatorRound,
        *,
        run_id: str,
        clock: Clock,
        timers: PhaseTimers,
    ) -> None:
        self._run_id = run_id
        self._rows = rows  # that are committed next
        self._spool = spool
        self._clock = clock
        self._timers = timers
        self.machine = machine
        self.heads: dict[tuple[str, Moment], HeadsShown] = {}  # that members showed in this attempt
        self._times_shown: Counter[tuple[str, Moment]] = Counter()
        self._announced: dict[str, bytes] = {}  # member -> hash of the one upload that may come from it
        self.files: dict[str, set[Path]] = {}  # in the spool, by member
        self.counted: dict[str, bytes] = {}  # hashes of the uploads that are in the sum
        self._kept: dict[str, bytes] = {}  # hashes of those that are kept where a later leader finds them

    @classmethod
    def open(
        cls,
        store: Store,
        spool: UploadStore,
        plan: VerifiedPlan,
        offer: AttemptOffer,
        *,
        lease: Lease,
        rows: Callable[[], Rows],
        clock: Clock,
        timers: PhaseTimers,
    ) -> Attempt:
        """Open an attempt, or open it again from its events; its phase goes on if ``timers`` knows when it started.

        Raises:
            ReplayError: ``E-STATE-DAMAGED``.
            LocalError: ``E-LEASE-LOST``: another process leads the run.
        """
        run_id, at = plan.plan.run_id, offer.position
        with store.begin() as connection:
            lease.require(connection)
            known = {(one.round, one.attempt) for one in attempt_rows.list_attempts(connection, run_id)}
            if at.order not in known:
                attempt_rows.open_attempt(connection, run_id, at, int(clock.now()))
            events = attempt_rows.list_events(connection, run_id, at)
            disputed = _disputed(connection, run_id, at)
            excluded = standing_rows.excluded_members(connection, run_id, before=at.order)
        machine = CoordinatorRound(plan, offer, disputed=disputed, excluded=frozenset(excluded))
        attempt = cls(rows, spool, machine, run_id=run_id, clock=clock, timers=timers)
        attempt.files = spool.open(run_id, at)
        attempt._replay(events)
        _ = attempt.timer  # starts now, if it has not started yet
        return attempt

    @property
    def timer(self) -> PhaseTimer:
        """The timer of the phase that the attempt is in."""
        return self._timers.timer(self.position, self.machine.phase)

    @property
    def position(self) -> Position:
        """Where in the run this attempt is."""
        return self.machine.offer.position

    @property
    def run_id(self) -> str:
        """The run."""
        return self._run_id

    @property
    def length(self) -> int:
        """Bytes of a masked update."""
        return self.machine.layout.bytes

    # --- messages in ---

    def refuses_heads(self, shown: HeadsShown) -> str | None:
        """Return why heads cannot be taken, because they are for another message or too many; or ``None``."""
        earlier = self.heads.get((shown.sender, shown.moment))
        if earlier is not None and earlier.about != shown.about:
            return "it has shown its heads for another message here"
        if self._times_shown[shown.sender, shown.moment] >= MOST_SHOWN:
            return f"it has shown its heads {MOST_SHOWN} times for this"
        return None

    def take_heads(self, shown: HeadsShown) -> None:
        """Remember the heads of a member, which the caller has made durable."""
        self.heads[shown.sender, shown.moment] = shown
        self._times_shown[shown.sender, shown.moment] += 1

    def require_heads(self, member: str, moment: Moment, about: bytes) -> None:
        """Take a message only with heads that were shown for it: the others are shown both, or neither.

        Raises:
            PeerError: ``E-WIRE-UNEXPECTED``.
        """
        shown = self.heads.get((member, moment))
        if shown is None or shown.about != about:
            rule = "it shows the heads of its journal and ledger for this message first"
            raise PeerError.by_participant(member, "E-WIRE-UNEXPECTED", self.machine.phase, rule)

    def receive(self, message: Message, data: bytes) -> bool:
        """Take a message, and its form as a submission; return whether it changed anything.

        Raises:
            PeerError: it breaks a rule; nothing has changed.
        """
        if not self.machine.receive(message):
            return False
        self._journal(message, message.sender, data)
        return True

    def abstain(self, member: str, message: Abstained, data: bytes) -> bool:
        """Wait no longer for a member in this attempt."""
        if member not in self.machine.awaited():
            return False
        self.machine.abstain(member, message.code)
        self._journal(message, member, data)
        return True

    def announce(self, member: str, sha256: bytes, length: int) -> Upload:
        """Return the place of an upload that may come now; any other of the member may not come any more.

        Raises:
            PeerError: ``E-WIRE-UNEXPECTED`` or ``E-ROUND-UPLOAD``: not now, not from this member, or of a wrong length.
        """
        upload = self._expected_upload(member, sha256, length)
        self._announced[member] = sha256
        return upload

    def announced(self, member: str, sha256: bytes) -> Upload:
        """Return the place of the upload that the member announced last; a chunk announces it if nothing else did.

        Raises:
            PeerError: as :meth:`announce`, or ``E-WIRE-CHUNK``: it has announced another one.
        """
        if self._announced.setdefault(member, sha256) != sha256:
            raise PeerError.by_participant(
                member, "E-WIRE-CHUNK", self.machine.phase, "a chunk belongs to the upload that was announced last"
            )
        return self._expected_upload(member, sha256, self.length)

    def offset(self, upload: Upload) -> int:
        """Return how many bytes of an upload are there; the disk may take its time, and so this a thread."""
        files = self.files.setdefault(upload.member, set())
        done = self._spool.offset(upload, tuple(files))
        files.clear()
        files.add(self._spool.path(upload))
        return done

    def append(self, upload: Upload, offset: int, data: bytes) -> int:
        """Append a chunk and return the next offset, in a thread as well."""
        self.files.setdefault(upload.member, set()).add(self._spool.path(upload))
        return self._spool.append(upload, offset, data)

    def _expected_upload(self, member: str, sha256: bytes, length: int) -> Upload:
        if self.machine.phase is not Phase.COLLECT_MASKED or member not in self.machine.expected():
            raise PeerError.by_participant(
                member, "E-WIRE-UNEXPECTED", self.machine.phase, "no upload of this member is expected now"
            )
        if length != self.length:
            raise PeerError.by_participant(
                member, "E-ROUND-UPLOAD", self.machine.phase, "the upload has a wrong length"
            )
        return Upload(self.run_id, self.position, member, sha256, length)

    def accumulate(self, receipt: Receipt) -> bool:
        """Add a complete upload to the running sum, by its signed receipt; takes the time of hashing it.

        Its rows are left to :meth:`journal_upload`: this may run in a thread, and they belong to the event loop.

        Raises:
            PeerError: it breaks a rule or is not complete; the sum is unchanged.
        """
        if self.machine.phase is Phase.COLLECT_MASKED and receipt.sender in self.machine.answered():
            return self.machine.receive(MaskedUpload(receipt, b""))  # a repeat, or a second thought that is refused
        return self._accumulate(self.upload_of(receipt), receipt)

    def keep(self, upload: Upload) -> None:
        """Keep a complete upload where a later leader finds it, if that is not here, before anybody relies on it.

        Raises:
            LocalError: ``E-STORAGE-*``; nothing has changed.
        """
        known = (self._kept.get(upload.member), self.counted.get(upload.member))
        if upload.sha256 not in known and upload.length == self.length and self._spool.keep(upload):
            self._kept[upload.member] = upload.sha256

    def upload_of(self, receipt: Receipt) -> Upload:
        """Return the place of the upload that a receipt is for."""
        return Upload(self.run_id, self.position, receipt.sender, receipt.masked_hash, receipt.length)

    def may_count(self, receipt: Receipt) -> bool:
        """Return whether an upload is where a later leader finds it, or was counted already."""
        known = (self._kept.get(receipt.sender), self.counted.get(receipt.sender))
        return not self._spool.elsewhere or receipt.masked_hash in known

    def journal_upload(self, receipt: Receipt, data: bytes) -> None:
        """Add the rows of an upload that was counted."""
        self._journal(receipt, receipt.sender, data)
        sender, sha256 = receipt.sender, receipt.masked_hash
        self._rows().add_upload(self.run_id, self.position, member=sender, sha256=sha256, length=receipt.length)

    def _accumulate(self, upload: Upload, receipt: Receipt) -> bool:
        path = self._spool.path(upload)
        if not path.exists() or path.stat().st_size != receipt.length or receipt.length == 0:
            rule = "the receipt comes before its upload is complete"
            raise PeerError.by_participant(receipt.sender, "E-ROUND-UPLOAD", self.machine.phase, rule)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                if taken := self.machine.receive(MaskedUpload(receipt, view)):
                    self.counted[receipt.sender] = receipt.masked_hash
                return taken
            except PeerError:
                self._spool.discard(upload)
                raise
            finally:
                view.release()

    # --- from phase to phase ---

    def due(self, live: Callable[[Collection[str]], frozenset[str]], latecomers: frozenset[str] = frozenset()) -> bool:
        """Return whether the phase should close now.

        It should if time is up, or if enough have answered and everybody live has; latecomers are given as long again
        as the others needed, and no more.

        Args:
            live: returns those of some members for whom it is worth waiting.
            latecomers: who was late in earlier phases.
        """
        machine, timer = self.machine, self.timer
        if machine.phase is Phase.RESULT:
            return False
        if machine.settled() or timer.expired:
            return True
        if not machine.can_close():
            timer.waits_for_others()
            return False
        missing = live(machine.awaited())
        if missing - latecomers:
            timer.waits_for_others()
            return False
        return not missing or timer.waited_for_latecomers()

    def stop_waiting(self, members: Collection[str]) -> None:
        """Wait no longer for whom the operator excluded since the attempt was opened; answers still count."""
        for member in (self.machine.awaited() & frozenset(members)) if members else ():
            self.machine.abstain(member, "excluded by the operator")

    def close(self) -> None:
        """Close the phase; its rows are left to :meth:`journal_close`, because this may run in a thread.

        Raises:
            RoundAborted: the attempt is over.
        """
        self.machine.close(threads=min(MOST_THREADS, _cores()))

    def journal_close(self, phase: Phase, answered: Collection[str]) -> None:
        """Add the rows of a phase that was closed; the timer of the next one starts now."""
        rows, body, now = self._rows(), _closing(phase, answered), int(self._clock.now())
        rows.add_event(self.run_id, self.position, kind=CLOSED, sender=COORDINATOR, body=body, now=now)
        rows.set_phase(self.run_id, self.position, self.machine.phase.name)
        _ = self.timer

    def _journal(self, message: Submission, sender: str, data: bytes) -> None:
        body, now, kind = data or codec.encode_record(message), int(self._clock.now()), type(message).__name__
        self._rows().add_event(self.run_id, self.position, kind=kind, sender=sender, body=body, now=now)

    def _replay(self, events: Collection[EventRecord]) -> None:
        for event in events:
            try:
                self._replay_one(event)
            except (PeerError, ValueError) as error:
                detail = f"event {event.id} of run {self.run_id} does not replay: {error}"
                raise ReplayError("E-STATE-DAMAGED", detail) from error

    def _replay_one(self, event: EventRecord) -> None:
        if event.kind == CLOSED:
            if event.body != _closing(self.machine.phase, self.machine.answered()):
                raise ValueError("the phase closed with other answers")
            self.machine.close()
            return
        match codec.decode_submission(event.body, sender=event.sender):
            case Abstained() as abstained:
                self.machine.abstain(event.sender, abstained.code)
            case HeadsShown() as shown:
                self.take_heads(shown)
            case Receipt() as receipt:
                self._accumulate(self.upload_of(receipt), receipt)
            case (
                PlanApproved()
                | PlanRefused()
                | Evaluation()
                | RoundKnown()
                | MemberLeft()
                | MessageWithHeads() as other
            ):
                raise ValueError(f"{type(other).__name__} is no message of a round")
            case message:
                self.machine.receive(message)


def _disputed(connection: Connection, run_id: str, at: Position) -> frozenset[str]:
    """Return whom complaints in earlier attempts at this round are by or about."""
    members: set[str] = set()
    for event in attempt_rows.list_round_events(connection, run_id, at.round, kind=COMPLAINED):
        complaint = codec.decode_submission(event.body, sender=event.sender)
        if isinstance(complaint, Complaint) and complaint.position.attempt < at.attempt:
            members |= {event.sender, complaint.dealer}
    return frozenset(members)


def bound_members(store: Store, run_id: str, last: Position) -> frozenset[str]:
    """Return who can take part in no attempt at a round after its last one.

    They are excluded or in a dispute, or have signed a survivor set: that is the commit point, and they sign no other.
    """
    following = Position(last.plan_hash, last.round, last.attempt + 1)
    with store.read() as connection:
        signatures = attempt_rows.list_round_events(connection, run_id, last.round, kind=SIGNED)
        excluded = standing_rows.excluded_members(connection, run_id)
        return _disputed(connection, run_id, following) | excluded.keys() | {event.sender for event in signatures}


def restarted_members(store: Store, run_id: str, at: Position) -> frozenset[str]:
    """Return who has said in an attempt that a restart lost it its place there."""
    with store.read() as connection:
        events = attempt_rows.list_round_events(connection, run_id, at.round, kind=ABSTAINED)
    said = ((event.sender, codec.decode_submission(event.body, sender=event.sender)) for event in events)
    return frozenset(
        sender
        for sender, message in said
        if isinstance(message, Abstained) and message.position == at and message.code == RESTARTED
    )


def _closing(phase: Phase, answered: Collection[str]) -> bytes:
    return canonical.encode({"phase": phase.name, "answered": sorted(answered)})


def _cores() -> int:
    """Return how many cores this process is bound to, where the system says so, or how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
