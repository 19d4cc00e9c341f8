"""Runs a laboratory's rounds and takes apart what each participant released: sum of its batch, and noise.

Guarantees: noise is what a release has beyond the sum of the rows that were drawn, whatever it is; every round starts
from the same adapter; halfway every trainer checks itself again and is restarted, as daemons are.
Leaves to others: what is concluded (``checks``, ``audit``). Masks are left out, because they cancel in the sum exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from methods.optimizer import learning_rates
from participant.training.adapters.sums import Clip, GradientSums
from participant.training.torch_trainer import TorchTrainer
from participant.training.trainer import Progress
from privacy.dp.clipping import clip_radius
from privacy.errors import LocalError
from privacy.plan import Plan
from simulation.empirical.faults import Plant
from simulation.empirical.laboratory import Laboratory
from simulation.empirical.result import Fault

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the laboratory saw in all rounds, in integer steps of the mechanism.

    Attributes:
        sums: of the clipped gradients of each batch, shape (participants, rounds, entries).
        noise: what was released beyond them, same shape.
        coins: which rows were drawn, shape (participants, rounds, rows of the largest dataset).
        refusal: what a self-check refused halfway; empty if none did.
    """

    sums: Integers
    noise: Integers
    coins: NDArray[np.bool_]
    refusal: str = ""

    @property
    def released(self) -> Integers:
        """All rounds of each participant added up, shape (participants, entries)."""
        total: Integers = (self.sums + self.noise).sum(axis=1)
        return total


def observe(laboratory: Laboratory, fault: Fault | None = None, *, progress: Progress | None = None) -> Observation:
    """Run all rounds.

    Args:
        laboratory: prepared.
        fault: planted, if any.
        progress: called after each round.
    """
    setting, plan = laboratory.setting, laboratory.plan
    shape = (setting.participants, setting.rounds)
    sums, noise = (np.zeros((*shape, plan.recipe.entries), dtype=np.int64) for _ in range(2))
    coins = np.zeros((*shape, max(map(len, laboratory.rows))), dtype=np.bool_)
    plant, refusal = Plant(fault, laboratory.random), ""
    for number in range(1, setting.rounds + 1):
        if number == setting.halfway:
            refusal = _restart(laboratory, plant, number)
        for place, trainer in enumerate(laboratory.trainers):
            with _in_round(plant, laboratory, trainer, number), _watched() as drawn:
                update = trainer.train(number, laboratory.start, _silent)
            here = place, number - 1
            for rows in drawn.batches:
                coins[here][rows] = True
                sums[here] += laboratory.directions[laboratory.rows[place][rows]].sum(axis=0)
            noise[here] = _steps(plan, plan.roster[place].id, update) - sums[here]
        if progress is not None:
            progress(number, setting.rounds)
    return Observation(sums=sums, noise=noise, coins=coins, refusal=refusal)


def _restart(laboratory: Laboratory, plant: Plant, number: int) -> str:
    """Let every trainer check what it trains with, and start anew; return what was refused."""
    for trainer in laboratory.trainers:
        with _in_round(plant, laboratory, trainer, number):
            try:
                trainer.check()
                trainer.prepare()
            except LocalError as refused:
                if refused.code != "E-SELF-CHECK":
                    raise
                return refused.detail
    return ""


@contextmanager
def _in_round(plant: Plant, laboratory: Laboratory, trainer: TorchTrainer, number: int) -> Iterator[None]:
    with plant.while_training(trainer, number=number, last=trainer is laboratory.trainers[-1]):
        yield


def _steps(plan: Plan, member: str, update: Integers) -> Integers:
    """Return an encoded update in steps of the mechanism; exact, as long as its fixed point is finer than they are."""
    if plan.privacy.mode == "distributed":
        return update
    privacy, recipe = plan.privacy, plan.recipe
    one = float(privacy.clip_norm) / clip_radius(privacy.sensitivity, recipe.entries)
    expected = float(privacy.sampling_rate) * plan.member(member).units
    step = learning_rates(recipe, recipe.turn(1)) * one / expected * 2.0**plan.encoding.scale_exponent
    return np.rint(-update / step).astype(np.int64)


@dataclass(slots=True)
class _Drawn:
    batches: list[Integers] = field(default_factory=list)


@contextmanager
def _watched() -> Iterator[_Drawn]:
    """Note the rows of each clipped sum. Batches are secret in a run; these rows are made up."""
    drawn, original = _Drawn(), GradientSums.clipped

    def watching(self: GradientSums, rows: Any, **clip: Unpack[Clip]) -> Integers:
        drawn.batches.append(np.array(rows))
        return original(self, rows, **clip)

    GradientSums.clipped = watching  # type: ignore[method-assign]  # put back below
    try:
        yield drawn
    finally:
        GradientSums.clipped = original  # type: ignore[method-assign]


def _silent(_done: int, _total: int) -> None:
    """A round's own progress is too fine to show."""
