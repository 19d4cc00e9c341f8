"""The self-check passes what is sound and refuses every fault that was planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.gradients import GradientEngine, Losses
from participant.training.adapters.reference import OpacusEngine
from participant.training.adapters.sums import GradientSums, joined
from participant.training.examples import Examples, synthetic_examples
from participant.training.selfcheck import SLOT_ROWS, SelfCheck, TurnCheck, check_modules
from participant.training.tasks.losses import class_losses
from participant.training.trainer import Precision
from privacy.errors import LocalError
from tests.worlds.torch_world import OneEngine, World, make_world

pytestmark = pytest.mark.torch

Engine = type[FastEngine] | type[OpacusEngine]
ENGINES: tuple[Engine, ...] = (FastEngine, OpacusEngine)


def self_check(world: World, engine: GradientEngine) -> SelfCheck:
    recipe = world.plan.recipe
    return SelfCheck(
        recipe=recipe,
        privacy=world.plan.privacy,
        engines=OneEngine(engine),
        synthetic=synthetic_examples(world.base(), world.task, recipe.training.micro_batch),
        initial=read_initial(world.initial, recipe.adapter),
        clean_base=lambda: world.base().model,
    )


def check(
    world: World, adapted: AdaptedModel | None = None, losses: Losses = class_losses, engine: Engine = FastEngine
) -> bool:
    return self_check(world, engine(adapted or world.adapted(), losses)).run()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, mode="local")


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("method", ["ffa-lora", "fedit"])
@pytest.mark.parametrize("mode", ["none", "local", "distributed", "distributed-participant"])
def test_sound_methods_pass_and_leave_the_adapter_as_it_was(kind: str, method: str, mode: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, kind, method=method, mode=mode)
    for engine in ENGINES:
        adapted = world.adapted()
        before = adapted.vector()
        check(world, adapted, engine=engine)
        assert np.array_equal(adapted.vector(), before)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_frozen_base_in_bfloat16_passes_and_only_what_trains_is_wide(
    engine: Engine, kind: str, tmp_path: Path
) -> None:
    world = make_world(tmp_path, kind, mode="distributed", method="fedit")
    adapted = world.adapted(precision="bfloat16")
    narrow, wide = engine(adapted), engine(world.adapted())
    assert self_check(world, narrow).run() is False
    seen: dict[str, set[torch.dtype]] = {"trains": set(), "frozen": set()}
    for module in adapted.model.modules():
        if isinstance(module, torch.nn.Linear):
            owner = "trains" if module.weight.requires_grad else "frozen"
            module.register_forward_hook(lambda _m, _args, out, owner=owner: seen[owner].add(out.dtype))
    examples = synthetic_examples(world.base(), world.task, 8)
    rows, exact = narrow.per_example(examples), wide.per_example(examples)
    assert seen == {"trains": {torch.float32}, "frozen": {torch.bfloat16}}
    error = np.linalg.norm(rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert ((error > 1e-5) & (error < 5e-2)).all()


def inside(adapted: AdaptedModel) -> Any:
    """The transformers model below PEFT's wrappers."""
    return adapted.model.base_model.model


def lora_layers(adapted: AdaptedModel) -> Iterator[Any]:
    yield from (module for module in adapted.model.modules() if isinstance(module, LoraLayer))


def append(adapted: AdaptedModel, module: torch.nn.Module) -> None:
    """Put a module behind the transformer's last norm, before the head."""
    inside(adapted).vit.layernorm = torch.nn.Sequential(inside(adapted).vit.layernorm, module)


class AlwaysDropping(torch.nn.Module):
    """Keeps its dropout in training mode, whatever mode the model is put into."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Dropout(0.1)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.inner.training = True
        return self

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(hidden, self.inner.p)


class Centred(torch.nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden - hidden.mean(dim=0, keepdim=True)


class Leaking(torch.nn.Module):
    """Nudges an example's activations by its neighbour's: too little for the gradients' own tolerance."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + 1e-6 * hidden.roll(1, dims=0).detach()


class Spreading(torch.nn.Module):
    """Adds nothing to an example from its company, unless there is an infinity in it, or what is no number."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + 0 * hidden.sum()


class SparseMoeBlock(torch.nn.Module):
    """Has the name of a block that routes to experts, and does nothing that a few rows would show."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


RARE = 1  # no row that fills a whole micro-batch is one of these


class RarelySlotted(torch.nn.Module):
    """As Slotted, but for few rows alone: not for those that fill a whole micro-batch in the first test."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        slots = torch.arange(len(hidden), dtype=torch.float32) * 1e-6
        rare = (hidden[:, 1, 0] * 1000).floor() % 7 == RARE
        return hidden * (1 + slots * rare)[:, None, None]


class Slotted(torch.nn.Module):
    """Multiplies by a number that depends on the slot, in its last bits alone."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        slots = torch.arange(len(hidden), dtype=torch.float32) * 1e-6
        return hidden * (1 + slots)[:, None, None]


def freeze_the_first_tensor(adapted: AdaptedModel) -> None:
    adapted.trained[0].requires_grad_(False)


def train_something_else(adapted: AdaptedModel) -> None:
    inside(adapted).vit.layernorm.weight.requires_grad_(True)


def rescale(adapted: AdaptedModel, factor: float) -> None:
    for layer in lora_layers(adapted):
        layer.scaling["default"] *= factor


PLANTED: dict[str, tuple[Callable[[AdaptedModel], None], str]] = {
    "a layer that routes to experts": (
        lambda adapted: append(adapted, SparseMoeBlock()),
        "modules: .*SparseMoeBlock. routes to experts",
    ),
    "a layer that normalises over the batch": (
        lambda adapted: append(adapted, torch.nn.BatchNorm1d(5, affine=False, track_running_stats=False).eval()),
        "modules: .*normalises over the batch",
    ),
    "dropout on whatever mode": (
        lambda adapted: append(adapted, AlwaysDropping()),
        "modules: .*drops out|per-example gradients|batch independence",
    ),
    "an adapter frozen by mistake": (freeze_the_first_tensor, "trainables: 1 of the plan's tensors are frozen"),
    "a base tensor that trains": (train_something_else, "trainables: 0 of .*, 1 others train"),
    "activations centred over the batch": (lambda adapted: append(adapted, Centred()), "per-example gradients"),
    "a whisper from the neighbouring example": (lambda adapted: append(adapted, Leaking()), "batch independence"),
    "a company that is no number and spreads": (
        lambda adapted: append(adapted, Spreading()),
        "batch independence: .*no number",
    ),
    "an adapter that does nothing": (lambda adapted: rescale(adapted, 0.0), "non-zero update"),
    "an adapter that is exported with another scale": (lambda adapted: rescale(adapted, 3.0), "save and reload"),
}


@pytest.mark.parametrize("fault", PLANTED)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_self_check_refuses(engine: Engine, fault: str, world: World) -> None:
    plant, words = PLANTED[fault]
    adapted = world.adapted()
    plant(adapted)
    with pytest.raises(LocalError, match=words) as info:
        check(world, adapted, engine=engine)
    assert info.value.code == "E-SELF-CHECK"


@pytest.mark.parametrize("fault", PLANTED)
def test_the_self_check_refuses_the_same_faults_in_bfloat16(fault: str, world: World) -> None:
    plant, words = PLANTED[fault]
    adapted = world.adapted(precision="bfloat16")
    plant(adapted)
    with pytest.raises(LocalError, match=words):
        check(world, adapted)


def test_the_self_check_refuses_users_whose_rows_are_clipped_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, "text", mode="distributed", unit="user", max_rows_per_user=2, units=8)
    check(world)
    monkeypatch.setattr(GradientSums, "clipped_means", lambda sums, users, **clip: sums.clipped(joined(users), **clip))
    small = world.plan.privacy.model_copy(update={"clip_norm": "0.001"})  # each row is clipped to D
    with pytest.raises(LocalError, match="sensitivity: one user moves the sum"):
        replace(self_check(world, FastEngine(world.adapted())), privacy=small).run()


def contrastive(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return class_losses(logits - logits.mean(dim=0, keepdim=True), labels)


def mean_over_the_batch(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return class_losses(logits, labels) / len(labels)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("losses", [contrastive, mean_over_the_batch])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_self_check_refuses_losses_that_couple_a_batch(
    engine: Engine, losses: Losses, precision: Precision, world: World
) -> None:
    with pytest.raises(LocalError, match="per-example gradients") as info:
        check(world, world.adapted(precision=precision), losses=losses, engine=engine)
    assert info.value.code == "E-SELF-CHECK"


def test_dropout_that_is_active_is_named(world: World) -> None:
    adapted = world.adapted()
    engine = FastEngine(adapted)
    inside(adapted).vit.embeddings.dropout.training = True
    with pytest.raises(LocalError, match=r"modules: .*embeddings\.dropout drops out"):
        self_check(world, engine).run()


def test_a_batch_norm_that_trains_is_refused_when_hooks_are_attached(world: World) -> None:
    adapted = world.adapted()
    head = inside(adapted).classifier.modules_to_save
    head["default"] = torch.nn.Sequential(head["default"], torch.nn.BatchNorm1d(3))
    with pytest.raises(LocalError, match="per-example gradients") as info:
        OpacusEngine(adapted)
    assert info.value.code == "E-SELF-CHECK"


def test_a_whole_batch_clipped_as_one_example_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = world.adapted()
    engine = OpacusEngine(adapted)
    original = engine._backward

    def as_one(examples: Examples) -> None:
        original(examples)
        tensor: Any = adapted.trained[0]
        tensor.grad_sample = tensor.grad_sample.sum(dim=0, keepdim=True)

    monkeypatch.setattr(engine, "_backward", as_one)
    with pytest.raises(LocalError, match="for 8 examples") as info:
        engine.per_example(synthetic_examples(world.base(), world.task, 8))
    assert info.value.code == "E-SELF-CHECK"


def test_bits_that_differ_from_slot_to_slot_give_each_row_a_home(world: World) -> None:
    adapted = world.adapted()
    append(adapted, Slotted())
    assert self_check(world, FastEngine(adapted)).run() is True


def test_bits_that_differ_from_slot_to_slot_for_few_rows_alone_are_found_among_many(world: World) -> None:
    adapted = world.adapted()
    append(adapted, RarelySlotted())
    engine, task = FastEngine(adapted), world.task
    turn = TurnCheck(
        world.plan.recipe,
        world.plan.recipe.turns[0],
        world.plan.privacy,
        engine,
        synthetic_examples(world.base(), task, world.plan.recipe.training.micro_batch),
        synthetic_examples(world.base(), task, SLOT_ROWS),
    )
    assert turn._same_in_every_slot()
    assert not turn._rows_same_in_every_slot()
    assert replace(self_check(world, engine), slot_rows=turn.slot_rows).run() is True


def test_a_batch_norm_that_would_keep_statistics_of_batches_is_refused(world: World) -> None:
    adapted = world.adapted()
    append(adapted, torch.nn.BatchNorm1d(5, affine=False))  # in training mode, as it is made
    with pytest.raises(LocalError, match=r"modules: .*normalises over the batch"):
        check(world, adapted)


def test_normalisation_by_frozen_statistics_couples_nobody_and_is_accepted(world: World) -> None:
    adapted = world.adapted()
    append(adapted, torch.nn.BatchNorm1d(5, affine=False).eval())
    check_modules(adapted.model, world.plan.privacy.mode)


def test_the_tiny_models_need_no_home_slots(world: World) -> None:
    assert check(world) is False
