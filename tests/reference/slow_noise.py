"""The discrete Gaussian sampler once more: Python integers, one word at a time, nothing from ``privacy``.

Canonne, Kamath, Steinke 2020, algorithms 1 to 3, with t = 2^ceil(j/2), as ``privacy.dp.noise_kernel`` uses its words:
the first word of a candidate holds its sign (highest bit) and its remainder (lowest bits); each further coin takes a
word of its own; a die that shows too much is thrown again.
"""

from __future__ import annotations

from collections.abc import Iterator

FAR = 64  # whole units of t; a candidate that far out is given up


def coin_one_in(sides: int, words: Iterator[int]) -> bool:
    """Return true once in ``sides``."""
    faces = 2
    while faces < sides:
        faces *= 2
    while (face := next(words) % faces) >= sides:
        pass
    return face == 0


def coin_exp(numerator: int, denominator: int, words: Iterator[int]) -> bool:
    """Return true with probability exp(-numerator/denominator): algorithm 1."""
    while numerator > denominator:  # a factor of 1/e at a time
        if not coin_exp_fraction(denominator, denominator, words):
            return False
        numerator -= denominator
    if numerator == denominator:  # one more factor of 1/e and an exponent of zero, which takes a word as any other does
        return coin_exp_fraction(denominator, denominator, words) and coin_exp_fraction(0, denominator, words)
    return coin_exp_fraction(numerator, denominator, words)


def coin_exp_fraction(numerator: int, denominator: int, words: Iterator[int]) -> bool:
    """Return true with probability exp(-numerator/denominator) for a fraction from 0 to 1."""
    number = 1
    while True:
        certain = numerator == denominator  # takes no word
        heads = certain or next(words) % denominator < numerator
        if not (heads and (number == 1 or coin_one_in(number, words))):
            return number % 2 == 1
        number += 1


def discrete_gaussian(count: int, exponent: int, words: Iterator[int]) -> list[int]:
    """Return ``count`` entries from words of 64 bits."""
    t, centre = 2 ** ((exponent + 1) // 2), 2 ** (exponent // 2)  # t, sigma^2/t
    entries: list[int] = []
    while len(entries) < count:
        first = next(words)
        remainder, negative = first % t, first >= 2**63
        if t > 1 and not coin_exp_fraction(remainder, t, words):
            continue
        units = 0
        while units < FAR and coin_exp_fraction(1, 1, words):
            units += 1
        size = remainder + t * units
        if units == FAR or (negative and size == 0):
            continue
        if coin_exp((size - centre) ** 2, 2 * 2**exponent, words):
            entries.append(-size if negative else size)
    return entries
