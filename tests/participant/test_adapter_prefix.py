"""Frozen lower blocks are run once per example, and nothing else changes: not a bit of an update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.vectors import joined
from participant.training.adapters import prefix as prefixes
from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.prefix import (
    ACTIVATIONS,
    FrozenPrefix,
    KeptActivations,
    shortened,
    shortened_to_measure,
)
from participant.training.adapters.reference import OpacusEngine
from participant.training.evaluation import AdapterEvaluator
from participant.training.examples import Examples, load_examples, synthetic_examples
from participant.training.torch_trainer import TorchTrainer
from privacy.errors import LocalError
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import ROWS, OneEngine, World, make_world

pytestmark = pytest.mark.torch


def upper(tmp_path: Path, kind: str, **recipe: Any) -> World:
    """Make a world whose adapter is in the upper of two blocks."""
    return make_world(tmp_path, kind, layers=(1,), **recipe)


def silent(done: int, of: int) -> None:
    assert 0 < done <= of


def blocks_of(model: Any, kind: str) -> Any:
    inner = model.base_model.model
    return inner.vit.layers if kind == "image" else inner.bert.encoder.layer


def updates(world: World, **materials: Any) -> tuple[list[np.ndarray], TorchTrainer]:
    trainer = world.trainer(SeededRandom("secret"), **materials)
    start = joined(world.plan.recipe, read_initial(world.initial, world.plan.recipe.adapter))
    return [trainer.train(number, start, silent) for number in (1, 2)], trainer


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize(
    ("mode", "precision"),
    [
        ("none", "float32"), ("local", "float32"), ("distributed", "float32"), ("distributed-participant", "float32"),
        ("local", "bfloat16"),
    ],
)  # fmt: skip
def test_updates_have_the_same_bits_with_and_without_the_lower_blocks(
    kind: str, mode: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = upper(tmp_path, kind, mode=mode, method="fedit")
    short, trainer = updates(world, precision=precision)
    assert len(blocks_of(trainer.sums_of_turn(0).engine.adapted.model, kind)) == 1
    assert ACTIVATIONS in trainer.sums_of_turn(0).examples.inputs
    monkeypatch.setattr(prefixes, "MOST_BYTES", 0)
    long, trainer = updates(world, precision=precision)
    assert len(blocks_of(trainer.sums_of_turn(0).engine.adapted.model, kind)) == 2
    assert all(np.array_equal(one, other) for one, other in zip(short, long, strict=True))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_where_a_head_alone_trains_no_block_is_run_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, kind, mode="local", method="head")
    short, trainer = updates(world)
    (only,) = blocks_of(trainer.sums_of_turn(0).engine.adapted.model, kind)
    assert not list(only.parameters())
    assert ACTIVATIONS in trainer.sums_of_turn(0).examples.inputs
    monkeypatch.setattr(prefixes, "MOST_BYTES", 0)
    long, trainer = updates(world)
    assert len(blocks_of(trainer.sums_of_turn(0).engine.adapted.model, kind)) == 2
    assert all(np.array_equal(one, other) for one, other in zip(short, long, strict=True))


def test_a_user_s_rows_have_the_same_mean_without_the_lower_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = upper(tmp_path, "text", mode="distributed", unit="user", max_rows_per_user=2, units=8)
    short, _ = updates(world)
    monkeypatch.setattr(prefixes, "MOST_BYTES", 0)
    long, _ = updates(world)
    assert all(np.array_equal(one, other) for one, other in zip(short, long, strict=True))


@pytest.mark.parametrize("engine", [FastEngine, OpacusEngine])
def test_an_example_passes_the_lower_blocks_once(engine: type[FastEngine] | type[OpacusEngine], tmp_path: Path) -> None:
    world = upper(tmp_path, "image", mode="local")
    adapted = world.adapted()
    lowest, seen = blocks_of(adapted.model, "image")[0], []
    base = world.base()
    examples = load_examples(world.dataset, world.columns, world.task, base)
    made = engine(adapted)
    lowest.register_forward_hook(lambda _module, args, _output: seen.append(len(args[0])))
    longer = shortened(OneEngine(made), synthetic_examples(base, world.task, 8), examples)
    passed = sum(seen)
    for _ in range(3):
        assert made.rows(longer.take(np.arange(8))).shape == (8, world.plan.recipe.entries)
        made.summed(longer.take(np.arange(8)))
    assert sum(seen) == passed
    assert seen[-3:] == [8, 8, 8]
    assert longer.inputs[ACTIVATIONS].shape[0] == ROWS


def test_an_adapter_in_the_lowest_block_leaves_nothing_to_keep(tmp_path: Path) -> None:
    world = make_world(tmp_path, mode="local")
    assert FrozenPrefix.find(world.adapted()) is None
    assert ACTIVATIONS not in world.trainer().sums_of_turn(0).examples.inputs


def train_the_first_norm(adapted: AdaptedModel) -> None:
    inner: Any = adapted.model
    inner.base_model.model.bert.embeddings.LayerNorm.weight.requires_grad_(True)


def carry_something_past_the_blocks(adapted: AdaptedModel) -> None:
    inner: Any = adapted.model
    encoder = inner.base_model.model.bert.encoder
    kept: list[torch.Tensor] = []
    encoder.layer[0].register_forward_hook(lambda _module, _args, output: kept.append(output))
    encoder.layer[1].register_forward_hook(lambda _module, _args, output: output + (kept[-1] if kept else 0))
    kept_of = kept.clear
    adapted.model.register_forward_pre_hook(lambda _module, _args: kept_of())


UNFIT: dict[str, Callable[[AdaptedModel], None]] = {
    "a tensor below them trains": train_the_first_norm,
    "a later block reads what an earlier one left": carry_something_past_the_blocks,
}


@pytest.mark.parametrize("sentence", UNFIT)
def test_the_lower_blocks_stay_where(sentence: str, tmp_path: Path) -> None:
    world = upper(tmp_path, "text", mode="local")
    adapted, base = world.adapted(), world.base()
    UNFIT[sentence](adapted)
    examples = load_examples(world.dataset, world.columns, world.task, base)
    made = synthetic_examples(base, world.task, 8)
    assert shortened(OneEngine(FastEngine(adapted)), made, examples) is examples
    assert len(blocks_of(adapted.model, "text")) == 2
    assert FastEngine(adapted).rows(made).shape[0] == 8


def test_a_trained_influence_on_the_lower_blocks_is_named(tmp_path: Path) -> None:
    world = upper(tmp_path, "text", mode="local")
    adapted = world.adapted()
    train_the_first_norm(adapted)
    found = FrozenPrefix.find(adapted)
    assert found is not None
    with pytest.raises(LocalError, match="frozen layers"):
        found.extended(synthetic_examples(world.base(), world.task, 4), 4)


def test_one_visit_is_not_worth_it(tmp_path: Path) -> None:
    world = upper(tmp_path, "image", mode="distributed", sampling_rate=0.3)  # three rounds
    assert ACTIVATIONS not in world.trainer().sums_of_turn(0).examples.inputs


def evaluator_of(world: World, kept: KeptActivations | None = None) -> AdapterEvaluator:
    return AdapterEvaluator.load(
        world.plan.recipe,
        model=world.directory / "base",
        dataset=world.dataset,
        columns=world.columns,
        initial_adapter=world.initial,
        kept=kept,
    )


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("method", ["fedit", "head"])
def test_an_evaluator_has_the_same_figures_with_and_without_the_lower_blocks(
    kind: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = upper(tmp_path, kind, method=method) if method != "head" else make_world(tmp_path, kind, method=method)
    adapter = np.random.default_rng(2).normal(scale=0.3, size=world.plan.recipe.state_entries).astype(np.float32)
    short = evaluator_of(world)
    assert ACTIVATIONS in short.examples.inputs
    assert len(blocks_of(short.adapted.model, kind)) == 1
    monkeypatch.setattr(prefixes, "MOST_BYTES", 0)
    long = evaluator_of(world)
    assert len(blocks_of(long.adapted.model, kind)) == 2
    assert short.measure(adapter) == long.measure(adapter)


def test_an_evaluator_keeps_the_blocks_where_answers_would_change(
    tmp_path: Path,
) -> None:
    world = upper(tmp_path, "text")
    adapted, base = world.adapted(), world.base()
    carry_something_past_the_blocks(adapted)
    examples = load_examples(world.dataset, world.columns, world.task, base)
    assert shortened_to_measure(adapted, examples, 8) is examples
    assert len(blocks_of(adapted.model, "text")) == 2


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    passes: list[int] = []
    real = FrozenPrefix.activations

    def counted(prefix: FrozenPrefix, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        passes.append(1)
        return real(prefix, inputs)

    monkeypatch.setattr(FrozenPrefix, "activations", counted)
    return passes


def test_runs_of_one_process_compute_the_activations_of_the_same_rows_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, kept = upper(tmp_path, "text", mode="local"), KeptActivations()
    without, _ = updates(world)
    first, _ = updates(world, kept=kept)
    passes = count_passes(monkeypatch)
    second, _ = updates(world, kept=kept)
    assert len(passes) == 1, "the synthetic rows alone"
    assert all(np.array_equal(one, other) for one, other in zip(without, first, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(without, second, strict=True))


def change_a_lower_weight(adapted: AdaptedModel) -> None:
    with torch.no_grad():
        next(iter(blocks_of(adapted.model, "text")[0].parameters()))[0] += 1


def change_an_upper_weight(adapted: AdaptedModel) -> None:
    with torch.no_grad():
        next(iter(blocks_of(adapted.model, "text")[1].parameters()))[0] += 1


def change_nothing(_adapted: AdaptedModel) -> None: ...


@pytest.mark.parametrize(
    ("change", "rows", "size", "again"),
    [
        (change_nothing, slice(None), 8, False),
        (change_an_upper_weight, slice(None), 8, False),
        (change_a_lower_weight, slice(None), 8, True),
        (change_nothing, slice(1, None), 8, True),
        (change_nothing, slice(None), 4, True),
    ],
    ids=["nothing", "an upper weight", "a lower weight", "the rows", "the micro-batch"],
)
def test_activations_are_computed_again_where_they_would_be_others(
    change: Callable[[AdaptedModel], None], rows: slice, size: int, again: bool, tmp_path: Path
) -> None:
    world, kept = upper(tmp_path, "text"), KeptActivations()
    examples = load_examples(world.dataset, world.columns, world.task, world.base())

    def activations(adapted: AdaptedModel, wanted: Examples, micro_batch: int) -> torch.Tensor:
        prefix = FrozenPrefix.find(adapted)
        assert prefix is not None
        return prefix.extended(wanted, micro_batch, kept).inputs[ACTIVATIONS]

    first = activations(world.adapted(), examples, 8)
    adapted = world.adapted()
    change(adapted)
    wanted = examples.take(np.arange(len(examples))[rows])
    assert (activations(adapted, wanted, size) is not first) == again
