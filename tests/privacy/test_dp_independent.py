"""Every printed epsilon against an accountant of its own making: exact where there is no sampling, tilted elsewhere.

Tilting by exp(order * loss) before the Fourier transform, and back after it, keeps tails that doubles would lose: that
shows where a plain transform (the library's) gives less than the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.dp import rdp
from privacy.dp.accountants import LEMMA_SLACK, cross_checked, epsilon
from privacy.dp.events import Composed, Gaussian, PoissonSampled, steps

CELLS = 2**17  # of the composed loss
SLICES = 200_001  # of one step's noise
ORDERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
Curve = Callable[[float], float]


def solved(curve: Curve, delta: float) -> float:
    """Return the epsilon at which a falling curve of deltas passes delta."""
    if curve(0.0) <= delta:
        return 0.0
    high = 1.0
    while curve(high) > delta:
        high *= 2
    return float(brentq(lambda value: curve(value) - delta, 0.0, high, xtol=1e-12))


def exact(multiplier: float, count: int, delta: float) -> float:
    """Return the epsilon of Gaussian releases without sampling (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(count) / multiplier

    def curve(value: float) -> float:
        first = norm.logcdf(mu / 2 - value / mu)
        second = value + norm.logcdf(-mu / 2 - value / mu)
        return float(-math.exp(first) * math.expm1(min(second - first, 0.0)))

    return solved(curve, delta)


def losses(rate: float, multiplier: float, *, removed: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one step's privacy losses and their probabilities, slice by slice, with the unit or without it."""
    edges = np.linspace(-12 * multiplier, 1 + 12 * multiplier, SLICES)
    middle = (edges[1:] + edges[:-1]) / 2
    loss = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * middle - 1) / (2 * multiplier**2))
    shares = ((1 - rate, 0.0), (rate, 1.0)) if removed else ((1.0, 0.0),)
    below = sum(share * norm.cdf(edges, at, multiplier) for share, at in shares)
    above = sum(share * norm.sf(edges, at, multiplier) for share, at in shares)
    mass = np.where(middle < 0.5, np.diff(below), -np.diff(above))
    return (loss if removed else -loss), np.maximum(mass, 1e-320)


def tilted(rate: float, multiplier: float, count: int, delta: float) -> float:
    """Return the epsilon of sampled Gaussian steps, an estimate good to about 1e-4."""
    return max(
        solved(tilted_curve(*losses(rate, multiplier, removed=one), count, delta), delta) for one in (True, False)
    )


def tilted_curve(loss: NDArray[np.float64], mass: NDArray[np.float64], count: int, delta: float) -> Curve:
    def moment(order: float) -> float:
        return float(np.logaddexp.reduce(order * loss + np.log(mass)))

    order = min(ORDERS, key=lambda one: (count * moment(one) - math.log(delta)) / one)
    log_moment = moment(order)
    weight = np.exp(order * loss + np.log(mass) - log_moment)
    mean, seen = float(weight @ loss), loss[weight > 1e-18]
    spread = math.sqrt(float(weight @ (loss - mean) ** 2))
    cell = (22 * spread * math.sqrt(count) + 2 * float(np.ptp(seen))) / CELLS
    place = loss / cell  # each loss is split between two cells, so that the mean stays
    low = np.floor(place)
    first = int(low.min())
    at = np.minimum((low - first).astype(np.int64), CELLS - 2)
    one = np.bincount(at, weights=weight * (low + 1 - place), minlength=CELLS)
    one += np.bincount(at + 1, weights=weight * (place - low), minlength=CELLS)
    composed = np.maximum(np.fft.irfft(np.fft.rfft(one) ** count, CELLS), 0)
    cells = np.arange(CELLS) + first * count
    cells = cells - np.rint((cells - mean * count / cell) / CELLS).astype(np.int64) * CELLS
    total = cells * cell
    back = np.log(np.maximum(composed, 1e-300)) - order * total + count * log_moment

    def curve(value: float) -> float:
        kept = (total > value) & (composed > 1e-15)
        return float(np.exp(back[kept]) @ -np.expm1(value - total[kept]))

    return curve


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
