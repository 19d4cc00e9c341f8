"""A whole round in one process: real machines on both sides, all signatures and checks on, a stopwatch on each side.

Guarantees: the sum is compared with the exact sum of the survivors' updates. A measured participant verifies every
signature itself; where one process plays everybody, the others take the outcome of an identical verification
(same key, signature and bytes) from whoever did it first. The coordinator never does.
Leaves to others: training, disks and the network; what is written down for ``bench.memory``.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench import plans
from coordinator.protocol.round import CoordinatorRound, RoundResult
from host.system import SystemRandom
from participant.protocol.memory import RunMemory
from participant.protocol.round import Masked, Participant, Ready, Step, advertise, complete
from privacy.plan import VerifiedPlan
from privacy.plan_parts import Graph
from privacy.secagg import graph_bounds, hashes, keys
from privacy.secagg.fixed_point import Buffer, fixed, unfixed
from privacy.secagg.messages import AttemptOffer, Position, Receipt
from privacy.secagg.suites import Suite
from protos import codec, codec_transport
from protos.envelope import MAX_CHUNK_BYTES, Chunk, Submission, UploadAnnounced

MEASURED: Final = 9  # participants, spread over the roster, whose median is taken
SCALE_EXPONENT: Final = 16  # of real updates
LARGEST: Final = 8.0  # of their entries
ADAPTER_HASH: Final = hashes.adapter_hash(b"the global adapter of a benchmark")

Told = Callable[[Submission, Buffer], None]  # hears every accepted message, with the masked update of a receipt


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
            max_dropouts=self.dropouts,
        )
        with patch.object(graph_bounds, "check"):  # what a smaller graph costs may be asked, though no plan may use it
            return plans.make_plan(self.participants, self.entries, graph=graph, suite=self.suite)


@dataclass(slots=True)
class Player:
    """A participant, the processor time that it used, and the bytes that it uploaded."""

    party: Participant
    memory: RunMemory
    measured: bool
    state: Any = None
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


class _Memo:
    """Takes the outcome of an identical verification from whoever did it first."""

    def __init__(self) -> None:
        self._verify = keys.verify
        self._seen: dict[tuple[bytes, bytes], tuple[bytes, bool]] = {}

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool:
        known = self._seen.get((public, signature))
        if known is None or known[0] != message:
            known = self._seen[public, signature] = message, self._verify(public, signature, message)
        return known[1]


class Stage:
    """One round of one case.

    ``measured`` participants, spread over the roster, memoise nothing. With ``reals`` updates are float32:
    participants encode them and the coordinator decodes their mean, on the clock.
    """

    def __init__(self, case: Case, told: Told | None = None, *, reals: bool = False, measured: int = MEASURED) -> None:
        plan, identities = case.plan()
        self.reals = reals
        self.case, self.plan, self.told = case, plan, told or (lambda *_: None)
        at = Position(plan.hash, round=1, attempt=1)
        self.offer = AttemptOffer(at, hashes.genesis_transcript(plan.hash), ADAPTER_HASH)
        self.coordinator = CoordinatorRound(plan, self.offer)
        names = sorted(identities)
        self.dropouts = frozenset(names[i] for i in _spread(case.participants, case.dropouts))
        there = [name for name in names if name not in self.dropouts]
        chosen = {there[i] for i in _spread(len(there), min(measured, len(there)))}
        self.players = {
            name: Player(Participant(plan, name, identities[name]), RunMemory.empty(plan.hash), name in chosen)
            for name in names
        }
        self.random = SystemRandom()
        self.by_phase: dict[str, list[float]] = {}
        self._memo = _Memo()
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
        measured = [one for one in self.players.values() if one.measured]
        return Outcome(
            client_ms=1e3 * median(one.seconds for one in measured),
            coordinator_ms=1e3 * sum(coordinator for _, coordinator in self.by_phase.values()),
            bytes_per_entry=median(one.uploaded for one in measured) / self.case.entries,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            by_phase={phase: (1e3 * a / len(measured), 1e3 * b) for phase, (a, b) in self.by_phase.items()},
        )

    def _phases(self) -> None:
        coordinator = self.coordinator
        for one in self.players.values():
            self._send(self._step(one, partial(advertise, one.party, self.offer, one.memory, self.random)))
        self._close()
        for one in self.players.values():
            told = self._told(one)
            self._send(self._step(one, partial(one.state.on_advertisements, told, self.random)))
        self._close()
        for name, one in self.players.items():
            if name not in self.dropouts:
                self._upload(one)
        self._close()
        there = [one for name, one in self.players.items() if name not in self.dropouts]
        for handle in ("on_survivors", "on_unmask"):
            for one in there:
                told = self._told(one)
                message = self._step(one, partial(getattr(one.state, handle), told, one.memory))
                if not coordinator.settled():  # the daemon goes on when a quorum is there; the others come late
                    self._send(message)
            self._close()
        certificate = coordinator.result.certificate
        for one in self.players.values():
            with self._client(one):
                verified = one.state.quorum if isinstance(one.state, Masked) else None
                complete(one.party, certificate, one.memory, verified=verified)
        self._check_sum(coordinator.result)
        assert set(coordinator.result.dropouts) == self.dropouts

    def _check_sum(self, result: RoundResult) -> None:
        if not self.reals:
            assert np.array_equal(result.total(), self.total)
            return
        counted = len(result.survivors)
        with self._clock("RESULT", coordinator=True):
            mean = unfixed(result.total(), scale_exponent=SCALE_EXPONENT, divisor=counted)
        np.testing.assert_allclose(mean, self.total / counted, atol=2.0**-SCALE_EXPONENT)

    def _step(self, one: Player, work: Callable[[], Step[Any]]) -> Any:
        with self._client(one):
            step = work()
        if step.record is not None:
            one.memory = one.memory.apply(step.record)
        one.state = step.state
        if one.measured and step.message is not None:
            one.uploaded += len(codec.encode_submission(step.message))
        return step.message

    def _upload(self, one: Player) -> None:
        told, update = self._told(one), self.update(one)
        with self._client(one):
            ready = one.state.on_shares(told).state
        assert isinstance(ready, Ready)
        masked: Buffer = b""

        def mask() -> Step[Any]:
            nonlocal masked
            encoded = fixed(update, scale_exponent=SCALE_EXPONENT, clamp=plans.CLAMP) if self.reals else update
            step, masked = ready.mask(encoded)
            return step

        receipt = self._step(one, mask)
        assert isinstance(receipt, Receipt)
        if one.measured:
            one.uploaded += _wire_bytes(self.plan.plan.run_id, receipt, masked)
        with self._clock("COLLECT_MASKED", coordinator=True):
            assert self.coordinator.accumulate(receipt, masked)
        self._tell(receipt, masked)

    def update(self, one: Player) -> NDArray[Any]:
        """Return integers as a trainer makes them, or real numbers, and add them to what the sum must be."""
        source, size = np.random.default_rng(self.plan.plan.index(one.party.me)), self.case.entries
        update: NDArray[Any]
        if self.reals:
            update = source.uniform(-LARGEST, LARGEST, size).astype(np.float32)
        else:
            update = source.integers(-plans.CLAMP, plans.CLAMP, size=size, endpoint=True, dtype=np.int64)
        self.total += update
        return update

    def _told(self, one: Player) -> Any:
        with self._clock(self.coordinator.phase.name, coordinator=True):
            return self.coordinator.outbox(one.party.me)

    def _send(self, message: Any) -> None:
        with self._clock(self.coordinator.phase.name, coordinator=True):
            assert self.coordinator.receive(message)
        self._tell(message, b"")

    def _tell(self, message: Any, masked: Buffer) -> None:
        """Tell who writes the round down, off the clock."""
        started, used = time.perf_counter(), time.process_time()
        self.told(message, masked)
        self._aside[0] += time.perf_counter() - started
        self._aside[1] += time.process_time() - used

    def _close(self) -> None:
        with self._clock(self.coordinator.phase.name, coordinator=True):
            self.coordinator.close()

    @contextmanager
    def _client(self, one: Player) -> Iterator[None]:
        if not one.measured:
            with patch.object(keys, "verify", self._memo):
                yield
            return
        before = time.process_time()
        with self._clock(self.coordinator.phase.name, coordinator=False):
            yield
        one.seconds += time.process_time() - before

    @contextmanager
    def _clock(self, phase: str, *, coordinator: bool) -> Iterator[None]:
        before = time.process_time()
        yield
        self.by_phase.setdefault(phase, [0.0, 0.0])[coordinator] += time.process_time() - before


def _wire_bytes(run_id: str, receipt: Receipt, masked: Buffer) -> int:
    """Return the bytes of a masked update's upload: announcement and chunks as they are sent."""
    announced = UploadAnnounced(run_id, receipt.position, receipt.masked_hash, receipt.length)
    parts: list[UploadAnnounced | Chunk] = [announced]
    parts += [Chunk(at, bytes(masked[at : at + MAX_CHUNK_BYTES])) for at in range(0, len(masked), MAX_CHUNK_BYTES)]
    return sum(len(codec_transport.encode_upload_part(part)) for part in parts)


def _spread(among: int, count: int) -> Sequence[int]:
    """Return ``count`` places spread evenly over ``among``."""
    return [(2 * i + 1) * among // (2 * count) for i in range(count)]
