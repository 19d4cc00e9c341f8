"""Training takes whole periods, and a period is long enough for every batch that happens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import binom

from participant.training.adapters.sums import EMPTY_SLOT, GradientSums
from participant.training.examples import Examples
from participant.training.timing import FixedDuration, Slots, max_micro_batches
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
    ("worked", "taken"), [(0.0, 2.0), (0.5, 2.0), (1.999, 2.0), (2.0, 2.0), (2.001, 4.0), (4.001, 8.0), (7.0, 8.0)]
)
def test_work_whose_length_nobody_can_plan_ends_after_a_time_that_doubles(worked: float, taken: float) -> None:
    clock = Clock()
    with FixedDuration(clock.monotonic, clock.work).pad(2.0):
        clock.work(worked)
    assert clock.seconds == pytest.approx(100.0 + taken)


def test_work_that_fails_takes_as_long() -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError), FixedDuration(clock.monotonic, clock.work).pad(2.0):
        clock.work(1 / 0)
    assert clock.seconds == pytest.approx(102.0)


def rounds(slowness: list[float], worked: list[float]) -> list[float]:
    """Return how long rounds take whose measurements and work are given, in periods of 10 seconds."""
    clock, taken = Clock(), list[float]()
    slots = Slots(FixedDuration(clock.monotonic, clock.work), 10.0, spare=1.5)
    for slow, work in zip(slowness, worked, strict=True):
        began = clock.seconds
        with slots.pad(lambda slow=slow: slow):  # type: ignore[misc]
            clock.work(work)
        taken.append(round((clock.seconds - began) / 10, 6))
    return taken


def test_on_a_slower_machine_small_and_large_batches_take_the_same_time() -> None:
    slow = [2.5] * 6
    small, large = rounds(slow, [4.0] * 6), rounds(slow, [4.0, 4.0, 19.0, 4.0, 19.0, 4.0])
    assert small == large == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_a_moment_s_load_changes_no_round_and_a_machine_that_recovers_keeps_its_periods() -> None:
    assert rounds([1.0, 9.0, 1.0, 1.0], [5.0] * 4) == [1.0] * 4
    assert rounds([3.1, 3.1, 1.0, 1.0, 1.0], [5.0] * 5) == [1.0, 3.0, 3.0, 3.0, 3.0]


def test_a_machine_that_becomes_too_slow_within_a_round_is_given_twice_the_time_for_good() -> None:
    assert rounds([1.0] * 4, [5.0, 10.5, 5.0, 45.0]) == [1.0, 2.0, 2.0, 8.0]


def test_a_round_that_fails_takes_as_long() -> None:
    clock = Clock()
    slots = Slots(FixedDuration(clock.monotonic, clock.work), 10.0, spare=1.5)
    with pytest.raises(ZeroDivisionError), slots.pad(lambda: 1.0):
        clock.work(1 / 0)
    assert clock.seconds == pytest.approx(110.0)


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
    most = max_micro_batches(privacy, units=np.arange(units), size=size, fixed_slots=fixed_slots)
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
