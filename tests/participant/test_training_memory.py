"""Memory that training may take: micro-batches shrink for it, blocks run twice for it, and updates stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from methods.vectors import joined
from participant.training.adapters.adapted import read_initial
from participant.training.bases.memory import BYTES_OF_AN_ENTRY, MIB, Memory, micro_batch
from privacy.errors import LocalError
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import World, make_world

pytestmark = pytest.mark.torch


def updates(world: World, **memory: Any) -> np.ndarray:
    trainer = world.trainer(SeededRandom("secret"), memory=Memory(**memory))
    start = joined(world.plan.recipe, read_initial(world.initial, world.plan.recipe.adapter))
    return np.stack([trainer.train(number, start, lambda _done, _of: None) for number in (1, 2)])


@pytest.mark.parametrize(("kind", "method"), [("text", "fedit"), ("image", "layers")])
def test_blocks_that_run_twice_give_the_same_update_bit_for_bit(kind: str, method: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, kind, mode="local", method=method)
    assert np.array_equal(updates(world), updates(world, checkpointing=True))


@pytest.mark.parametrize("method", ["prefix", "fedkseed", "fedalt", "fdlora"])
def test_what_is_put_into_a_model_for_one_pass_is_refused_where_blocks_would_run_twice(
    method: str, tmp_path: Path
) -> None:
    with pytest.raises(LocalError, match=r"memory\.checkpointing: .* cannot run blocks again; set it to false") as info:
        updates(make_world(tmp_path, "text", mode="none", method=method), checkpointing=True)
    assert info.value.code == "E-CONFIG-INVALID"


def test_micro_batches_shrink_until_the_gradients_of_their_examples_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, "text", mode="distributed", method="fedit")
    recipe = world.plan.recipe
    monkeypatch.setattr("participant.training.bases.memory.MIB", recipe.entries * BYTES_OF_AN_ENTRY)
    whole = updates(world, gradients=8)
    assert [micro_batch(recipe, Memory(gradients=room), per_example=True) for room in (1, 3, 8, 50)] == [1, 3, 8, 8]
    assert micro_batch(recipe, Memory(gradients=1), per_example=False) == 8
    for room in (1, 3):
        smaller = updates(world, gradients=room)
        assert np.abs(smaller - whole).max() <= 24  # an integer step a row: others round otherwise
        assert np.linalg.norm(smaller - whole) <= 1e-2 * np.linalg.norm(whole)


def test_a_gradient_that_has_no_room_at_all_is_refused_with_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, "text", mode="local", method="fedit")
    monkeypatch.setattr("participant.training.bases.memory.MIB", 1000)
    needed = -(-world.plan.recipe.entries * BYTES_OF_AN_ENTRY // 1000)
    with pytest.raises(LocalError, match=f"gradients = 1: the gradient of one example takes {needed} MiB") as info:
        updates(world, gradients=1)
    assert info.value.code == "E-CONFIG-INVALID"
    assert MIB == 2**20
