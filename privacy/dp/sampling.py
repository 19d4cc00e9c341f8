"""Poisson sampling from secret coins: each unit of privacy is in a batch with probability q, independently.

Guarantees: the executed rate is the plan's q to within 2^-64, never above it; coins come from the given source alone
and leave this module only as the batch itself.
Leaves to others: what the batch is used for; that nobody logs it (its size and members are secret for ever).
Source: docs/privacy-accounting.md section 2.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privacy.interfaces import RandomSource

BINS_LABEL: Final = b"onlysum/1/bins"
_WORD_BYTES: Final = 8
_WORDS: Final = 2**64
TAIL_BITS: Final = 40  # a batch is larger than the largest one with a probability below 2^-40


def poisson_sample(units: int, rate: str, random: RandomSource) -> NDArray[np.int64]:
    """Return which of ``units`` are in the batch, ascending.

    Args:
        units: how many there are to choose from.
        rate: q as the plan has it, a decimal above 0 and at most 1.
        random: secret bytes, 8 a unit.
    """
    coins = _words(units, random)
    limit = int(Fraction(rate) * _WORDS)
    if limit >= _WORDS:
        return np.arange(units, dtype=np.int64)
    return np.flatnonzero(coins < np.uint64(limit)).astype(np.int64)


def largest_batch(units: int, rate: str, *, bits: float = TAIL_BITS) -> int:
    """Return how many of ``units`` a batch holds at most, but for a probability below 2^-bits.

    Public, as q and the number of units are: what a batch may cost is planned with it.
    Source: Chernoff's bound, P(X >= k) <= exp(-n KL(k/n || q)) for k > n q.
    """
    q = float(rate)

    def hardly_any_is_larger(most: int) -> bool:
        share = (most + 1) / units
        divergence = share * math.log(share / q) + (1 - share) * (math.log((1 - share) / (1 - q)) if share < 1 else 0)
        return units * divergence >= bits * math.log(2)

    expected = math.floor(units * q)
    return bisect_left(range(units), True, lo=min(expected, units), key=hardly_any_is_larger)


def dealt(units: int, bins: int, seed: bytes) -> list[NDArray[np.int64]]:
    """Return which of ``units`` lie in each bin, ascending; sizes differ by one at most.

    A function of public values alone, so that no restart, backup or other copy of the data deals them otherwise: a unit
    in two bins would be counted too little (docs/privacy-accounting.md section 11).

    Args:
        units: how many there are.
        bins: how many there are.
        seed: of the plan and the participant; a single bin needs none.
    """
    if bins == 1:
        return [np.arange(units, dtype=np.int64)]
    words = np.frombuffer(hashlib.shake_256(BINS_LABEL + seed).digest(_WORD_BYTES * units), dtype="<u8")
    order = np.argsort(words, kind="stable")
    return [np.sort(order[one::bins]).astype(np.int64) for one in range(bins)]


def choose(rows: NDArray[np.int64], most: int, random: RandomSource) -> NDArray[np.int64]:
    """Return at most ``most`` of the rows, every subset of that size equally likely, ascending."""
    if rows.size <= most:
        return np.sort(rows)
    order = np.argsort(_words(rows.size, random), kind="stable")
    return np.sort(rows[order[:most]])


def _words(count: int, random: RandomSource) -> NDArray[np.uint64]:
    return np.frombuffer(random.token_bytes(_WORD_BYTES * count), dtype="<u8")
