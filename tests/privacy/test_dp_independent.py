"""Every printed epsilon against an accountant of the tests' own (``tests.worlds.accountant``)."""

from __future__ import annotations

import math

import pytest

from privacy.dp import rdp
from privacy.dp.accountants import LEMMA_SLACK, cross_checked, epsilon
from privacy.dp.events import Composed, Gaussian, PoissonSampled, steps
from tests.worlds.accountant import exact, tilted


@pytest.mark.parametrize("count", [1, 100, 10_000, 100_000])
@pytest.mark.parametrize("delta", [1e-5, 1e-9, 1e-10, 1e-12, 1e-14])
@pytest.mark.parametrize("distance", [0.3, 3.0])
def test_no_epsilon_is_below_the_exact_one_however_small_delta_is(count: int, delta: float, distance: float) -> None:
    multiplier = math.sqrt(count) / distance
    claimed = epsilon(Composed(Gaussian(multiplier), count), delta)
    truth = exact(multiplier, count, delta)
    assert claimed >= truth
    if count * 1e-14 < delta:  # where doubles can tell
        assert claimed <= 1.01 * truth + LEMMA_SLACK


SAMPLED = {
    "the documentation's": (0.1, 1.12, 100, 1e-5),
    "ten thousand steps": (0.01, 1.0, 10_000, 1e-5),
    "little noise": (0.01, 0.4, 5, 1e-6),
    "nearly everybody in each batch": (0.9, 2.0, 10, 1e-12),
    "hardly anybody in each batch": (1e-4, 0.5, 100_000, 1e-6),
    "one step of one in ten thousand": (1e-4, 0.3, 1, 1e-5),
    "much noise": (0.5, 50.0, 100, 1e-5),
    "a tiny delta": (0.1, 1.0, 100, 1e-12),
    "a hundred thousand steps": (0.1, 20.0, 100_000, 1e-8),
}


@pytest.mark.parametrize(("rate", "multiplier", "count", "delta"), SAMPLED.values(), ids=SAMPLED.keys())
def test_a_sampled_epsilon_is_an_upper_bound_and_within_one_percent(
    rate: float, multiplier: float, count: int, delta: float
) -> None:
    claimed = epsilon(Composed(PoissonSampled(rate, Gaussian(multiplier)), count), delta)
    found = tilted(rate, multiplier, count, delta)
    assert found * (1 - 1e-5) <= claimed <= found * 1.01


BEYOND_DOUBLES = {
    "a hundred thousand steps at 1e-12": (1e-4, 1.0, 100_000, 1e-12),
    "ten thousand at 1e-13": (0.05, 0.8, 10_000, 1e-13),
    "a thousand at 1e-14": (0.1, 2.0, 1000, 1e-14),
}


@pytest.mark.parametrize(("rate", "multiplier", "count", "delta"), BEYOND_DOUBLES.values(), ids=BEYOND_DOUBLES.keys())
def test_where_doubles_cannot_tell_the_renyi_bound_is_given_and_no_accountant_disagrees(
    rate: float, multiplier: float, count: int, delta: float
) -> None:
    event = Composed(PoissonSampled(rate, Gaussian(multiplier)), count)
    checks = cross_checked(event, delta)
    assert checks.pld == epsilon(event, delta) == pytest.approx(rdp.least_of(steps(event).items(), delta), abs=1e-8)
    assert checks.pld > tilted(rate, multiplier, count, delta)
