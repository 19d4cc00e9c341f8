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
from participant.protocol.memory import Record, RunMemory, UpdateEncoded
from participant.protocol.round import (
    Advertised,
    Complained,
    Masked,
    Participant,
    Ready,
    Shared,
    Step,
    advertise,
    complete,
)
from participant.training.trainer import OneHotTrainer
from privacy.errors import PeerError, Phase, RoundAborted
from privacy.plan import VerifiedPlan
from privacy.plan_parts import Mode
from privacy.secagg import hashes
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import (
    AttemptOffer,
    Complaint,
    NeighbourShares,
    Position,
    Receipt,
    RoundCertificate,
    SurvivorProposal,
    UnmaskRequest,
)
from tests.worlds.plans import make_plan, unproven, verified

ADAPTER_HASH = hashes.adapter_hash(b"the global adapter of a test")
PHASE_SECONDS = 10.0  # each phase's deadline
LATE_SECONDS = 15.0  # a late message misses its phase and arrives in the next


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
        self.blobs: dict[str, Any] = {}

    def append(self, record: Record) -> None:
        """Take a record."""
        self.records.append(record)
        self.memory = self.memory.apply(record)

    def rolled_back(self, count: int) -> MemoryJournal:
        """Return a copy that knows only the first ``count`` records, as an old backup would."""
        copy = MemoryJournal(self.memory.plan_hash)
        for record in self.records[:count]:
            copy.append(record)
        copy.blobs = dict(self.blobs)
        return copy


@dataclass
class SimulatedParticipant:
    """A participant's daemon in miniature: journal before sending, state in memory, resumes what may be resumed."""

    party: Participant
    journal: MemoryJournal
    source: SeededSource
    train: Callable[[int], NDArray[np.int64]]
    state: object = None
    present: bool = True
    refusals: list[PeerError] = field(default_factory=list)

    def hear(self, told: object) -> list[Any]:
        """Handle what the coordinator says and return what to send; a refusal is kept and answered with silence."""
        try:
            return self._answer(told)
        except PeerError as error:
            self.refusals.append(error)
            return []

    def _answer(self, told: object) -> list[Any]:
        memory = self.journal.memory
        match told, self.state:
            case AttemptOffer() as offer, _:
                return self._take(advertise(self.party, offer, memory, self.source))
            case RoundCertificate() as certificate, _:
                if certificate.position.round > memory.completed:
                    verified = self.state.quorum if isinstance(self.state, Masked) else None
                    self.journal.append(complete(self.party, certificate, memory, verified=verified))
                return []
            case SurvivorProposal() as proposal, Masked() as masked:
                return self._take(masked.on_survivors(proposal, memory))
            case UnmaskRequest() as request, Masked() as masked:
                return self._take(masked.on_unmask(request, memory))
            case tuple() as advertisements, Advertised() as advertised:
                return self._take(advertised.on_advertisements(advertisements, self.source))
            case (tuple() | NeighbourShares()) as dealt, Shared() as shared:
                step = shared.on_shares(dealt)
                if isinstance(step.state, Ready):
                    return self._mask(step.state)
                return self._take(step)
        return []

    def _mask(self, ready: Ready) -> list[Any]:
        number = ready.offer.position.round
        encoded = self.journal.memory.encoded_in(number)
        if encoded is None:
            update = self.train(number)
            self.journal.blobs["encoded"] = update
            offer = ready.offer
            self.journal.append(UpdateEncoded(number, b"\0" * 32, offer.adapter_hash, offer.previous_transcript))
        step, view = ready.mask(self.journal.blobs["encoded"])
        masked = self.journal.blobs["masked"] = bytes(view)
        self.journal.blobs["shares"] = step.state.shares
        return [(message, masked) for message in self._take(step)]

    def _take(self, step: Step[Any]) -> list[Any]:
        if step.record is not None:
            self.journal.append(step.record)
        self.state = step.state
        return [] if step.message is None else [step.message]

    def crash_and_restart(self) -> None:
        """Lose the memory; go on from the journal where that is allowed."""
        memory = self.journal.memory
        masked = memory.masked
        resumable = masked is not None and masked.offer.position.order == memory.highest
        self.state = Masked(self.party, masked, self.journal.blobs["shares"]) if masked and resumable else None


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
        self.log: list[tuple[str, Any]] = []  # what a coordinator must persist: replayed after its crash

    def new_participant(self, name: str, seed: int) -> SimulatedParticipant:
        trainer = OneHotTrainer(self.plan.plan, name)
        nothing = np.zeros(self.plan.plan.recipe.entries, dtype=np.float32)
        return SimulatedParticipant(
            party=Participant(self.plan, name, self.keys[name]),
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
                excluded |= frozenset(self.round.complaints.values())
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
        self.round, self.log = CoordinatorRound(self.plan, offer, excluded=excluded), []
        on_the_way: list[tuple[float, int, str, Any]] = []
        while self.round.phase is not Phase.RESULT:
            self.collect(offer, due, on_the_way)
            if crash_coordinator:
                self.round = self.replayed(offer, excluded)
            self.round.close()
            self.log.append(("close", None))
        result = self.round.result
        self.completed.append(result.certificate)
        self.transcript = result.certificate.transcript(self.transcript)
        for one in self.participants.values():
            if one.present:
                one.hear(result.certificate)
        return result

    def collect(self, offer: AttemptOffer, due: dict[tuple[str, Phase], FaultKind], on_the_way: list[Any]) -> None:
        assert self.round is not None
        phase, deadline = self.round.phase, self.clock.seconds + PHASE_SECONDS
        names = sorted(self.round.expected())
        self.shuffle.shuffle(names)
        for name in names:
            one = self.participants[name]
            if not one.present:
                continue
            told = offer if phase is Phase.ADVERTISE_KEYS else self.round.outbox(name)
            answers = one.hear(told)
            self._post(one, answers, due.get((name, phase)), on_the_way)
        while on_the_way and on_the_way[0][0] <= deadline:
            arrival, _, name, message = heapq.heappop(on_the_way)
            self.clock.seconds = max(self.clock.seconds, arrival)
            self.deliver(message)
        self.clock.seconds = deadline

    def _post(self, one: SimulatedParticipant, answers: Sequence[Any], kind: FaultKind | None, way: list[Any]) -> None:
        name, delay = one.party.me, self.shuffle.uniform(0.1, 5.0)
        if kind is FaultKind.LOST:
            one.present, answers = False, []
        if kind is FaultKind.CRASH_BEFORE_SEND:
            one.crash_and_restart()
            answers = [] if not isinstance(one.state, Masked) else self._resent(one, answers)
        for message in answers:
            for copy in range(2 if kind is FaultKind.TWICE else 1):
                late = LATE_SECONDS if kind is FaultKind.LATE else 0.0
                arrival = self.clock.seconds + delay + late + copy
                heapq.heappush(way, (arrival, self.shuffle.getrandbits(60), name, message))
        if kind is FaultKind.CRASH_AFTER_SEND:
            one.crash_and_restart()

    def _resent(self, one: SimulatedParticipant, answers: Sequence[Any]) -> Sequence[Any]:
        """A restarted participant sends the journalled receipt and bytes again, never new ones."""
        masked = one.journal.memory.masked
        assert masked is not None
        again = [(masked.receipt, one.journal.blobs["masked"])]
        return again if answers and isinstance(answers[0], tuple) else answers

    def deliver(self, message: Any) -> None:
        """Hand a message to the coordinator; one that it refuses changes nothing."""
        assert self.round is not None
        try:
            accepted = self.hand_over(self.round, message)
        except PeerError:
            return
        if accepted:
            self.log.append(("message", message))

    @staticmethod
    def hand_over(target: CoordinatorRound, message: Any) -> bool:
        match message:
            case (Receipt() as receipt, bytes() as masked):
                return target.accumulate(receipt, masked)
            case _:
                return target.receive(message)

    def replayed(self, offer: AttemptOffer, excluded: frozenset[str]) -> CoordinatorRound:
        """Return what a coordinator that was killed rebuilds from what it had made durable."""
        rebuilt = CoordinatorRound(self.plan, offer, excluded=excluded)
        for kind, message in self.log:
            if kind == "close":
                rebuilt.close()
            else:
                self.hand_over(rebuilt, message)
        return rebuilt

    def one_hot(self, survivors: Iterable[str]) -> NDArray[np.int64]:
        """Return what the sum must be if exactly these were counted exactly once."""
        total = np.zeros(self.plan.plan.recipe.entries, dtype=np.int64)
        for name in survivors:
            total[self.plan.plan.index(name)] = 1
        return total


__all__ = ["Complained", "Complaint", "Fault", "FaultKind", "Federation", "Phase", "SimulatedParticipant"]
