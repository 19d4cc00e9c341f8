"""Figures of the noise: is there enough of it, is it the discrete Gaussian, and is it new each time?

Guarantees: each figure has the chance that its text says, as long as noise is what it is claimed to be.
Leaves to others: what so many figures show by chance (``checks``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privacy.dp import chance
from privacy.dp.chance import Nats
from simulation.empirical.evidence import Evidence, Family

STEPS: Final = tuple(step / 4 for step in range(-20, 21))  # sigmas between the cells of the noise's histogram
MODULI: Final = (8, 3, 5, 7)  # remainders by which noise is even: rounded noise has a lattice

Integers = NDArray[np.int64]


def amounts(of: Evidence) -> Iterator[Family]:
    """Is there as much noise as there should be: in each round, tensor and entry, and wherever there is data?"""
    names, squares = of.names, of.noise.astype(np.float64) ** 2
    by_round, by_entry = squares.mean(axis=2), squares.mean(axis=(0, 1))
    n, rounds, entries = squares.shape

    def carries(who: str, where: str, ratio: float) -> str:
        return f"{who}'s noise {where} carries {ratio:.2f} of its variance"

    yield Family(
        chance.of_squares(by_round, entries), lambda p, t: carries(names[p], f"in round {t + 1}", by_round[p, t])
    )
    yield Family(
        chance.of_squares(by_entry, n * rounds),
        lambda entry: carries("everybody", f"in entry {entry}", by_entry[entry]),
    )
    for word, flags in (*of.strata.items(), *of.tensors.items()):
        draws = np.broadcast_to(flags, squares.shape).sum(axis=(1, 2))
        ratios = np.divide((squares * flags).sum(axis=(1, 2)), draws, out=np.ones(n), where=draws > 0)
        yield Family(
            chance.of_squares(ratios, draws),
            lambda p, word=word, ratios=ratios: carries(names[p], word, ratios[p]),
        )


def shapes(of: Evidence) -> Iterator[Family]:
    """Is it the discrete Gaussian: in every cell of its histogram and in its low bits, with data and without?"""
    edges = np.round(np.array(STEPS) * of.sigma).astype(np.int64)
    expected = _cells(of.sigma, edges)
    for word, flags in of.strata.items():
        noise = of.seen.noise[flags]
        counts = np.bincount(np.searchsorted(edges, noise, side="right"), minlength=expected.size)
        yield Family(
            chance.of_counts(counts, noise.size, expected),
            lambda cell, word=word, counts=counts, size=noise.size: (
                f"{counts[cell]} of {size} values {word} lie {_between(cell)}, {size * expected[cell]:.0f} should"
            ),
        )
        beyond, due = _beyond(counts), _beyond(expected)
        yield Family(
            chance.of_counts(beyond, noise.size, due),
            lambda step, word=word, beyond=beyond, due=due, size=noise.size: (
                f"{beyond[step]:.0f} of {size} values {word} lie beyond {-STEPS[step]:g} sigma on either side,"
                f" {size * due[step]:.0f} should"
            ),
        )
        for modulus in MODULI:
            left = np.bincount(noise % modulus, minlength=modulus)
            yield Family(
                chance.of_counts(left, noise.size, 1 / modulus),
                lambda rest, word=word, left=left, size=noise.size, modulus=modulus: (
                    f"{left[rest]} of {size} values {word} leave {rest} when divided by {modulus}"
                ),
            )


def _cells(sigma: float, edges: Integers) -> NDArray[np.float64]:
    """Return the discrete Gaussian's chance of each cell between edges, those of both tails included."""
    values = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    weights = np.exp(-((values / sigma) ** 2) / 2)
    found = np.bincount(np.searchsorted(edges, values, side="right"), weights, minlength=len(edges) + 1)
    chances: NDArray[np.float64] = found / found.sum()
    return chances


def _beyond(cells: NDArray[Any]) -> NDArray[np.float64]:
    """Return what lies further out than each step below zero, on either side."""
    outside: NDArray[np.float64] = np.cumsum(cells + cells[::-1])[: len(STEPS) // 2].astype(np.float64)
    return outside


def _between(cell: int) -> str:
    if not cell or cell == len(STEPS):
        return f"beyond {STEPS[0] if not cell else STEPS[-1]:g} sigma"
    return f"between {STEPS[cell - 1]:g} and {STEPS[cell]:g} sigma"


def dependences(of: Evidence) -> Iterator[Family]:
    """Is noise new each time: unlike that of other rounds, participants and entries, and unlike any sum or coin?"""
    n, rounds, entries = of.noise.shape
    names, noise = of.names, of.noise.reshape(n * rounds, entries)

    def releases(a: int, b: int) -> str:
        first, second = (f"{names[place // rounds]} in round {place % rounds + 1}" for place in (a, b))
        return f"the noise of {first} is like that of {second}"

    yield Family(_alike(noise), releases)
    yield Family(_alike(noise.T), lambda a, b: f"noise in entries {a} and {b} is alike in all rounds")
    sums = (of.seen.sums / of.sigma).astype(np.float32)
    yield Family(
        np.array([_follows(of.noise[:, lag:], sums[:, : rounds - lag]) for lag in range(rounds)]),
        lambda lag: f"noise follows the same participant's sum {f'of {lag} rounds earlier' if lag else 'of its round'}",
    )
    coins = of.seen.coins.astype(np.float32)
    for place, rows in enumerate(of.laboratory.rows):
        directions = (of.laboratory.directions[rows] / of.sigma).astype(np.float32)
        found = np.einsum("tr,tr->r", of.noise[place] @ directions.T, coins[place][:, : len(rows)])
        lengths = (directions**2).sum(axis=1) * coins[place][:, : len(rows)].sum(axis=0)
        yield Family(
            chance.of_sum(_over(found, np.sqrt(lengths))),
            lambda row, place=place, rows=rows: (
                f"{names[place]}'s noise has some of canary {rows[row]} when it is drawn"
            ),
        )
    by_row = coins.reshape(n * rounds, -1)
    yield Family(
        chance.of_sum(_over(by_row.T @ noise, np.sqrt(by_row.sum(axis=0))[:, None])),
        lambda row, entry: f"noise in entry {entry} tells whether row {row} was drawn",
    )


def _alike(vectors: NDArray[np.float32]) -> Nats:
    """Return the nats of every pair's inner product; given one of the two, it is a sum of the other's noise."""
    products = vectors @ vectors.T
    lengths = np.sqrt(np.diagonal(products))
    found = chance.of_sum(_over(products, np.maximum(lengths[:, None], lengths[None, :])))
    return np.where(np.tri(len(vectors), dtype=bool), 0.0, found)


def _follows(noise: NDArray[np.float32], sums: NDArray[np.float32]) -> float:
    length = math.sqrt(float(np.sum(sums.astype(np.float64) ** 2)))
    return float(chance.of_sum(float(np.sum(noise.astype(np.float64) * sums)) / length)) if length else 0.0


def _over(found: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float64]:
    ratios: NDArray[np.float64] = np.zeros(np.broadcast(found, lengths).shape)
    np.divide(found, lengths, out=ratios, where=lengths > 0)
    return ratios
