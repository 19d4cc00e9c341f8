"""How long training takes to whoever waits for its result: whole periods, whatever the batch.

How many examples are in a batch is secret, and how long a step takes tells it. So a round's training ends only after a
period that the largest batch would need; what takes longer, on a busy machine, ends after two of them, and so on.

Guarantees: the time from begin to end of :meth:`FixedDuration.pad` tells how many periods it took, and nothing else.
Leaves to others: how long a period must be (``training``), the plan's own least time (``participation``).
Source: docs/privacy-accounting.md section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from privacy.dp.sampling import TAIL_BITS, largest_batch
from privacy.plan_parts import Privacy


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
    def pad(self, period: float) -> Iterator[None]:
        """Pad the block's running time to a whole multiple of ``period`` seconds, even if it raises."""
        began = self.monotonic()
        try:
            yield
        finally:
            spent = self.monotonic() - began
            self.wait(max(1, math.ceil(spent / period)) * period - spent)


def max_micro_batches(privacy: Privacy, *, units: int, size: int, fixed_slots: bool) -> int:
    """Return how many micro-batches a step takes, but for a probability below 2^-40; from public numbers alone.

    Args:
        privacy: of the plan.
        units: from which batches are sampled.
        size: of a micro-batch.
        fixed_slots: whether a row always has the same slot, so that rows of one slot come one after the other.
    """
    rate = privacy.sampling_rate
    if privacy.unit == "user":
        rows = largest_batch(units, rate) * privacy.max_rows_per_user
        return rows if fixed_slots else math.ceil(rows / size)
    if fixed_slots:
        return largest_batch(math.ceil(units / size), rate, bits=TAIL_BITS + math.log2(size))
    return math.ceil(largest_batch(units, rate) / size)
