"""What was seen, arranged for the checks: noise in sigmas, strata of sums, and figures with their chances.

Guarantees: nothing here depends on what noise or coins turned out to be; strata are made from the sums alone, so that
noise is independent of them in a healthy run.
Leaves to others: the figures (``noise``, ``sampler``), what they come to (``checks``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from methods.vectors import trained_tensors
from privacy.dp.chance import Nats
from simulation.empirical.laboratory import Laboratory
from simulation.empirical.observation import Observation

SIZES: Final = (0.5, 0.9, 0.99, 0.999)  # parts of all sums that are smaller than a stratum's

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Family:
    """Figures of one kind.

    Attributes:
        nats: how unlikely each is, of any shape.
        describe: says in words what the figure at an index is.
    """

    nats: Nats
    describe: Callable[..., str]


@dataclass(frozen=True)
class Evidence:
    """What was seen, in units in which all participants and rounds are alike."""

    laboratory: Laboratory
    seen: Observation

    @cached_property
    def noise(self) -> NDArray[np.float32]:
        """Noise in sigmas, shape (participants, rounds, entries)."""
        return (self.seen.noise / self.sigma).astype(np.float32)

    @property
    def sigma(self) -> float:
        """Standard deviation of one participant's noise, in steps."""
        return self.laboratory.plan.privacy.sigma

    @property
    def names(self) -> list[str]:
        """The roster's names."""
        return [member.id for member in self.laboratory.plan.roster]

    @cached_property
    def strata(self) -> dict[str, Flags]:
        """Where the sum is nothing, and where it is how large: flags of the noise's shape."""
        sizes = np.abs(self.seen.sums)
        there = sizes[sizes > 0]
        bounds = [1.0, *np.quantile(there, SIZES), math.inf] if there.size else [1.0, math.inf]
        large = [f"{part:.1%} of the sums are smaller" for part in SIZES]
        words = ["where there is data", *(f"where {each}" for each in large)]
        found = {"where there is no data": sizes == 0}
        for word, (low, high) in zip(words, pairwise(bounds), strict=False):
            found[word] = (sizes >= low) & (sizes < high)
        return found

    @property
    def tensors(self) -> dict[str, Flags]:
        """Which entries belong to each tensor, shape (entries,)."""
        recipe = self.laboratory.plan.recipe
        tensors = trained_tensors(recipe, recipe.turn(1))
        numbers = np.repeat(np.arange(len(tensors)), [tensor.entries for tensor in tensors])
        return {f"in {tensor.key}": numbers == number for number, tensor in enumerate(tensors)}

    @cached_property
    def valid(self) -> Flags:
        """Which rows each participant has, shape (participants, rows)."""
        most = self.seen.coins.shape[2]
        return np.arange(most) < np.array([len(rows) for rows in self.laboratory.rows])[:, None]

    @property
    def rate(self) -> float:
        """The plan's sampling rate."""
        return float(self.laboratory.plan.privacy.sampling_rate)
