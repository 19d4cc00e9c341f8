"""A whole round in one process: real machines on both sides, all signatures and checks on, a stopwatch on each side.

Guarantees: the sum is compared with the exact sum of the survivors' updates. A measured participant verifies every
signature itself; where one process plays everybody, the others take the outcome of an identical verification
(same key, signature and bytes) from whoever did it first. The coordinator never does.
Leaves to others: training, disks and the network; what is written down for ``bench.memory``.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench import plans
from coordinator.protocol.round import CoordinatorRound, Outgoing, RoundResult
from host.system import SystemRandom
from participant.protocol.member import Participant
from participant.protocol.memory import RunMemory, UpdateEncoded
from participant.protocol.round import hear
from participant.protocol.states import Idle, Ready, State
from participant.protocol.step import Message
from participant.protocol.transitions import EncodedUpdate, Told
from privacy.errors import Phase
from privacy.plan import VerifiedPlan
from privacy.plan_parts import Graph
from privacy.secagg import graph_bounds, hashes, keys
from privacy.secagg.fixed_point import fixed, unfixed
from privacy.secagg.messages import AttemptOffer, MaskedUpload, Position
from privacy.secagg.suites import Suite
from protos import codec, codec_transport
from protos.envelope import MAX_CHUNK_BYTES, Chunk, UploadAnnounced

MEASURED: Final = 9  # participants, spread over the roster, whose median is taken
LARGEST: Final = 8.0  # of entries of real updates
ADAPTER_HASH: Final = hashes.adapter_hash(b"the global adapter of a benchmark")

Witness = Callable[[Message], None]  # is shown every accepted message


@dataclass(frozen=True, slots=True)
class Case:
    """A benchmark's size: participants, entries, neighbours of each, dropouts before the upload; and its suite."""

    participants: int
    entries: int
    neighbours: int
    dropouts: int
    suite: Suite

    @classmethod
    def parse(cls, name: str) -> Case:
        """Return the case of a name such as ``n10_d1e6_k9_drop1``, of suite 1 unless it ends in ``_suite2``."""
        n, d, k, drop, *suite = name.split("_")
        entries = int(float(d[1:]))
        return cls(int(n[1:]), entries, int(k[1:]), int(drop[len("drop") :]), 2 if suite == ["suite2"] else 1)

    def plan(self) -> tuple[VerifiedPlan, dict[str, keys.SigningKey]]:
        """Return a plan of this size and everybody's identity key; its graph need not be strong enough for use."""
        if self.neighbours == self.participants - 1:
            return plans.make_plan(self.participants, self.entries, suite=self.suite)
        graph = Graph(
            kind="k-regular",
            neighbours=self.neighbours,
            share_threshold=self.neighbours // 2 + 1,
            max_dropouts=self.dropouts or plans.tolerated(self.participants),
        )
        with patch.object(graph_bounds, "check"):  # what a smaller graph costs may be asked, though no plan may use it
            return plans.make_plan(self.participants, self.entries, graph=graph, suite=self.suite)


@dataclass(slots=True)
class Player:
    """A participant, the processor time that it used, and the bytes that it uploaded."""

    name: str
    state: State
    memory: RunMemory
    measured: bool
    seconds: float = 0.0
    uploaded: int = 0


@dataclass(slots=True)
class Outcome:
    """What a round cost."""

    client_ms: float
    coordinator_ms: float
    bytes_per_entry: float
    seconds: float  # of the whole round, everybody in this process
    cpu_seconds: float  # the processor time of that: what counts where the machine is shared
    by_phase: dict[str, tuple[float, float]] = field(default_factory=dict)  # milliseconds of client and coordinator

    def least(self, other: Outcome) -> Outcome:
        """Return the outcome with the least times of two rounds of one case."""
        phases = {
            name: (min(mine[0], theirs[0]), min(mine[1], theirs[1]))
            for name, mine in self.by_phase.items()
            for theirs in [other.by_phase[name]]
        }
        return Outcome(
            client_ms=min(self.client_ms, other.client_ms),
            coordinator_ms=min(self.coordinator_ms, other.coordinator_ms),
            bytes_per_entry=self.bytes_per_entry,
            seconds=min(self.seconds, other.seconds),
            cpu_seconds=min(self.cpu_seconds, other.cpu_seconds),
            by_phase=phases,
        )


class Memo:
    """Takes the outcome of an identical verification from whoever did it first."""

    def __init__(self) -> None:
        self._verify = keys.verify
        self._seen: dict[tuple[bytes, bytes], tuple[bytes, bool]] = {}

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool:
        """Verify, or know the outcome."""
        known = self._seen.get((public, signature))
        if known is None or known[0] != message:
            known = self._seen[public, signature] = message, self._verify(public, signature, message)
        return known[1]


class Stage:
    """One round of one case.

    ``measured`` participants, spread over the roster, memoise nothing. With ``reals`` updates are float32:
    participants encode them and the coordinator decodes their mean, on the clock.
    """

    def __init__(
        self, case: Case, witness: Witness | None = None, *, reals: bool = False, measured: int = MEASURED
    ) -> None:
        plan, identities = case.plan()
        self.reals = reals
        self.case, self.plan, self.witness = case, plan, witness
        self.clamp = plan.plan.encoding.clamp
        self.scale_exponent = int(math.log2(self.clamp / LARGEST))  # the finest in which real updates are not clamped
        at = Position(plan.hash, round=1, attempt=1)
        self.offer = AttemptOffer(at, hashes.genesis_transcript(plan.hash), ADAPTER_HASH)
        self.coordinator = CoordinatorRound(plan, self.offer)
        names = sorted(identities)
        self.dropouts = frozenset(names[i] for i in _spread(case.participants, case.dropouts))
        there = [name for name in names if name not in self.dropouts]
        chosen = {there[i] for i in _spread(len(there), min(measured, len(there)))}
        self.players = {
            name: Player(
                name, Idle(Participant(plan, name, identities[name])), RunMemory.empty(plan.hash), name in chosen
            )
            for name in names
        }
        self.random = SystemRandom()
        self.by_phase: dict[str, list[float]] = {}
        self._memo = Memo()
        self._aside = [0.0, 0.0]  # seconds and processor time of what is not the round
        self.total: NDArray[Any] = np.zeros(case.entries, dtype=np.float64 if reals else np.int64)

    def play(self) -> Outcome:
        """Play the round.

        Raises:
            AssertionError: the sum is not the survivors'.
        """
        gc.collect()
        gc.disable()  # a participant's own process has a small heap, not everybody's
        try:
            started, used = time.perf_counter(), time.process_time()
            self._phases()
            seconds = time.perf_counter() - started - self._aside[0]
            cpu_seconds = time.process_time() - used - self._aside[1]
        finally:
            gc.enable()
        measured = [player for player in self.players.values() if player.measured]
        return Outcome(
            client_ms=1e3 * median(player.seconds for player in measured),
            coordinator_ms=1e3 * sum(coordinator for _, coordinator in self.by_phase.values()),
            bytes_per_entry=median(player.uploaded for player in measured) / self.case.entries,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            by_phase={phase: (1e3 * a / len(measured), 1e3 * b) for phase, (a, b) in self.by_phase.items()},
        )

    def _phases(self) -> None:
        while self.coordinator.phase is not Phase.RESULT:
            self._phase()
        certificate = self.coordinator.result.certificate
        for player in self.players.values():
            self._hear(player, certificate)
        self._check_sum(self.coordinator.result)
        assert set(self.coordinator.result.dropouts) == self.dropouts

    def _phase(self) -> None:
        """Let everybody answer who is there; dropouts are lost before their upload."""
        phase, expected = self.coordinator.phase, self.coordinator.expected()
        gone = self.dropouts if phase is Phase.COLLECT_MASKED else frozenset[str]()
        for name in sorted(expected - gone):
            player = self.players[name]
            message = self._hear(player, self._told(player))
            if isinstance(player.state, Ready):
                message = self._mask(player, player.state)
            assert message is not None
            # The daemon goes on when a quorum is there; the others come late.
            if phase in (Phase.AGREE_SURVIVORS, Phase.UNMASK) and self.coordinator.settled():
                continue
            self._send(message)
        with self._clock(phase.name, coordinator=True):
            self.coordinator.close()

    def _check_sum(self, result: RoundResult) -> None:
        if not self.reals:
            assert np.array_equal(result.total(), self.total)
            return
        counted = len(result.survivors)
        mean = np.empty(self.case.entries, dtype=np.float32)  # as a global adapter is
        with self._clock("RESULT", coordinator=True):
            for start, entries in result.blocks():
                decoded = unfixed(entries, scale_exponent=self.scale_exponent, divisor=counted)
                mean[start : start + entries.size] = decoded
        np.testing.assert_allclose(mean, self.total / counted, atol=2.0**-self.scale_exponent)

    def _hear(self, player: Player, told: Told) -> Message | None:
        with self._client(player):
            step = hear(player.state, told, player.memory, self.random)
        if step.record is not None:
            player.memory = player.memory.apply(step.record)
        player.state = step.state
        if player.measured and step.message is not None:
            player.uploaded += _sent_bytes(self.plan.plan.run_id, step.message)
        return step.message

    def _mask(self, player: Player, ready: Ready) -> Message | None:
        offer, update = ready.offer, self.update(player)
        with self._client(player):
            encoded = fixed(update, scale_exponent=self.scale_exponent, clamp=self.clamp) if self.reals else update
            words = ready.participant.encode(offer.position.round, encoded)
        durable = UpdateEncoded(offer.position.round, bytes(32), offer.adapter_hash, offer.previous_transcript)
        player.memory = player.memory.apply(durable)
        return self._hear(player, EncodedUpdate(words))

    def update(self, player: Player) -> NDArray[Any]:
        """Return integers as a trainer makes them, or real numbers, and add them to what the sum must be."""
        source, size = np.random.default_rng(self.plan.plan.index(player.name)), self.case.entries
        update: NDArray[Any]
        if self.reals:
            update = source.uniform(-LARGEST, LARGEST, size).astype(np.float32)
        else:
            update = source.integers(-self.clamp, self.clamp, size=size, endpoint=True, dtype=np.int64)
        self.total += update
        return update

    def _told(self, player: Player) -> Outgoing:
        with self._clock(self.coordinator.phase.name, coordinator=True):
            told = self.coordinator.outbox(player.name)
        assert told is not None
        return told

    def _send(self, message: Message) -> None:
        with self._clock(self.coordinator.phase.name, coordinator=True):
            assert self.coordinator.receive(message)
        if self.witness is not None:  # who writes the round down does so off the clock
            started, used = time.perf_counter(), time.process_time()
            self.witness(message)
            self._aside[0] += time.perf_counter() - started
            self._aside[1] += time.process_time() - used

    @contextmanager
    def _client(self, player: Player) -> Iterator[None]:
        if not player.measured:
            with patch.object(keys, "verify", self._memo):
                yield
            return
        before = time.process_time()
        with self._clock(self.coordinator.phase.name, coordinator=False):
            yield
        player.seconds += time.process_time() - before

    @contextmanager
    def _clock(self, phase: str, *, coordinator: bool) -> Iterator[None]:
        before = time.process_time()
        yield
        self.by_phase.setdefault(phase, [0.0, 0.0])[coordinator] += time.process_time() - before


def _sent_bytes(run_id: str, message: Message) -> int:
    """Return the bytes of a message as it is sent; of a masked update also its announcement and chunks."""
    if not isinstance(message, MaskedUpload):
        return len(codec.encode_submission(message))
    receipt, masked = message.receipt, message.masked
    announced = UploadAnnounced(run_id, receipt.position, receipt.masked_hash, receipt.length)
    parts: list[UploadAnnounced | Chunk] = [announced]
    parts += [Chunk(at, bytes(masked[at : at + MAX_CHUNK_BYTES])) for at in range(0, len(masked), MAX_CHUNK_BYTES)]
    sizes = (len(codec_transport.encode_upload_part(part)) for part in parts)
    return len(codec.encode_submission(receipt)) + sum(sizes)


def _spread(among: int, count: int) -> Sequence[int]:
    """Return ``count`` places spread evenly over ``among``."""
    return [(2 * i + 1) * among // (2 * count) for i in range(count)]
