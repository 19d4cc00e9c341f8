"""Faults that can be planted in a laboratory, to show which check catches each of them.

Guarantees: a fault lives as long as its ``with`` block and only in this process; each one is what a real mistake would
look like at the place where it would happen.
Leaves to others: noticing them (``checks``, ``audit``).
Source: docs/privacy-accounting.md section 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from fractions import Fraction
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.vectors import trained_tensors
from participant.training import torch_trainer
from participant.training.adapters import sums, turns
from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.fast import choose_engine
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.sums import GradientSums
from participant.training.adapters.turns import TurnEngines
from participant.training.examples import Examples
from participant.training.torch_trainer import TorchTrainer
from privacy.dp.clipping import clip_radius
from privacy.dp.fast_noise import discrete_gaussian
from privacy.dp.sampling import choose, poisson_sample
from privacy.dp.torch_clipping import clipped_sum
from privacy.errors import LocalError
from privacy.interfaces import RandomSource
from simulation.empirical.result import Fault
from simulation.seeded import SeededSource

Integers = NDArray[np.int64]
GRAIN: Final = 16  # steps between neighbouring values of coarse noise
MOMENTUM: Final = 0.9
PEAK: Final = 1 / 8  # of D: entries of a sum beyond it count as large

_noise: Final = TorchTrainer._noise
_clipped: Final = TorchTrainer._clipped


def while_preparing(fault: Fault | None) -> AbstractContextManager[None]:
    """Plant what is there from the start; the others come after the self-check, so that the audit is on its own."""
    return _replaced(turns, "choose_engine", _choose_one_row) if fault is Fault.BATCH_AS_ONE else nullcontext()


class Plant:
    """A fault of the rounds, and what it remembers from one to the next.

    Args:
        fault: which one; none changes nothing.
        random: where its seed comes from, if it has one.
    """

    def __init__(self, fault: Fault | None, random: RandomSource) -> None:
        self._fault = fault
        self._secret = random.token_bytes(16).hex()
        self._kept: dict[str, Integers] = {}  # by participant: noise, sums or rows of an earlier round
        self._streams: WeakKeyDictionary[TurnEngines, SeededSource] = WeakKeyDictionary()

    @contextmanager
    def while_training(self, trainer: TorchTrainer, *, number: int, last: bool) -> Iterator[None]:
        """Plant what happens in a round.

        Args:
            trainer: who is training.
            number: of the round.
            last: whether it is the last participant.
        """
        with ExitStack() as planted:
            for place, name, value in self._changes(trainer, number, last):
                planted.enter_context(_replaced(place, name, value))
            yield

    def _changes(self, trainer: TorchTrainer, number: int, last: bool) -> list[tuple[Any, str, object]]:
        """Return what is put in whose place."""
        fault = self._fault
        noises = self._noises(number, last)
        if fault in noises:
            return [(TorchTrainer, "_noise", noises[fault])]
        if fault in {Fault.QUIET_DATA, Fault.QUIET_PEAKS}:
            noise, clipped = _method(self._remembered_noise), _method(self._quieted)
            return [(TorchTrainer, "_noise", noise), (TorchTrainer, "_clipped", clipped)]
        if fault is Fault.BARE_MOMENTUM:
            return [(TorchTrainer, "_clipped", _method(self._with_momentum))]
        if fault is Fault.NO_CLIP:
            return [(sums, "clipped_sum", _scaled_sum)]
        if fault is Fault.TENSOR_CLIP:
            return [(sums, "clipped_sum", _clip_of_tensors(trainer))]
        samplers = self._samplers(trainer._materials.me, number)
        return [(torch_trainer, "poisson_sample", samplers[fault])] if fault in samplers else []

    def _noises(self, number: int, last: bool) -> dict[Fault | None, Callable[[TorchTrainer, int], Integers]]:
        def repeated(trainer: TorchTrainer, entries: int) -> Integers:
            return self._kept.setdefault(trainer._materials.me, _noise(trainer, entries))

        def repeated_once(trainer: TorchTrainer, entries: int) -> Integers:
            rounds = trainer._plan.recipe.rounds
            drawn = _noise(trainer, entries)
            if last and number == rounds // 3:
                self._kept[trainer._materials.me] = drawn
            return self._kept[trainer._materials.me] if last and number == 2 * rounds // 3 else drawn

        def shared(trainer: TorchTrainer, entries: int) -> Integers:
            return _seeded_noise(trainer, entries, SeededSource(f"{self._secret} {number}"))

        def restarted(trainer: TorchTrainer, entries: int) -> Integers:
            return _seeded_noise(trainer, entries, self._stream(trainer))

        found: dict[Fault | None, Callable[[TorchTrainer, int], Integers]] = {
            Fault.NO_NOISE: _silence,
            Fault.LAPLACE_NOISE: _laplace,
            Fault.COARSE_NOISE: _coarse,
            Fault.TILED_NOISE: _tiled,
            Fault.REPEATED_NOISE: repeated,
            Fault.REPEATED_ONCE: repeated_once,
            Fault.SHARED_NOISE: shared,
            Fault.RESTARTED_SEED: restarted,
        }
        return found | {Fault.MISSING_SHARE: _silence} if last else found

    def _stream(self, trainer: TorchTrainer) -> SeededSource:
        """Return a stream that begins anew when a trainer is prepared again."""
        return self._streams.setdefault(_engines(trainer), SeededSource(f"{self._secret} {trainer._materials.me}"))

    def _remembered_noise(self, trainer: TorchTrainer, entries: int) -> Integers:
        self._kept[trainer._materials.me] = _noise(trainer, entries)
        return self._kept[trainer._materials.me]

    def _quieted(self, trainer: TorchTrainer, over: GradientSums, batch: list[Integers]) -> Integers:
        """Take half of the noise back where there is data, or much of it, as noise in proportion to room left would."""
        total = _clipped(trainer, over, batch)
        least = trainer._plan.privacy.sensitivity * PEAK if self._fault is Fault.QUIET_PEAKS else 1
        return total - np.where(np.abs(total) >= least, self._kept[trainer._materials.me] // 2, 0)

    def _with_momentum(self, trainer: TorchTrainer, over: GradientSums, batch: list[Integers]) -> Integers:
        """Add what is left of earlier sums, which had noise when they were released and have none here."""
        total = _clipped(trainer, over, batch)
        earlier = self._kept.get(trainer._materials.me, np.zeros_like(total))
        self._kept[trainer._materials.me] = total + np.rint(MOMENTUM * earlier).astype(np.int64)
        return self._kept[trainer._materials.me]

    def _samplers(self, me: str, number: int) -> dict[Fault | None, Callable[[int, str, RandomSource], Integers]]:
        def shared(units: int, rate: str, _random: RandomSource) -> Integers:
            return poisson_sample(units, rate, SeededSource(f"{self._secret} {number}"))

        def sitting_out(units: int, rate: str, random: RandomSource) -> Integers:
            """Draw as many as q means, but nobody twice in a row, as loaders do that go through all the data."""
            q = Fraction(rate)
            drawn = poisson_sample(units, str(float(min(q / (1 - q), Fraction(1)))) if q < 1 else rate, random)
            before = self._kept.get(me, np.empty(0, dtype=np.int64))
            self._kept[me] = drawn[~np.isin(drawn, before)]
            return self._kept[me]

        return {
            Fault.DOUBLE_Q: _doubled_sample,
            Fault.FIXED_BATCHES: _fixed_sample,
            Fault.SHARED_COINS: shared,
            Fault.SITTING_OUT: sitting_out,
        }


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _method(of_trainer: Callable[..., Integers]) -> Callable[..., Integers]:
    """Return a plain function, which a class binds to its instances as it does not bind another object's method."""

    def method(trainer: TorchTrainer, *given: Any) -> Integers:
        return of_trainer(trainer, *given)

    return method


def _engines(trainer: TorchTrainer) -> TurnEngines:
    """Return what a trainer makes anew whenever it is prepared."""
    if trainer._engines is None:
        raise LocalError("E-BUG", "a trainer was not prepared")
    return trainer._engines


def _silence(trainer: TorchTrainer, entries: int) -> Integers:
    """Draw the noise, so that coins fall as they would, and leave it out."""
    return np.zeros_like(_noise(trainer, entries))


def _seeded_noise(trainer: TorchTrainer, entries: int, source: SeededSource) -> Integers:
    return discrete_gaussian(entries, trainer._plan.privacy.variance_exponent, source)


def _laplace(trainer: TorchTrainer, entries: int) -> Integers:
    """Draw noise of the right variance and another distribution."""
    random = np.random.default_rng(np.abs(_noise(trainer, entries)))
    scale = trainer._plan.privacy.sigma / math.sqrt(2)
    return np.rint(random.laplace(scale=scale, size=entries)).astype(np.int64)


def _coarse(trainer: TorchTrainer, entries: int) -> Integers:
    """Draw noise that is rounded, as floats of few bits are: its low bits tell those of the sum."""
    return np.rint(_noise(trainer, entries) / GRAIN).astype(np.int64) * GRAIN


def _tiled(trainer: TorchTrainer, entries: int) -> Integers:
    """Draw noise for half of the entries and use it twice, as blocks with one key would."""
    return np.resize(_noise(trainer, entries)[: -(-entries // 2)], entries)


def _scaled_sum(gradients: Tensor, *, sensitivity: int, clip_norm: float) -> Tensor:
    """Scale and round as the clip does, but let every length through."""
    scale = clip_radius(sensitivity, gradients.shape[1]) / clip_norm
    return (gradients.double() * scale).round().long().sum(dim=0)


def _clip_of_tensors(trainer: TorchTrainer) -> Callable[..., Tensor]:
    """Return a clip that gives each tensor of an example the whole of C, as clipping by layer would."""
    recipe = trainer._plan.recipe
    lengths = [tensor.entries for tensor in trained_tensors(recipe, recipe.turn(1))]

    def clip(gradients: Tensor, *, sensitivity: int, clip_norm: float) -> Tensor:
        parts = torch.split(gradients, lengths, dim=1)
        return torch.cat([clipped_sum(part, sensitivity=sensitivity, clip_norm=clip_norm) for part in parts])

    return clip


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
