"""Local against distributed noise: the same epsilon, the same digits, the same federation, seed by seed.

Guarantees: real round machines with real masks, the daemons' trainer and the coordinator's optimizer; base, split,
batches, noise and keys all follow from the seed, so a result repeats. **A simulation, not private**: whoever knows the
seed knows the noise.
Leaves to others: what is printed (``simulation.compare_cli``), processes and dropouts (``simulation.demo``).
"""

from __future__ import annotations

import math
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
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
from privacy.dp.bands import chosen
from privacy.draft import Draft, PrivacyTarget
from privacy.plan import Plan
from privacy.plan_parts import Member, Mode
from privacy.secagg.keys import SigningKey
from simulation import base
from simulation.binding import bind, signed
from simulation.cohort import Cohort
from simulation.seeded import SeededSource, seeded_key
from simulation.stage import EVALUATOR, FEDERATION, RECIPES, Stage, write_data, write_recipe

MODES: Final[tuple[Mode, ...]] = ("local", "distributed")
COLLUDING: Final = 1  # f, as in the demo
SUITE: Final = 1


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from the demo's recipe of a mode: over how many rounds noise is correlated, and the sampling rate.

    ``sampling_rate`` is a decimal; empty: the recipe's.
    """

    mode: Mode
    bands: int = 1
    sampling_rate: str = ""

    @property
    def name(self) -> str:
        """What it is called in tables and files."""
        rate = f", q {self.sampling_rate}" if self.sampling_rate else ""
        return f"{self.mode}{rate}{f', {self.bands} bands' if self.bands > 1 else ''}"


def variants(bands: int) -> tuple[Variant, ...]:
    """Return what is compared: both modes, and with bands also correlated and independent noise at one sampling rate.

    Bins are sampled at bands times the rate, which is at most 1, so the rate may have to be lower than the recipe's.
    """
    modes = tuple(Variant(mode) for mode in MODES)
    if bands == 1:
        return modes
    recipe = tomllib.loads(RECIPES["distributed"][0], parse_float=Decimal)
    most = (Decimal(1) / bands).quantize(Decimal("0.0001"), rounding=ROUND_FLOOR)
    rate = "" if recipe["sampling_rate"] <= most else f"{most.normalize():f}"
    single = (Variant("distributed", 1, rate),) if rate else ()
    return (*modes, *single, Variant("distributed", bands, rate))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: accuracies on the held-out images, the epsilon that each owner is charged for it, and its noise.

    ``noise`` is the standard deviation in a sum to which everybody contributed, over the one that the claim relies on;
    ``variant`` names what was run.
    """

    mode: Mode
    seed: int
    variant: str = ""
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


def run(stage: Stage, units: Sequence[int], variant: Variant | Mode, seed: int, size: Size, progress: Progress) -> Cell:
    """Run a variant, or a mode as its recipe has it, on a prepared stage, from its recipe to its accuracy."""
    variant = variant if isinstance(variant, Variant) else Variant(variant)
    mode, source = variant.mode, f"onlysum simulation {variant.name} {seed}"
    keys = {name: seeded_key(f"{source} identity {name}") for name in _names(len(units))}
    plan = _plan(stage, units, variant, size, keys)
    verified = signed(plan, seeded_key(f"{source} operator"))
    initial = _draft(stage, variant) / INITIAL_FILE
    trainers = {name: _trainer(stage, plan, name, initial, SeededSource(f"{source} {name}")) for name in keys}
    evaluator = AdapterEvaluator.load(
        plan.recipe,
        model=stage.base,
        dataset=stage.data(EVALUATOR),
        columns=task_columns(plan.recipe.task),
        initial_adapter=initial,
    )
    start = evaluator.adapted.vector()
    final = _rounds(Cohort(verified, keys, SeededSource(f"{source} rounds")), plan, trainers, start, progress)
    return Cell(
        mode=mode,
        seed=seed,
        variant=variant.name,
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
    state, total, bands = OptimizerState.start(start), plan.recipe.rounds, len(plan.privacy.bands)
    kept: dict[str, list[tuple[int, NDArray[np.int64]]]] = {name: [] for name in trainers}
    for number in range(1, total + 1):
        for name, trainer in trainers.items():
            kept[name] = [one for one in kept[name] if one[0] > number - bands]
            trainer.earlier = kept[name]
        train = partial(_updates, trainers, number, state.iterate)
        result = cohort.run_round(number, state.iterate.tobytes(), train)
        state = next_state(plan, state, result.blocks(), result.survivors)
        for name in result.survivors:
            if (summed := trainers[name].summed) is not None:
                kept[name].append((number, summed))
        progress(number, total)
    return state.average


def _updates(
    trainers: Mapping[str, TorchTrainer], number: int, adapter: NDArray[np.float32], names: Sequence[str]
) -> Iterator[NDArray[np.int64]]:
    return (trainers[name].train(number, adapter, _silent) for name in names)


def figures(cells: Sequence[Cell]) -> dict[str, float]:
    """Return means, spreads (sample standard deviations over the seeds) and standard errors of the means.

    Of each variant ``.base``, ``.accuracy``, ``.epsilon`` and ``.noise``; ``gain.accuracy`` is what distributed noise
    wins over local noise, seed by seed.
    """
    summary: dict[str, float] = {}
    for mode in dict.fromkeys(_named(cell) for cell in cells):
        ran = [cell for cell in cells if _named(cell) == mode]
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
    reached = {(_named(cell), cell.seed): cell.accuracy for cell in cells}
    return {
        seed: reached["distributed", seed] - reached["local", seed] for seed in sorted({cell.seed for cell in cells})
    }


def _named(cell: Cell) -> str:
    return cell.variant or cell.mode


def _summary(name: str, values: Sequence[float]) -> dict[str, float]:
    spread = stdev(values) if len(values) > 1 else 0.0
    return {
        name: round(fmean(values), 4),
        f"{name}.spread": round(spread, 4),
        f"{name}.error": round(spread / math.sqrt(len(values)), 4),
    }


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"participant-{number:02d}" for number in range(1, count + 1))


def _plan(stage: Stage, units: Sequence[int], variant: Variant, size: Size, keys: Mapping[str, SigningKey]) -> Plan:
    write_recipe(stage, variant.mode, SUITE)
    draft = build_draft(stage.recipe, _draft(stage, variant), self_check=False)
    if size.rounds is not None:
        draft = draft.model_copy(update={"recipe": draft.recipe.model_copy(update={"rounds": size.rounds})})
    rate = variant.sampling_rate or draft.privacy.sampling_rate
    wanted = {"sampling_rate": rate, "bands": chosen(variant.bands, draft.recipe.rounds)}
    target = PrivacyTarget(**{**draft.privacy.model_dump(), **wanted})
    draft = Draft.model_validate({**dict(draft), "privacy": target})
    roster = [
        Member(id=name, identity_key=keys[name].public.hex(), units=count)
        for name, count in zip(keys, units, strict=True)
    ]
    return bind(draft, roster, federation=FEDERATION, tolerance=Requested(f=COLLUDING))


def _trainer(stage: Stage, plan: Plan, name: str, initial: Path, random: SeededSource) -> TorchTrainer:
    materials = Materials(
        plan=plan,
        me=name,
        model=stage.base,
        dataset=stage.data(name),
        columns=task_columns(plan.recipe.task),
        initial_adapter=initial,
    )
    trainer = TorchTrainer(materials, random)
    trainer.prepare()
    return trainer


def _accuracy(evaluator: AdapterEvaluator, adapter: NDArray[np.float32]) -> float:
    measured = evaluator.measure(adapter)
    return next(float(metric.value) for metric in measured.metrics if metric.name == "accuracy")


def _draft(stage: Stage, variant: Variant) -> Path:
    return stage.federation / f"draft-{variant.name.replace(', ', '-').replace(' ', '-')}"


def _silent(_done: int, _total: int) -> None:
    """A round's own progress is too fine to show."""
