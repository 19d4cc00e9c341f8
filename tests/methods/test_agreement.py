"""Two states are the same model but for rounding and the basis of their factors, or they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from methods.agreement import agree
from methods.vectors import Vector, joined, split
from privacy.adapter_parts import StateStream, Tensor
from privacy.draft import Recipe
from tests.worlds.plans import make_plan

A, B, HEAD = "base_model.l.lora_A.weight", "base_model.l.lora_B.weight", "base_model.classifier.weight"
SHAPES = {A: (4, 9), B: (7, 4), HEAD: (3, 5)}
Tensors = dict[str, np.ndarray]


@pytest.fixture
def recipe() -> Recipe:
    plan, _ = make_plan(n=3)
    streams = {A: "adapter", B: "adapter", HEAD: "head"}
    tensors = tuple(Tensor(key=key, shape=shape, stream=streams[key]) for key, shape in SHAPES.items())
    state = (StateStream(name="adapter", length=64), StateStream(name="head", length=15))
    adapter = plan.recipe.adapter.model_copy(update={"tensors": tensors})
    return plan.recipe.model_copy(update={"adapter": adapter, "state": state})


@pytest.fixture
def own(recipe: Recipe) -> Vector:
    random = np.random.default_rng(3)
    return joined(recipe, {key: random.normal(size=shape) for key, shape in SHAPES.items()})


def turned(tensors: Tensors) -> Tensors:
    basis, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))
    return tensors | {A: basis @ tensors[A], B: tensors[B] @ basis.T}


def rounded(tensors: Tensors) -> Tensors:
    return {
        key: value * (1 + 1e-6 * np.random.default_rng(7).normal(size=value.shape)) for key, value in tensors.items()
    }


def stretched(tensors: Tensors) -> Tensors:
    """Stretch A along one direction and shrink it along another, so that its length stays, and B to undo it."""
    left, values, right = np.linalg.svd(tensors[A], full_matrices=False)
    others = values.copy()
    others[0], others[1] = np.sqrt(values[0] ** 2 + values[1] ** 2 / 2), values[1] / np.sqrt(2)
    made = left * others @ right
    return tensors | {A: made, B: tensors[B] @ (left * (values / others)) @ left.T}


SAME: dict[str, Callable[[Tensors], Tensors]] = {
    "the same": lambda tensors: tensors,
    "other roundings": rounded,
    "another basis of the factors": turned,
    "both": lambda tensors: rounded(turned(tensors)),
}
OTHER: dict[str, Callable[[Tensors], Tensors]] = {
    "another product": lambda tensors: tensors | {B: 1.001 * tensors[B]},
    "a larger B and a smaller A": lambda tensors: tensors | {A: tensors[A] / 2, B: 2 * tensors[B]},
    "another shape of the factors for the same product": stretched,
    "another head": lambda tensors: tensors | {HEAD: tensors[HEAD] + 0.001},
    "one entry of the head": lambda tensors: tensors | {HEAD: tensors[HEAD] + np.eye(3, 5) * 0.01},
    "something infinite": lambda tensors: tensors | {B: tensors[B] * np.inf},
    "no number": lambda tensors: tensors | {HEAD: tensors[HEAD] * np.nan},
}


@pytest.mark.parametrize("change", SAME)
def test_rounding_and_a_turned_basis_leave_a_model_what_it_is(recipe: Recipe, own: Vector, change: str) -> None:
    assert agree(recipe, own, joined(recipe, SAME[change](dict(split(recipe, own)))))


@pytest.mark.parametrize("change", OTHER)
def test_anything_else_is_another_model(recipe: Recipe, own: Vector, change: str) -> None:
    assert not agree(recipe, own, joined(recipe, OTHER[change](dict(split(recipe, own)))))


def test_a_state_of_another_length_is_another(recipe: Recipe, own: Vector) -> None:
    assert not agree(recipe, own, own[:-1])


def test_a_factor_that_is_still_zero_agrees_with_itself_alone(recipe: Recipe, own: Vector) -> None:
    start = joined(recipe, dict(split(recipe, own)) | {B: np.zeros(SHAPES[B])})
    assert agree(recipe, start, start)
    assert not agree(recipe, start, own)
