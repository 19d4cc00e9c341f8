"""Sketches: two thin ones from which a mean product is recovered, and a count sketch that keeps what is large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import methods
from methods import sketches
from methods.count_sketch import Tables
from methods.layout import Sizes
from methods.optimizer import OptimizerState, Wide
from methods.products import head_of
from methods.uploads import Steps, encoded
from methods.vectors import split
from participant.training.adapters.sums import sketched_rows
from privacy.adapter_parts import CountSketch
from privacy.draft import Recipe
from privacy.errors import LocalError
from tests.worlds.recipes import FACTOR_A as A
from tests.worlds.recipes import FACTOR_B as B
from tests.worlds.recipes import HEAD, SHAPES, recipe_of

RANK, INPUTS, OUTPUTS = 4, 96, 64
LARGER: dict[str, tuple[int, ...]] = {A: (RANK, INPUTS), B: (OUTPUTS, RANK), HEAD: (3, 6)}
WIDE_LORA = {"peft_type": "LORA", "rank": RANK, "alpha": "4", "target_modules": ["q_proj"], "layers": []}
MEMBERS = 5
NOTHING = np.empty(0, dtype=np.float32)


def recipe_with(columns: int) -> Recipe:
    return recipe_of("fedask", sketch=columns, shapes=LARGER, options=WIDE_LORA)


def mean_after(recipe: Recipe, spread: float) -> tuple[OptimizerState, Wide, Wide]:
    """Return a start, the mean of what members at some distance from each other send, and their mean product."""
    random = np.random.default_rng(5)
    start = random.normal(size=recipe.state_entries)
    state = OptimizerState.start(start.astype(np.float32))
    common = start + random.normal(size=start.size)
    ends = [common + spread * random.normal(size=start.size) for _ in range(MEMBERS)]
    method, before = methods.get("fedask"), state.iterate.astype(np.float64)
    steps = [Steps(number=1, start=before, end=end, kept=NOTHING, reach=NOTHING.astype(np.float64)) for end in ends]
    sent = np.mean([encoded(method, recipe, one)[0] for one in steps], axis=0)
    factors = [split(recipe, end) for end in ends]
    return state, sent, np.mean([own[B] @ own[A] for own in factors], axis=0)


def relative(found: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_a_sketch_with_a_column_for_each_rank_of_each_member_recovers_the_mean_product_exactly() -> None:
    recipe = recipe_with(MEMBERS * RANK)
    methods.require_sound(recipe, "local")
    assert recipe.turns[0].entries == 24 * OUTPUTS + 40 * INPUTS + 18
    state, sent, mean = mean_after(recipe, spread=1.0)
    ((_, _, product, error),) = sketches.recovered(recipe, state, sent)
    assert relative(product, mean) < 1e-6
    assert error < 1e-6


def test_fewer_columns_do_where_members_nearly_agree_and_the_logged_error_is_about_the_true_one() -> None:
    recipe = recipe_with(2 * RANK)
    assert recipe.turns[0].entries < OUTPUTS * INPUTS / 2
    state, sent, mean = mean_after(recipe, spread=0.05)
    ((_, _, product, error),) = sketches.recovered(recipe, state, sent)
    true = relative(product, mean)
    assert 1e-5 < true < 0.01
    assert true / 3 < error < 3 * true
    assert methods.get("fedask").error is sketches.error
    assert sketches.error(recipe, state, sent) == error


def test_the_next_factors_are_those_that_flexlora_takes_from_whole_products() -> None:
    recipe = recipe_with(MEMBERS * RANK)
    state, sent, mean = mean_after(recipe, spread=1.0)
    after = methods.advance(recipe, state, sent)
    left, values, right = np.linalg.svd(mean)
    tensors = split(recipe, after.iterate)
    assert relative(tensors[B] @ tensors[A], (left[:, :RANK] * values[:RANK]) @ right[:RANK]) < 1e-5
    moved = (after.iterate - state.iterate)[head_of(recipe)]
    assert np.allclose(moved, sent[-18:], atol=1e-6)


def test_each_round_has_other_matrices_and_everybody_the_same() -> None:
    recipe = recipe_with(4)
    zero, one = np.zeros(recipe.state_entries), np.ones(recipe.state_entries)
    first, again, second = (sketches.differences(recipe, number, zero, one) for number in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, second)


COUNTED = dict(SHAPES) | {A: (2, 120), B: (80, 2)}


def counted(width: int = 16) -> Recipe:
    return recipe_of("count-sketch", sketch=width, shapes=COUNTED)


def test_a_count_sketch_is_linear_and_finds_large_entries() -> None:
    tables = Tables.of(counted(64))
    random = np.random.default_rng(2)
    one, other = random.normal(size=(2, 400))
    assert np.allclose(tables.sketched(one + other), tables.sketched(one) + tables.sketched(other))
    vector = np.zeros(400)
    vector[[7, 30, 211]] = 5.0, -4.0, 3.0
    found = tables.estimates(tables.sketched(vector))
    assert set(np.argsort(-np.abs(found))[:3]) == {7, 30, 211}
    assert np.allclose(found[[7, 30, 211]], vector[[7, 30, 211]], atol=1e-9)


def test_what_a_step_does_not_take_out_of_a_count_sketch_stays_for_the_next() -> None:
    recipe = counted(32)
    methods.require_sound(recipe, "distributed")
    assert recipe.turns[0].entries == 5 * 32 + 18 < recipe.state_entries / 2
    random = np.random.default_rng(3)
    target = np.zeros(400)
    target[random.permutation(400)[:12]] = random.choice([-1.0, 1.0], size=12)  # more than a step takes
    sent = np.concatenate([Tables.of(recipe).sketched(target).reshape(-1), np.zeros(18)])
    state, missing = OptimizerState.start(np.zeros(recipe.state_entries, dtype=np.float32)), []
    for number in range(30):
        state = methods.advance(recipe, state, sent if number == 0 else 0 * sent)
        missing.append(relative(state.iterate[:400], target))
    assert missing[0] > 0.9
    assert missing[-1] < 1e-6
    assert np.linalg.norm(state.second) < 1e-6 * np.linalg.norm(sent)


def test_torch_sketches_each_gradient_as_numpy_does() -> None:
    recipe = counted()
    tables = Tables.of(recipe)
    rows = np.random.default_rng(4).normal(size=(3, recipe.state_entries)).astype(np.float32)
    found = sketched_rows(torch.from_numpy(rows), tables).numpy()
    for row, sketch in zip(rows, found, strict=True):
        expected = np.concatenate([tables.sketched(row[:400]).reshape(-1), row[400:]])
        assert np.allclose(sketch, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "sketch"), [("fedit", 4), ("fedask", None), ("count-sketch", None)])
def test_a_size_of_sketches_is_refused_where_there_are_none_and_missed_where_there_are(
    name: str, sketch: int | None
) -> None:
    with pytest.raises(LocalError, match=r"training\.sketch") as info:
        methods.get(name).upload_of((), Sizes(sketch=sketch))
    assert info.value.code == "E-CONFIG-INVALID"


def test_a_count_sketch_that_is_no_shorter_than_the_adapter_is_refused() -> None:
    assert counted(79).upload == CountSketch(rows=5, width=79)
    with pytest.raises(LocalError, match="no fewer than 400 entries") as info:
        counted(80)
    assert info.value.code == "E-CONFIG-INVALID"
