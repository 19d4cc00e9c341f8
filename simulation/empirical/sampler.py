"""Figures of the sampler: are batches independent coins at the plan's rate, over rows, rounds and participants?

Guarantees: each figure counts independent trials, if coins are independent.
Leaves to others: what so many figures show by chance (``checks``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.dp import chance
from simulation.empirical.evidence import Evidence, Family, Flags

Integers = NDArray[np.int64]


def draws(of: Evidence) -> Iterator[Family]:
    """Are the batches independent coins at the plan's rate: in number, over rows, rounds and participants?"""
    coins, valid, rate, names = of.seen.coins, of.valid, of.rate, of.names
    rounds = coins.shape[1]
    rows = valid.sum(axis=1)
    drawn = coins.sum(axis=(1, 2))
    yield Family(
        chance.of_counts(drawn.sum(keepdims=True), rows.sum() * rounds, rate),
        lambda _: f"{drawn.sum()} examples were drawn of {rows.sum() * rounds}, q is {rate:g}",
    )
    yield Family(
        chance.of_counts(drawn, rows * rounds, rate),
        lambda p: f"{names[p]} drew {drawn[p]} examples of {rows[p] * rounds}, q is {rate:g}",
    )
    yield from _sizes(coins.sum(axis=2), rows, rate)
    yield _histogram(
        np.bincount(coins.sum(axis=1)[valid], minlength=rounds + 1),
        _binomial(rounds, rate, rounds),
        "examples were drawn in {} rounds",
    )
    yield from _coincidences(coins, valid, rate, names)


def _sizes(sizes: Integers, rows: Integers, rate: float) -> Iterator[Family]:
    """Count batches of each size, and those that are near the size that is due to their participant."""
    possible = np.arange(rows.max() + 1)
    chances = np.array([_binomial(int(count), rate, int(rows.max())) for count in rows])
    yield _histogram(
        np.bincount(sizes.ravel(), minlength=len(possible)), chances.mean(axis=0), "batches have {} examples"
    )
    due, radii = rate * rows[:, None], possible[1:] / 2
    near = np.array([np.sum(np.abs(sizes - due) <= radius) for radius in radii])
    expected = np.array([np.sum(chances * (np.abs(possible - due) <= radius)) for radius in radii]) / len(rows)
    yield Family(
        chance.of_counts(near, sizes.size, np.minimum(expected, 1.0)),
        lambda at: (
            f"{near[at]} of {sizes.size} batches are within {radii[at]:g} of the size that is due,"
            f" {sizes.size * expected[at]:.0f} should be"
        ),
    )


def _coincidences(coins: Flags, valid: Flags, rate: float, names: Sequence[str]) -> Iterator[Family]:
    """Count how often two coins came up together: of two participants, of two rounds, of two rows, of rounds apart."""
    n, rounds, _ = coins.shape
    both, tossed = coins.astype(np.float64), valid.astype(np.float64)

    def compared(found: NDArray[np.float64], trials: NDArray[np.float64], words: Callable[[int, int], str]) -> Family:
        nats = chance.of_counts(found, trials, rate**2)
        return Family(
            np.where(np.tri(len(found), dtype=bool), 0.0, nats),
            lambda a, b: (
                f"{words(a, b)} {found[a, b]:.0f} rows of {trials[a, b]:.0f}, {rate**2 * trials[a, b]:.0f} were due"
            ),
        )

    flat = both.reshape(n, -1)
    yield compared(flat @ flat.T, rounds * tossed @ tossed.T, lambda a, b: f"{names[a]} and {names[b]} both drew")
    by_round = both.transpose(1, 0, 2).reshape(rounds, -1)
    together = by_round @ by_round.T
    trials = np.full((rounds, rounds), valid.sum(), dtype=np.float64)
    yield compared(together, trials, lambda a, b: f"rounds {a + 1} and {b + 1} both drew")
    by_row = both.transpose(2, 0, 1).reshape(valid.shape[1], -1)
    yield compared(by_row @ by_row.T, rounds * tossed.T @ tossed, lambda a, b: f"rows {a} and {b} were both drawn in")
    for lag in range(1, rounds):
        # Products with a coin in common are not independent: stretches of ``lag`` rounds by turns have none.
        for first in (0, 1):
            starts = np.flatnonzero(np.arange(rounds - lag) // lag % 2 == first)
            found, due = together[starts, starts + lag].sum(), valid.sum() * len(starts)
            yield Family(
                chance.of_counts([found], due, rate**2),
                lambda _, lag=lag, found=found, due=due: (
                    f"{found:.0f} rows of {due} were drawn again {lag} round(s) later, {rate**2 * due:.0f} were due"
                ),
            )


def _histogram(counts: Integers, expected: NDArray[np.float64], words: str) -> Family:
    total = int(counts.sum())
    return Family(
        chance.of_counts(counts, total, expected),
        lambda value: f"{counts[value]} of {total} {words.format(value)}, {total * expected[value]:.0f} should",
    )


def _binomial(trials: int, rate: float, most: int) -> NDArray[np.float64]:
    """Return the chance of 0, 1, ..., ``most`` successes in some trials."""
    found = np.array(
        [math.comb(trials, count) * rate**count * (1 - rate) ** (trials - count) for count in range(most + 1)]
    )
    chances: NDArray[np.float64] = np.clip(found, 0.0, 1.0)
    return chances
