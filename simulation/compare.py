"""Local against distributed noise: the same epsilon, the same digits, the same federation, seed by seed.

Guarantees: real round machines with real masks, the daemons' trainer and the coordinator's optimizer; base, split,
batches, noise and keys all follow from the seed, so a result repeats. **A simulation, not private**: whoever knows the
seed knows the noise.
Leaves to others: what is printed (``simulation.compare_cli``), processes and dropouts (``simulation.demo``).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

import numpy as np
from numpy.typing import NDArray

from authoring.draft import INITIAL_FILE, build_draft
from coordinator.runs.thresholds import Requested
from methods.global_adapter import next_state
from methods.optimizer import OptimizerState
from participant.training.data import task_columns
from participant.training.evaluation import AdapterEvaluator
from participant.training.torch_trainer import Materials, TorchTrainer
from participant.training.trainer import Progress
from privacy.dp.accountants import run_epsilon
from privacy.plan import Plan
from privacy.plan_parts import Member, Mode
from privacy.secagg.keys import SigningKey
from simulation import base
from simulation.binding import bind, signed
from simulation.cohort import Cohort
from simulation.seeded import SeededSource, seeded_key
from simulation.stage import EVALUATOR, FEDERATION, Stage, write_data, write_recipe

MODES: Final[tuple[Mode, ...]] = ("local", "distributed")
COLLUDING: Final = 1  # f, as in the demo
SUITE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: accuracies on the held-out images, the epsilon that each owner is charged for it, and its noise.

    ``noise`` is the standard deviation in a sum to which everybody contributed, over the one that the claim relies on.
    """

    mode: Mode
    seed: int
    accuracy_base: float
    accuracy: float
    epsilon: float
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is computed: ``None`` takes the rounds of the demo's recipe."""

    participants: int = 10
    base_steps: int = base.STEPS
    rounds: int | None = None


def prepare(stage: Stage, seed: int, size: Size) -> tuple[int, ...]:
    """Split the digits, train the base, write both, and return how many images each participant has."""
    stage.clear()
    parts = write_data(stage, seed, _names(size.participants))
    base.save(base.train(parts.public, seed, size.base_steps), stage.base)
    return tuple(len(part) for part in parts.participants)


def copy_base(stage: Stage, trained: Path, seed: int, size: Size) -> tuple[int, ...]:
    """Split the digits as :func:`prepare` does, and take a base that is there already."""
    stage.clear()
    parts = write_data(stage, seed, _names(size.participants))
    shutil.copytree(trained, stage.base)
    return tuple(len(part) for part in parts.participants)


def run(stage: Stage, units: Sequence[int], mode: Mode, seed: int, size: Size, progress: Progress) -> Cell:
    """Run one mode on a prepared stage, from its recipe to its accuracy."""
    source = f"onlysum simulation {mode} {seed}"
    keys = {name: seeded_key(f"{source} identity {name}") for name in _names(len(units))}
    plan = _plan(stage, units, mode, size, keys)
    verified = signed(plan, seeded_key(f"{source} operator"))
    trainers = {name: _trainer(stage, plan, name, SeededSource(f"{source} {name}")) for name in keys}
    evaluator = AdapterEvaluator.load(
        plan.recipe,
        model=stage.base,
        dataset=stage.data(EVALUATOR),
        columns=task_columns(plan.recipe.task),
        initial_adapter=_draft(stage, mode) / INITIAL_FILE,
    )
    start = evaluator.adapted.vector()
    final = _rounds(Cohort(verified, keys, SeededSource(f"{source} rounds")), plan, trainers, start, progress)
    return Cell(
        mode=mode,
        seed=seed,
        accuracy_base=_accuracy(evaluator, start),
        accuracy=_accuracy(evaluator, final),
        epsilon=run_epsilon(plan) or 0.0,
        noise=math.sqrt(plan.n / plan.privacy.honest_noise),
    )


def _rounds(
    cohort: Cohort,
    plan: Plan,
    trainers: Mapping[str, TorchTrainer],
    start: NDArray[np.float32],
    progress: Progress,
) -> NDArray[np.float32]:
    """Run all rounds and return what is released after the last."""
    state, total = OptimizerState.start(start), plan.recipe.rounds
    for number in range(1, total + 1):
        train = partial(_updates, trainers, number, state.iterate)
        result = cohort.run_round(number, state.iterate.tobytes(), train)
        state = next_state(plan, state, result.blocks(), result.survivors)
        progress(number, total)
    return state.average


def _updates(
    trainers: Mapping[str, TorchTrainer], number: int, adapter: NDArray[np.float32], names: Sequence[str]
) -> Iterator[NDArray[np.int64]]:
    return (trainers[name].train(number, adapter, _silent) for name in names)


def figures(cells: Sequence[Cell]) -> dict[str, float]:
    """Return means, spreads (sample standard deviations over the seeds) and standard errors of the means.

    Of each mode ``.base``, ``.accuracy``, ``.epsilon`` and ``.noise``; ``gain.accuracy`` is what distributed noise wins
    over local noise, seed by seed.
    """
    summary: dict[str, float] = {}
    for mode in MODES:
        ran = [cell for cell in cells if cell.mode == mode]
        for name, values in (
            ("base", [cell.accuracy_base for cell in ran]),
            ("accuracy", [cell.accuracy for cell in ran]),
            ("epsilon", [cell.epsilon for cell in ran]),
            ("noise", [cell.noise for cell in ran]),
        ):
            summary |= _summary(f"{mode}.{name}", values)
    return summary | _summary("gain.accuracy", list(gains(cells).values()))


def gains(cells: Sequence[Cell]) -> dict[int, float]:
    """Return what distributed noise wins over local noise by seed."""
    reached = {(cell.mode, cell.seed): cell.accuracy for cell in cells}
    return {
        seed: reached["distributed", seed] - reached["local", seed] for seed in sorted({cell.seed for cell in cells})
    }


def _summary(name: str, values: Sequence[float]) -> dict[str, float]:
    spread = stdev(values) if len(values) > 1 else 0.0
    return {
        name: round(fmean(values), 4),
        f"{name}.spread": round(spread, 4),
        f"{name}.error": round(spread / math.sqrt(len(values)), 4),
    }


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"participant-{number:02d}" for number in range(1, count + 1))


def _plan(stage: Stage, units: Sequence[int], mode: Mode, size: Size, keys: Mapping[str, SigningKey]) -> Plan:
    write_recipe(stage, mode, SUITE)
    draft = build_draft(stage.recipe, _draft(stage, mode), self_check=False)
    if size.rounds is not None:
        draft = draft.model_copy(update={"recipe": draft.recipe.model_copy(update={"rounds": size.rounds})})
    roster = [
        Member(id=name, identity_key=keys[name].public.hex(), units=count)
        for name, count in zip(keys, units, strict=True)
    ]
    return bind(draft, roster, federation=FEDERATION, tolerance=Requested(f=COLLUDING))


def _trainer(stage: Stage, plan: Plan, name: str, random: SeededSource) -> TorchTrainer:
    materials = Materials(
        plan=plan,
        me=name,
        model=stage.base,
        dataset=stage.data(name),
        columns=task_columns(plan.recipe.task),
        initial_adapter=_draft(stage, plan.privacy.mode) / INITIAL_FILE,
    )
    trainer = TorchTrainer(materials, random)
    trainer.prepare()
    return trainer


def _accuracy(evaluator: AdapterEvaluator, adapter: NDArray[np.float32]) -> float:
    measured = evaluator.measure(adapter)
    return next(float(metric.value) for metric in measured.metrics if metric.name == "accuracy")


def _draft(stage: Stage, mode: Mode) -> Path:
    return stage.federation / f"draft-{mode}"


def _silent(_done: int, _total: int) -> None:
    """A round's own progress is too fine to show."""
