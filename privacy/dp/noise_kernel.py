"""The sampler of ``noise``, compiled: one candidate after the other from a buffer of random words.

Guarantees: an entry is the same function of the words that follow the entry before it, wherever the buffer is cut: a
candidate that does not end within the buffer is given back. No float takes part, no division, no table; a coin is a
masked word compared with an integer.
Leaves to others: where words come from, the checks of arguments (``fast_noise``).
Source: Canonne, Kamath, Steinke, NeurIPS 2020, algorithms 1 to 3, with sigma^2 = 2^j and t = 2^ceil(j/2). Importing
this module needs numba; machine code is kept beside the module, so that it is compiled once.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from privacy.dp.noise import TAIL

Integers = NDArray[np.int64]
_Function = TypeVar("_Function")

NO, YES, CUT = 0, 1, -1  # what a coin shows; CUT: the buffer ended before it fell
SIGN_BIT: Final = 63  # of a candidate's first word, whose lowest bits are its remainder


def _compiled(function: _Function) -> _Function:
    jit: Any = njit
    try:
        compiled: _Function = jit(cache=True)(function)
    except RuntimeError:  # there is no folder to keep machine code in
        compiled = jit(function)
    return compiled


@_compiled
def one_in(sides: int, words: Integers, at: int) -> tuple[int, int]:
    """Toss a coin of probability 1/sides; sides is at least 2.

    Returns:
        What it shows and the place of the next word: a word beyond ``sides`` is thrown again.
    """
    mask = 1
    while mask < sides - 1:
        mask = 2 * mask + 1
    while at < words.size:
        word = words[at] & mask
        at += 1
        if word < sides:
            return (YES if word == 0 else NO), at
    return CUT, at


@_compiled
def exp_fraction(numerator: int, bits: int, words: Integers, at: int) -> tuple[int, int]:
    """Toss a coin of probability exp(-numerator / 2^bits), the fraction from 0 to 1.

    Coins of gamma/1, gamma/2, ... are tossed until one shows false; the number of tosses is odd with that probability.
    """
    mask = (1 << bits) - 1
    tosses = 1
    while True:
        if bits > 0:  # a coin of gamma is certain if gamma = 1, which only bits = 0 stands for
            if at >= words.size:
                return CUT, at
            word = words[at] & mask
            at += 1
            if word >= numerator:
                return tosses & 1, at
        if tosses > 1:
            shown, at = one_in(tosses, words, at)
            if shown != YES:
                return (CUT if shown == CUT else tosses & 1), at
        tosses += 1


@_compiled
def exp_whole(times: int, words: Integers, at: int) -> tuple[int, int]:
    """Toss coins of probability exp(-1) until one shows false, at most ``times``.

    Returns:
        How many showed true, or CUT, and the place of the next word.
    """
    heads = 0
    while heads < times:
        shown, at = exp_fraction(1, 0, words, at)
        if shown != YES:
            return (CUT if shown == CUT else heads), at
        heads += 1
    return heads, at


@_compiled
def candidate(exponent: int, words: Integers, at: int) -> tuple[int, int, int]:
    """Draw a candidate of the discrete Laplace and decide whether it is accepted.

    Returns:
        YES, NO or CUT, the candidate, and the place of the next word.
    """
    if at >= words.size:
        return CUT, 0, at
    first, scale = words[at], (exponent + 1) // 2  # t = 2^scale
    low = first & ((1 << scale) - 1)
    shown, at = exp_fraction(low, scale, words, at + 1) if scale > 0 else (YES, at + 1)
    if shown != YES:
        return shown, 0, at
    high, at = exp_whole(TAIL, words, at)
    if high == CUT:
        return CUT, 0, at
    size = low + (high << scale)
    negative = (first >> SIGN_BIT) & 1
    if high == TAIL or (negative == 1 and size == 0):  # too far out; minus zero would count zero twice
        return NO, 0, at
    distance = size - (1 << (exponent - scale))  # sigma^2/t
    gamma, bits = distance * distance, exponent + 1
    heads, at = exp_whole(gamma >> bits, words, at)
    if heads != gamma >> bits:
        return (CUT if heads == CUT else NO), 0, at
    shown, at = exp_fraction(gamma & ((1 << bits) - 1), bits, words, at)
    return shown, (-size if negative == 1 else size), at


@_compiled
def fill(out: Integers, exponent: int, words: Integers) -> tuple[int, int]:
    """Write accepted candidates to ``out`` until it is full or the words are used up.

    Args:
        out: int64, shape (count,).
        exponent: j, 0 to 50.
        words: uniformly random int64.

    Returns:
        How many entries were written, and how many words they took; the words after them belong to the next entry.
    """
    done, used = 0, 0
    while done < out.size:
        shown, value, at = candidate(exponent, words, used)
        if shown == CUT:
            break
        used = at
        if shown == YES:
            out[done] = value
            done += 1
    return done, used
