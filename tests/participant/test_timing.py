"""Training takes whole periods, and a period is long enough for every batch that happens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import binom

from participant.training.adapters.sums import EMPTY_SLOT, GradientSums
from participant.training.examples import Examples
from participant.training.timing import FixedDuration, max_micro_batches
from privacy.dp.sampling import TAIL_BITS, largest_batch
from tests.worlds.plans import make_plan

pytestmark = pytest.mark.torch


@dataclass
class Clock:
    """Time that only passes when somebody works or waits."""

    seconds: float = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def work(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.mark.parametrize(
    ("worked", "taken"), [(0.0, 2.0), (0.5, 2.0), (1.999, 2.0), (2.0, 2.0), (2.001, 4.0), (7.0, 8.0)]
)
def test_work_ends_at_the_end_of_a_period(worked: float, taken: float) -> None:
    clock = Clock()
    with FixedDuration(clock.monotonic, clock.work).pad(2.0):
        clock.work(worked)
    assert clock.seconds == pytest.approx(100.0 + taken)


def test_work_that_fails_takes_as_long() -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError), FixedDuration(clock.monotonic, clock.work).pad(2.0):
        clock.work(1 / 0)
    assert clock.seconds == pytest.approx(102.0)


def test_one_slow_try_of_several_does_not_count() -> None:
    clock = Clock()
    seconds = iter([1.0, 30.0, 2.0])
    pace = FixedDuration(clock.monotonic, clock.work)
    assert pace.median_seconds(lambda: clock.work(next(seconds)), times=3) == pytest.approx(2.0)


@pytest.mark.parametrize("units", [1, 24, 267, 10_000, 1_000_000])
@pytest.mark.parametrize("rate", ["0.000001", "0.001", "0.01", "0.5", "0.999", "1"])
def test_hardly_any_batch_is_larger_than_the_largest(units: int, rate: str) -> None:
    most = largest_batch(units, rate)
    assert most <= units
    assert binom.sf(most, units, float(rate)) <= 2.0**-TAIL_BITS
    assert most <= units * float(rate) + 10 + 8 * np.sqrt(units * float(rate) * (1 - float(rate)))


@pytest.mark.parametrize("fixed_slots", [False, True])
@pytest.mark.parametrize(("unit", "rows_of_a_user"), [("example", 0), ("user", 3), ("user", 20)])
def test_no_batch_takes_more_micro_batches_than_are_planned_for(
    unit: str, rows_of_a_user: int, fixed_slots: bool
) -> None:
    privacy = make_plan(
        mode="distributed", privacy={"unit": unit, "max_rows_per_user": rows_of_a_user, "sampling_rate": "0.3"}
    )[0].privacy
    size, units, random = 8, 50, np.random.default_rng(1)
    most = max_micro_batches(privacy, units=units, size=size, fixed_slots=fixed_slots)
    examples = Examples({}, torch.zeros(units * size, dtype=torch.int64))
    sums = GradientSums(None, examples, size, fixed_slots)  # type: ignore[arg-type]  # it only places rows into slots
    taken = []
    for _ in range(200):
        sampled = np.flatnonzero(random.random(units) < 0.3)
        if unit == "example":
            batches = [sampled]
        elif fixed_slots:  # at worst a user's rows share one slot
            batches = [np.arange(rows_of_a_user) * size for _ in sampled]
        else:
            batches = [np.arange(rows_of_a_user * sampled.size)]
        taken.append(sum(len(list(sums._micro_batches(rows))) for rows in batches))
    assert max(taken) <= most
    assert EMPTY_SLOT < 0 < most
