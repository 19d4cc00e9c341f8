"""An accountant of the tests' own, exact where there is no sampling and tilted elsewhere.

Tilting by exp(order * loss) before the Fourier transform, and back after it, keeps tails that doubles would lose: that
shows where a plain transform (the library's) gives less than the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

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
