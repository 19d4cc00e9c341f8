"""Faults that can be planted in a laboratory, to show which check catches each of them.

Guarantees: a fault lives as long as its ``with`` block and only in this process; each one is what a real mistake would
look like at the place where it would happen.
Leaves to others: noticing them (``empirical``).
Source: docs/privacy-accounting.md section 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fractions import Fraction
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from participant.training import torch_trainer
from participant.training.adapters import sums, turns
from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.fast import choose_engine
from participant.training.adapters.gradients import GradientEngine
from participant.training.examples import Examples
from participant.training.torch_trainer import TorchTrainer
from privacy.dp.clipping import clip_radius
from privacy.dp.sampling import choose, poisson_sample
from privacy.interfaces import RandomSource
from simulation.audit_result import Fault

Integers = NDArray[np.int64]


def while_preparing(fault: Fault | None) -> AbstractContextManager[None]:
    """Plant what is there from the start; the others come after the self-check, so that the audit is on its own."""
    return _replaced(turns, "choose_engine", _choose_one_row) if fault is Fault.BATCH_AS_ONE else nullcontext()


def while_training(fault: Fault | None, *, last: bool) -> AbstractContextManager[None]:
    """Plant what happens in a round; ``last`` says whether the last participant is training."""
    match fault:
        case Fault.NO_NOISE:
            return _replaced(TorchTrainer, "_noise", _silence)
        case Fault.MISSING_SHARE if last:
            return _replaced(TorchTrainer, "_noise", _silence)
        case Fault.REPEATED_NOISE:
            return _replaced(TorchTrainer, "_noise", _first_noise)
        case Fault.NO_CLIP:
            return _replaced(sums, "clipped_sum", _scaled_sum)
        case Fault.DOUBLE_Q:
            return _replaced(torch_trainer, "poisson_sample", _doubled_sample)
        case Fault.FIXED_BATCHES:
            return _replaced(torch_trainer, "poisson_sample", _fixed_sample)
        case _:
            return nullcontext()


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


_noise: Final = TorchTrainer._noise
_first: Final[WeakKeyDictionary[TorchTrainer, Integers]] = (
    WeakKeyDictionary()
)  # each trainer's noise of its first round


def _silence(trainer: TorchTrainer, entries: int) -> Integers:
    """Draw the noise, so that coins fall as they would, and leave it out."""
    return np.zeros_like(_noise(trainer, entries))


def _first_noise(trainer: TorchTrainer, entries: int) -> Integers:
    """Draw noise once and add it in every round, as a seed that starts anew would."""
    if trainer not in _first:
        _first[trainer] = _noise(trainer, entries)
    return _first[trainer]


def _scaled_sum(gradients: Tensor, *, sensitivity: int, clip_norm: float) -> Tensor:
    """Scale and round as the clip does, but let every length through."""
    scale = clip_radius(sensitivity, gradients.shape[1]) / clip_norm
    return (gradients.double() * scale).round().long().sum(dim=0)


def _doubled_sample(units: int, rate: str, random: RandomSource) -> Integers:
    return poisson_sample(units, str(min(2 * Fraction(rate), Fraction(1))), random)


def _fixed_sample(units: int, rate: str, random: RandomSource) -> Integers:
    """Take batches of one size, as loaders of data do that shuffle."""
    return choose(np.arange(units, dtype=np.int64), round(units * Fraction(rate)), random)


def _choose_one_row(adapted: AdaptedModel, synthetic: Examples, **request: Any) -> GradientEngine:
    return OneRowEngine(choose_engine(adapted, synthetic, **request))


class OneRowEngine(GradientEngine):
    """Takes a whole batch for one example: its summed gradient in the first row, nothing in the others."""

    def __init__(self, inner: GradientEngine) -> None:
        super().__init__(inner.adapted)
        self._inner = inner

    def rows(self, examples: Examples) -> Tensor:
        """Return the sum in the first row."""
        rows = self._inner.rows(examples)
        rows[0] = rows.sum(dim=0)
        rows[1:] = 0
        return rows

    def close(self) -> None:
        """Close the engine inside."""
        self._inner.close()
