"""Discrete Gaussian noise, exactly: no float takes part, so no low bits betray what was noised.

Guarantees: an entry is the integer y with probability proportional to exp(-y^2 / 2^(j + 1)), up to 2^-2900; entries are
independent; all randomness comes from the given source; the time taken does not depend on any data.
Leaves to others: which sigma (``calibration``), sampling faster (``fast_noise``, whose reference and fallback this is).
Source: Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, algorithms 1 to 3,
with sigma^2 = 2^j and t = 2^ceil(j/2), so that every probability is a masked word compared with an integer.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from privacy.interfaces import RandomSource

MAX_EXPONENT: Final = 50  # (|y| - sigma^2/t)^2 stays within int64 for the candidates below
TAIL: Final = 64  # candidates beyond 64 t, and t is at least sigma, are rejected: once in e^1984 they would be accepted
LEAST_BATCH: Final = 64  # candidates drawn at once; about two in three are accepted
_WORD_BYTES: Final = 8
_Integers = NDArray[np.int64]
_Flags = NDArray[np.bool_]


def discrete_gaussian(count: int, exponent: int, random: RandomSource) -> NDArray[np.int64]:
    """Return ``count`` independent draws of the discrete Gaussian whose variance is 2^exponent.

    Args:
        count: how many, shape (count,) int64.
        exponent: j of the plan, 0 to 50.
        random: secret bytes; about 170 of them an entry.

    Raises:
        ValueError: the exponent is out of range.
    """
    check_exponent(exponent)
    scale = -(-exponent // 2)  # of the candidates: t = 2^scale
    parts: list[_Integers] = []
    missing = count
    while missing > 0:
        candidates = _discrete_laplace(max(LEAST_BATCH, missing + missing // 2), scale, random)
        distance = np.abs(candidates) - (1 << (exponent - scale))
        accepted = candidates[_bernoulli_exp(distance * distance, exponent + 1, random)][:missing]
        parts.append(accepted)
        missing -= accepted.size
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def check_exponent(exponent: int) -> None:
    """Refuse an exponent for which integers would overflow, with a ``ValueError``."""
    if not 0 <= exponent <= MAX_EXPONENT:
        raise ValueError(f"noise exponent {exponent} is not from 0 to {MAX_EXPONENT}")


def _discrete_laplace(count: int, exponent: int, random: RandomSource) -> _Integers:
    """Return up to ``count`` draws with probability proportional to exp(-|y|/2^exponent) (algorithm 2)."""
    low = _words(count, exponent, random)
    low = low[_bernoulli_exp_fraction(low, exponent, random)]
    high = np.zeros(low.size, dtype=np.int64)
    alive = np.arange(low.size)
    while alive.size:
        alive = alive[_bernoulli_exp_fraction(np.ones(alive.size, dtype=np.int64), 0, random)]
        high[alive] += 1
    near = high < TAIL
    size = low[near] + (high[near] << exponent)
    negative = _words(size.size, 1, random) == 1
    single_zero = ~(negative & (size == 0))  # minus zero would count zero twice
    sampled: _Integers = np.where(negative, -size, size)[single_zero]
    return sampled


def _bernoulli_exp(numerators: _Integers, bits: int, random: RandomSource) -> _Flags:
    """Return independent coins that show true with probability exp(-numerator / 2^bits) (algorithm 1)."""
    whole = numerators >> bits
    result = np.ones(numerators.size, dtype=np.bool_)
    alive = np.flatnonzero(whole)
    passed = 0
    while alive.size:  # e^-1 once for each whole unit, until one of them fails
        heads = _bernoulli_exp_fraction(np.ones(alive.size, dtype=np.int64), 0, random)
        result[alive[~heads]] = False
        passed += 1
        alive = alive[heads]
        alive = alive[whole[alive] > passed]
    rest = np.flatnonzero(result)
    result[rest] = _bernoulli_exp_fraction(numerators[rest] & np.int64((1 << bits) - 1), bits, random)
    return result


def _bernoulli_exp_fraction(numerators: _Integers, bits: int, random: RandomSource) -> _Flags:
    """Return coins of probability exp(-gamma), gamma = numerator / 2^bits in [0, 1].

    Toss coins of probability gamma/1, gamma/2, gamma/3, ... until one shows false: the number of tosses is odd with
    probability exp(-gamma). A coin of gamma/K is one of gamma and one of 1/K, both true.
    """
    odd = np.zeros(numerators.size, dtype=np.bool_)
    alive = np.arange(numerators.size)
    tosses = 0
    while alive.size:
        tosses += 1
        heads = (_words(alive.size, bits, random) < numerators[alive]) & _one_in(tosses, alive.size, random)
        odd[alive[~heads]] = tosses % 2 == 1
        alive = alive[heads]
    return odd


def _one_in(sides: int, count: int, random: RandomSource) -> _Flags:
    """Return coins of probability 1/sides, by rejection of words that are too large."""
    bits = (sides - 1).bit_length()
    result = np.zeros(count, dtype=np.bool_)
    alive = np.arange(count)
    while alive.size:
        word = _words(alive.size, bits, random)
        result[alive] = word == 0
        alive = alive[word >= sides]
    return result


def _words(count: int, bits: int, random: RandomSource) -> _Integers:
    """Return uniform integers of ``bits`` bits, at most 51."""
    if not bits:
        return np.zeros(count, dtype=np.int64)
    words: _Integers = np.frombuffer(random.token_bytes(_WORD_BYTES * count), dtype="<i8")
    return words & np.int64((1 << bits) - 1)
