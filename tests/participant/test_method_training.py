"""What single methods do in a participant's own steps: factors that alternate, pulls, masks and smaller ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from methods.coin import gathered
from methods.ranks import held
from methods.selectors import Selector, select
from methods.vectors import Vector, joined, split
from participant.training.adapters.adapted import read_initial
from participant.training.selfcheck import SelfCheck
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import TRAINING, World, make_world

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def no_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds in ``test_mode_rounds`` check the same models."""
    monkeypatch.setattr(SelfCheck, "run", lambda _check: False)


def start_of(world: World) -> Vector:
    recipe = world.plan.recipe
    return joined(recipe, read_initial(world.initial, recipe.adapter))


def update(world: World, number: int = 1, start: Vector | None = None) -> np.ndarray[Any, Any]:
    trainer = world.trainer(SeededRandom("same coins"))
    return trainer.train(number, start_of(world) if start is None else start, lambda done, of: None)


def moved(world: World, change: np.ndarray[Any, Any]) -> set[Selector]:
    """The selectors of the tensors that an update moves."""
    recipe = world.plan.recipe
    tensors = split(recipe, change.astype(np.float32))
    return {
        select(key, recipe.adapter.options, recipe.adapter.head_modules) for key, one in tensors.items() if one.any()
    }


@pytest.mark.parametrize("mode", ["none", "local"])
def test_la_lora_moves_one_factor_in_a_step_and_puts_noise_on_no_other(mode: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, method="la-lora", mode=mode, local_steps=1, sampling_rate=1)
    start = start_of(world) + np.float32(0.1)
    assert moved(world, update(world, 1, start)) == {Selector.LORA_B, Selector.HEAD}
    assert moved(world, update(world, 2, start)) == {Selector.LORA_A, Selector.HEAD}


def test_la_lora_with_two_steps_moves_both_factors_in_a_round(tmp_path: Path) -> None:
    world = make_world(tmp_path, method="la-lora", local_steps=2, sampling_rate=1)
    assert moved(world, update(world)) == {Selector.LORA_A, Selector.LORA_B, Selector.HEAD}


def test_fedprox_stays_nearer_to_the_round_s_start_and_is_plain_lora_in_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for steps in (1, 3):
        for name, weight in (("weak", "0.000001"), ("strong", "1")):
            monkeypatch.setitem(TRAINING, "fedprox", f"proximal = {weight}")
            world = make_world(tmp_path / f"{name}{steps}", method="fedprox", local_steps=steps, sampling_rate=1)
            found[name, steps] = update(world)
    assert np.array_equal(found["weak", 1], found["strong", 1])
    lengths = {key: np.linalg.norm(value.astype(float)) for key, value in found.items()}
    assert lengths["strong", 3] < 0.9 * lengths["weak", 3]


@pytest.mark.parametrize("mode", ["none", "local", "distributed"])
def test_a_common_mask_lets_nothing_else_go_up(mode: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, method="random-mask", mode=mode, sampling_rate=1)
    recipe = world.plan.recipe
    change = update(world)
    assert change.shape == (recipe.entries,)
    assert gathered(recipe, 1).size == recipe.entries < recipe.state_entries


@pytest.mark.parametrize("mode", ["none", "local", "distributed", "distributed-participant"])
def test_whoever_has_a_smaller_rank_trains_nothing_beyond_it(mode: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, method="hetlora", mode=mode, sampling_rate=1)
    recipe, me = world.plan.recipe, world.plan.member("alice")
    mask = held(recipe, recipe.turns[0], me)
    assert me.options.rank == 1
    assert not mask.all()
    change = update(world, start=start_of(world) + np.float32(0.1))
    assert change[mask].any()
    if mode in {"none", "local"}:
        assert not change[~mask].any()
    else:  # everybody's share of the noise is on every entry: who trains an entry must not decide how well it is hidden
        assert np.count_nonzero(change[~mask]) > 0.8 * np.count_nonzero(~mask)


def test_what_others_train_beyond_a_smaller_rank_has_no_influence_on_it(tmp_path: Path) -> None:
    world = make_world(tmp_path, method="hetlora", sampling_rate=1)
    recipe = world.plan.recipe
    beyond = ~held(recipe, recipe.turns[0], world.plan.member("alice"))
    start = start_of(world) + np.float32(0.1)
    other = start.copy()
    other[beyond] += 1
    assert np.array_equal(update(world, start=start), update(world, start=other))
