"""How unlikely a figure is if everything is as claimed: bounds on tails, for checks that must not cry wolf.

All are in nats, -log P, because chances of interest are far below what a double holds; all are Chernoff's bounds on
either tail, so they hold at every size of the sample, however far out; all take arrays and return them.

Guarantees: a figure of x nats comes by chance with a probability of at most exp(-x). Gaussian noise is meant; the
discrete Gaussian of sigma 8 or more differs from it by less than 1e-65 (docs/privacy-accounting.md section 4).
Leaves to others: which figures to look at, and how many of them (``simulation.empirical.checks``).
Source: Hoeffding 1963, Theorem 1 (counts, also of trials whose rates differ, by their mean); Canonne, Kamath, Steinke
2020 (the discrete Gaussian is subgaussian).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Nats = NDArray[np.float64]
_EITHER_TAIL: Final = math.log(2)


def of_sum(deviations: ArrayLike) -> Nats:
    """Return the nats of linear combinations of noise, given in their own standard deviations."""
    z = np.asarray(deviations, dtype=np.float64)
    return _at_least_0(z * z / 2)


def of_squares(ratios: ArrayLike, draws: ArrayLike) -> Nats:
    """Return the nats of mean squares of noise.

    Args:
        ratios: mean square over variance.
        draws: how many squares each is the mean of; none says nothing.
    """
    r, count = np.asarray(ratios, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = count / 2 * (r - 1 - np.log(r))
    return _at_least_0(np.where(count == 0, 0.0, nats))


def of_counts(counts: ArrayLike, trials: ArrayLike, rates: ArrayLike) -> Nats:
    """Return the nats of counts of successes in independent trials.

    Args:
        counts: of successes.
        trials: how many; none says nothing.
        rates: the trials' chance of success, or its mean over them.
    """
    n, p = np.asarray(trials, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(n == 0, p, np.asarray(counts, dtype=np.float64) / n)
        yes = np.where(share == 0, 0.0, share * np.log(share / p))
        no = np.where(share == 1, 0.0, (1 - share) * np.log((1 - share) / (1 - p)))
        return _at_least_0(np.where(share == p, 0.0, n * (yes + no)))


def _at_least_0(one_tail: Nats) -> Nats:
    return np.maximum(one_tail - _EITHER_TAIL, 0.0)
