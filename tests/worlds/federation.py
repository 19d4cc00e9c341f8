"""An in-memory federation: real round machines on both sides, a virtual clock, and faults on order.

Guarantees: deterministic by seed; every message passes through the same machines as in the daemons; a crash loses what
lives in memory and keeps what was journalled. A :class:`Fault` is placed at a participant's answer in a phase.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.protocol.round import CoordinatorRound, RoundResult
from participant.protocol.member import Participant
from participant.protocol.memory import Record, RunMemory, UpdateEncoded, masked_name, shares_from_bytes, shares_name
from participant.protocol.round import hear
from participant.protocol.states import Idle, Masked, Ready, State
from participant.protocol.step import Message, Step
from participant.protocol.transitions import EncodedUpdate, Told
from participant.training.trainer import OneHotTrainer
from privacy.errors import LocalError, PeerError, Phase, RoundAborted
from privacy.interfaces import RandomSource
from privacy.plan import VerifiedPlan
from privacy.plan_parts import Mode
from privacy.secagg import hashes
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import AttemptOffer, MaskedUpload, Position, RoundCertificate, VoidedRound
from tests.worlds.plans import make_plan, unproven, verified

ADAPTER_HASH = hashes.adapter_hash(b"the global adapter of a test")
PHASE_SECONDS = 10.0  # each phase's deadline
LATE_SECONDS = 15.0  # a late message misses its phase and arrives in the next

Posted = tuple[float, int, str, Message]  # when it arrives, a tie-breaker, by whom, what


class VirtualClock:
    """A clock that moves only when the world says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        """Return the virtual time."""
        return self.seconds

    def monotonic(self) -> float:
        """Return the virtual time."""
        return self.seconds


class SeededSource:
    """Randomness that repeats with its seed: for tests and nothing else."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def token_bytes(self, count: int) -> bytes:
        """Return the next bytes."""
        return self._random.randbytes(count)


class FaultKind(Enum):
    """What goes wrong at an answer."""

    LOST = "the participant is gone for the rest of the round, this answer unsent"
    CRASH_BEFORE_SEND = "it crashes after journalling and before sending, and restarts"
    CRASH_AFTER_SEND = "it crashes right after sending, and restarts"
    TWICE = "the answer arrives twice"
    LATE = "the answer arrives after its deadline"


@dataclass(frozen=True)
class Fault:
    """One fault: whose answer, in which phase, in which attempt."""

    participant: str
    phase: Phase
    kind: FaultKind
    attempt: int = 1


class MemoryJournal:
    """What :class:`participant.runs.journal.Journal` does, without a disk."""

    def __init__(self, plan_hash: bytes) -> None:
        self.memory = RunMemory.empty(plan_hash)
        self.records: list[Record] = []
        self.files: dict[str, bytes] = {}
        self.encoded: NDArray[np.int64] | None = None

    def append(self, record: Record) -> None:
        """Take a record."""
        self.records.append(record)
        self.memory = self.memory.apply(record)

    def rolled_back(self, count: int) -> MemoryJournal:
        """Return a copy that knows only the first ``count`` records, as an old backup would."""
        copy = MemoryJournal(self.memory.plan_hash)
        for record in self.records[:count]:
            copy.append(record)
        copy.files, copy.encoded = dict(self.files), self.encoded
        return copy


@dataclass
class SimulatedParticipant:
    """A participant's daemon in miniature: journal before sending, state in memory, resumes what may be resumed."""

    participant: Participant
    journal: MemoryJournal
    source: RandomSource
    train: Callable[[int], NDArray[np.int64]]
    state: State = field(init=False)
    before: State = field(init=False)  # the step that it took last
    present: bool = True
    refusals: list[PeerError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.before = Idle(self.participant)

    @property
    def name(self) -> str:
        """Its name on the roster."""
        return self.participant.me

    def hear(self, told: Told | None) -> list[Message]:
        """Hear the coordinator and return what to send; a refusal is kept and answered with silence."""
        if told is None:
            return []
        if isinstance(told, RoundCertificate | VoidedRound) and told.position.round <= self.journal.memory.completed:
            return []
        try:
            step = hear(self.state, told, self.journal.memory, self.source)
        except PeerError as error:
            self.refusals.append(error)
            return []
        except LocalError as error:
            if error.code != "E-ROUND-PHASE":  # it may come out of order; nothing else is its own fault
                raise
            return []
        return self._mask(step.state) if isinstance(step.state, Ready) else self._take(step)

    def _mask(self, ready: Ready) -> list[Message]:
        number, offer = ready.position.round, ready.offer
        if self.journal.memory.encoded_in(number) is None:
            self.journal.encoded = self.train(number)
            self.journal.append(UpdateEncoded(number, b"\0" * 32, offer.adapter_hash, offer.previous_transcript))
        assert self.journal.encoded is not None
        words = self.participant.encode(number, self.journal.encoded)
        return self._take(hear(ready, EncodedUpdate(words), self.journal.memory, self.source))

    def _take(self, step: Step[State]) -> list[Message]:
        self.journal.files |= {file.name: bytes(file.data) for file in step.files}
        if step.record is not None:
            self.journal.append(step.record)
        self.before, self.state = self.state, step.state
        match step.message:
            case None:
                return []
            case MaskedUpload(receipt, masked):
                return [MaskedUpload(receipt, bytes(masked))]
            case message:
                return [message]

    def crash_and_restart(self) -> None:
        """Lose the memory; go on from the journal where that is allowed."""
        masked = self.journal.memory.resumable
        if masked is None:
            self.state = Idle(self.participant)
        else:
            shares = shares_from_bytes(self.journal.files[shares_name(masked.offer.position)])
            self.state = Masked(self.participant, masked, shares)


class Federation:
    """A coordinator and its participants in one process."""

    def __init__(
        self,
        n: int = 5,
        f: int = 1,
        *,
        mode: Mode = "none",
        seed: int = 0,
        k_regular: tuple[int, int] | None = None,
        **overrides: Any,
    ) -> None:
        """Make a world; ``k_regular`` is the neighbours and the threshold of shares of a graph, however weak."""
        plan, keys = make_plan(n=n, f=f, mode=mode, entries=overrides.pop("entries", max(12, n)), **overrides)
        self.plan: VerifiedPlan = verified(plan)
        if k_regular is not None:
            self.plan = unproven(plan, neighbours=k_regular[0], share_threshold=k_regular[1])
        self.keys: dict[str, SigningKey] = keys
        self.clock = VirtualClock()
        self.shuffle = random.Random(seed)
        self.completed: list[RoundCertificate] = []
        self.transcript = hashes.genesis_transcript(self.plan.hash)
        self.participants = {name: self.new_participant(name, seed) for name in sorted(keys)}
        self.round: CoordinatorRound | None = None
        self.log: list[Message | None] = []  # what a coordinator must persist, None for the end of a phase

    def new_participant(self, name: str, seed: int) -> SimulatedParticipant:
        trainer = OneHotTrainer(self.plan.plan, name)
        nothing = np.zeros(self.plan.plan.recipe.entries, dtype=np.float32)
        return SimulatedParticipant(
            participant=Participant(self.plan, name, self.keys[name]),
            journal=MemoryJournal(self.plan.hash),
            source=SeededSource(f"{seed}/{name}"),
            train=lambda number: trainer.train(number, nothing, lambda done, total: None),
        )

    def offer(self, round_number: int, attempt: int) -> AttemptOffer:
        """Return an honest offer."""
        return AttemptOffer(Position(self.plan.hash, round_number, attempt), self.transcript, ADAPTER_HASH)

    def run_round(self, faults: Iterable[Fault] = (), *, crash_coordinator: bool = False) -> RoundResult:
        """Run the next round through as many attempts as the plan allows.

        Raises:
            RoundAborted: no attempt completed.
        """
        number, excluded = len(self.completed) + 1, frozenset[str]()
        failure: RoundAborted | None = None
        for attempt in range(1, self.plan.plan.max_attempts + 1):
            due = {(fault.participant, fault.phase): fault.kind for fault in faults if fault.attempt == attempt}
            try:
                return self.run_attempt(number, attempt, excluded, due, crash_coordinator)
            except RoundAborted as error:
                failure = error
                assert self.round is not None
                excluded |= self.round.disputed
        assert failure is not None
        raise failure

    def run_attempt(
        self,
        number: int,
        attempt: int,
        excluded: frozenset[str],
        due: dict[tuple[str, Phase], FaultKind],
        crash_coordinator: bool,
    ) -> RoundResult:
        offer = self.offer(number, attempt)
        self.round, self.log = CoordinatorRound(self.plan, offer, disputed=excluded), []
        on_the_way: list[Posted] = []
        while self.round.phase is not Phase.RESULT:
            self.collect(due, on_the_way)
            if crash_coordinator:
                self.round = self.replayed(offer, excluded)
            self.round.close()
            self.log.append(None)
        result = self.round.result
        self.completed.append(result.certificate)
        self.transcript = result.certificate.transcript(self.transcript)
        for participant in self.participants.values():
            if participant.present:
                participant.hear(result.certificate)
        return result

    def collect(self, due: dict[tuple[str, Phase], FaultKind], on_the_way: list[Posted]) -> None:
        """Let everybody answer in this phase, each with the fault that is due, and deliver what arrives in time."""
        assert self.round is not None
        phase, deadline = self.round.phase, self.clock.seconds + PHASE_SECONDS
        names = sorted(self.round.expected())
        self.shuffle.shuffle(names)
        for name in names:
            participant = self.participants[name]
            if not participant.present:
                continue
            self._post(participant, participant.hear(self.round.outbox(name)), due.get((name, phase)), on_the_way)
        while on_the_way and on_the_way[0][0] <= deadline:
            arrival, _, name, message = heapq.heappop(on_the_way)
            self.clock.seconds = max(self.clock.seconds, arrival)
            self.deliver(message)
        self.clock.seconds = deadline

    def _post(
        self,
        participant: SimulatedParticipant,
        answers: Sequence[Message],
        kind: FaultKind | None,
        on_the_way: list[Posted],
    ) -> None:
        delay = self.shuffle.uniform(0.1, 5.0)
        if kind is FaultKind.LOST:
            participant.present, answers = False, []
        if kind is FaultKind.CRASH_BEFORE_SEND:
            participant.crash_and_restart()
            answers = [self._resent(participant, each) for each in answers if isinstance(participant.state, Masked)]
        for message in answers:
            for copy in range(2 if kind is FaultKind.TWICE else 1):
                late = LATE_SECONDS if kind is FaultKind.LATE else 0.0
                arrival = self.clock.seconds + delay + late + copy
                heapq.heappush(on_the_way, (arrival, self.shuffle.getrandbits(60), participant.name, message))
        if kind is FaultKind.CRASH_AFTER_SEND:
            participant.crash_and_restart()

    @staticmethod
    def _resent(participant: SimulatedParticipant, answer: Message) -> Message:
        """A restarted participant sends the journalled receipt and bytes again, never new ones."""
        masked = participant.journal.memory.masked
        if masked is None or not isinstance(answer, MaskedUpload):
            return answer
        return MaskedUpload(masked.receipt, participant.journal.files[masked_name(masked.offer.position)])

    def deliver(self, message: Message) -> None:
        """Hand a message to the coordinator; one that it refuses changes nothing."""
        assert self.round is not None
        try:
            accepted = self.round.receive(message)
        except PeerError:
            return
        if accepted:
            self.log.append(message)

    def replayed(self, offer: AttemptOffer, excluded: frozenset[str]) -> CoordinatorRound:
        """Return what a coordinator that was killed rebuilds from what it had made durable."""
        rebuilt = CoordinatorRound(self.plan, offer, disputed=excluded)
        for message in self.log:
            if message is None:
                rebuilt.close()
            else:
                rebuilt.receive(message)
        return rebuilt

    def one_hot(self, survivors: Iterable[str]) -> NDArray[np.int64]:
        """Return what the sum must be if exactly these were counted exactly once."""
        total = np.zeros(self.plan.plan.recipe.entries, dtype=np.int64)
        for name in survivors:
            total[self.plan.plan.index(name)] = 1
        return total


__all__ = ["Fault", "FaultKind", "Federation", "Phase", "SimulatedParticipant"]
