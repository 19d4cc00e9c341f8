"""How long training takes to whoever waits for its result: whole periods, whatever the batch.

How many examples are in a batch is secret, and how long a step takes tells it. So a round's training ends only after
periods that the largest batch would need at the machine's present speed, which synthetic rows show.

Guarantees: how many periods a round takes follows from the plan, from the machine's speed and from the rounds before;
of its own batch it tells only that the machine became too slow for it in the middle of the round.
Leaves to others: how long a period must be (``training``), the plan's own least time (``participation``).
Source: docs/privacy-accounting.md section 2; ADR 0047.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privacy.dp.sampling import TAIL_BITS, largest_batch
from privacy.plan_parts import Privacy

SHORTEST: Final = 0.001  # seconds of a period
RECENT: Final = 3  # measurements of the machine's speed, of which the middle one counts


@dataclass(frozen=True, slots=True)
class FixedDuration:
    """A clock, and a way to wait.

    Attributes:
        monotonic: seconds that never go backwards.
        wait: waits some seconds; may return early when the daemon stops, after which nothing is sent.
    """

    monotonic: Callable[[], float]
    wait: Callable[[float], object]

    def median_seconds(self, work: Callable[[], object], *, times: int) -> float:
        """Do some work a few times and return how many seconds it took in the middle: others may use the machine."""
        return median(self._seconds(work) for _ in range(times))

    def _seconds(self, work: Callable[[], object]) -> float:
        began = self.monotonic()
        work()
        return self.monotonic() - began

    @contextmanager
    def pad(self, least: float) -> Iterator[None]:
        """Pad the block's running time to ``least`` seconds, or twice, four times, ... as many, even if it raises."""
        began = self.monotonic()
        try:
            yield
        finally:
            spent, slot = self.monotonic() - began, least
            while slot < spent:
                slot *= 2
            self.wait(slot - spent)


class Slots:
    """How many periods each round of a run takes: as many as the machine's speed asks for, never fewer than before.

    How slow the machine is at present is measured on synthetic rows, at a round's begin and within its time. Of a
    round's measurement and the two before the middle one counts, so that a moment's load changes nothing. What still
    takes longer, as the machine became slower in the middle, doubles the periods, for that round and all that follow.

    Args:
        pace: clock and way to wait.
        period: seconds, of which a round takes one while the machine is as fast as when it was rehearsed.
        spare: how many times slower the machine may be within a period.
    """

    def __init__(self, pace: FixedDuration, period: float, *, spare: float) -> None:
        self._pace = pace
        self._spare = spare
        self._slowness = [1.0, 1.0]
        self.period = max(period, SHORTEST)
        self.count = 1

    @contextmanager
    def pad(self, slowness: Callable[[], float]) -> Iterator[None]:
        """Pad the block's running time to the periods that a round takes now, even if it raises.

        Args:
            slowness: measures how many times longer than in the rehearsal the same work takes; reads no data.
        """
        began = self._pace.monotonic()
        self._slowness = [*self._slowness, slowness()][-RECENT:]
        self.count = max(self.count, math.ceil(median(self._slowness) / self._spare))
        try:
            yield
        finally:
            spent = self._pace.monotonic() - began
            while self.count * self.period < spent:
                self.count *= 2
            self._pace.wait(self.count * self.period - spent)


def max_micro_batches(privacy: Privacy, *, units: NDArray[np.int64], size: int, fixed_slots: bool) -> int:
    """Return how many micro-batches a step takes, but for a probability below 2^-40; from public numbers alone.

    Args:
        privacy: of the plan.
        units: from which batches are sampled; where they are examples, by their rows.
        size: of a micro-batch.
        fixed_slots: whether a row always has the same slot, so that rows of one slot come one after the other.
    """
    rate = privacy.bin_rate
    if privacy.unit == "user":
        rows = largest_batch(units.size, rate) * privacy.max_rows_per_user
        return rows if fixed_slots else math.ceil(rows / size)
    if fixed_slots:
        most = int(np.bincount(units % size, minlength=1).max())  # of one slot
        return largest_batch(most, rate, bits=TAIL_BITS + math.log2(size))
    return math.ceil(largest_batch(units.size, rate) / size)
