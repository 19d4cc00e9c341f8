"""The seam between a round and what is trained in it.

Guarantees: whatever a trainer returns is a vector of integers that the ring can hold; noise and clipping are inside.
Daemons use the torch trainer of ``participant.training.torch_trainer``; crash, wire and soak tests use
:class:`OneHotTrainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.dp.bands import banded
from privacy.plan import Plan

Progress = Callable[[int, int], None]  # steps done, steps in all
Sums = Iterable[tuple[int, NDArray[np.int64]]]  # rounds, each with a participant's own clamped sum
EngineName = Literal["fast", "opacus"]  # what computes gradients of single examples
Precision = Literal["float32", "bfloat16"]  # of what is frozen; whatever trains, clips or adds up is float32 or wider
Weights = Literal["own", "float32", "8-bit", "4-bit"]  # how a frozen base lies in memory; "own": as its files have it


class Trainer(Protocol):
    """Trains on the owner's data; made for one plan, one dataset and one base model.

    Attributes:
        kept: what stays at home from round to round, flat, where the method has such a part. Before a round it is what
            stayed from the last one whose update was in its sum (``None``: there was none); after it, what stays if
            this one's is.
        earlier: where noise is correlated over rounds, the kept sums that a round adds to its own; read once a round.
        summed: after such a round, its own clamped sum without noise.
    """

    kept: NDArray[np.float32] | None
    earlier: Sums
    summed: NDArray[np.int64] | None

    def prepare(self) -> None:
        """Load the base and the data, wrap the adapter, and run the self-check on synthetic rows.

        Raises:
            OnlysumError: ``E-MODEL-*``, ``E-DATA-*``, ``E-DEVICE`` or ``E-SELF-CHECK``; nothing was charged yet.
        """
        ...

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        """Return this round's encoded update: clamped integers, before weight and masks.

        There are as many as ``plan.layout(round_number)`` has entries.

        Args:
            round_number: from 1; retries of a round never train again.
            adapter: the global adapter at the round's start, flat in the order of the state.
            progress: called after each local step.
        """
        ...


@dataclass(slots=True)
class OneHotTrainer:
    """Contributes the unit vector of its own place on the roster, so that a sum shows who was counted how often.

    With bands its kept sums are added as in any other training.
    """

    plan: Plan
    me: str
    kept: NDArray[np.float32] | None = None
    earlier: Sums = ()
    summed: NDArray[np.int64] | None = None

    def prepare(self) -> None:
        """Nothing to prepare."""

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        """Return e_i, whatever the round; with bands as many of it as rounds count."""
        update = np.zeros(self.plan.layout(round_number).entries, dtype=np.int64)
        update[self.plan.index(self.me)] = 1
        progress(1, 1)
        if not self.plan.privacy.banded:
            return update
        self.summed = update
        return banded(self.plan.privacy.bands, round_number, update, self.earlier)
