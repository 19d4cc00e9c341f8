"""Bands of correlated noise: integers for a number of bands, what they are worth, and how many are best.

Guarantees: pure arithmetic on public numbers; whatever it chooses, the claim is computed from the integers that the
plan has (``events``).
Leaves to others: why the claim holds (docs/privacy-accounting.md section 11), calibration, decoding
(``methods.global_adapter``).
Source: Choquette-Choo et al. 2023 (banded matrix factorization); Henzinger, Upadhyay, Upadhyay 2023 (the coefficients
of 1/sqrt(1-x), from which the descent starts).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

FIRST_BAND: Final = 16  # c_0 of what is chosen: finer ratios gain less than a thousandth
COUNTS: Final = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of bands that are tried
WORTH: Final = 0.98  # of the error without bands that the best must stay below, or there are none

Integers = NDArray[np.int64]
Wide = NDArray[np.float64]


def banded(bands: Sequence[int], number: int, own: Integers, earlier: Iterable[tuple[int, Integers]]) -> Integers:
    """Return what a participant masks in a round, but for the noise: its clamped sums, each times its band.

    Args:
        bands: of the plan.
        number: of the round.
        own: clamped sum of the round.
        earlier: rounds before, each with its kept sum; what is too old for a band does not count.
    """
    total = bands[0] * own
    for before, kept in earlier:
        back = number - before
        if 0 < back < len(bands):
            total = total + bands[back] * kept
    return total


def inverse(bands: Sequence[int], rounds: int) -> Wide:
    """Return the first column of C^-1: by how much each round's noise counts in its own and later decoded sums."""
    column = np.zeros(rounds)
    later = np.array(bands[1:], dtype=np.float64)
    for number in range(rounds):
        before = column[max(0, number - later.size) : number][::-1]
        column[number] = (float(number == 0) - later[: before.size] @ before) / bands[0]
    return column


def error(bands: Sequence[int], rounds: int) -> float:
    """Return the rms over rounds of the noise in the sum of all decoded sums so far, for a unit's norm of one.

    It is |c| times that of noise with a standard deviation of one in each round; sqrt((rounds + 1)/2) for [1].
    """
    prefix = np.cumsum(inverse(bands, rounds))
    mean = np.cumsum(prefix**2).mean()
    return math.sqrt(float(mean) * sum(band * band for band in bands))


def chosen(count: int, rounds: int) -> tuple[int, ...]:
    """Return ``count`` integers of little error, none above the one before; [1] for one.

    Raises:
        ValueError: there are more bands than rounds, or none.
    """
    if not 1 <= count <= rounds:
        raise ValueError("a plan has from one band to as many as it has rounds")
    if count == 1:
        return (1,)
    bands = [max(1, round(FIRST_BAND * math.comb(2 * k, k) / 4**k)) for k in range(count)]
    best, moved = error(bands, rounds), True
    while moved:
        moved = False
        for place in range(1, count):
            for step in (-1, 1):
                tried = [*bands[:place], bands[place] + step, *bands[place + 1 :]]
                if min(tried) < 1 or tried != sorted(tried, reverse=True):
                    continue
                if (found := error(tried, rounds)) < best:
                    bands, best, moved = tried, found, True
    return tuple(bands)
