"""What single methods do in a participant's own steps: factors that alternate, pulls, masks and smaller ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import methods
from methods.coin import gathered
from methods.fedalt import own_change
from methods.global_adapter import unit
from methods.method import Method
from methods.ranks import held
from methods.selectors import Selector, select
from methods.uploads import kept_at_start
from methods.vectors import Vector, joined, split
from participant.training.adapters import switched
from participant.training.adapters.adapted import read_initial
from participant.training.adapters.turns import TurnEngines
from participant.training.examples import synthetic_examples
from participant.training.selfcheck import SelfCheck
from participant.training.torch_trainer import TorchTrainer
from privacy.errors import LocalError
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


def test_an_owners_rows_choose_how_much_of_its_own_lora_is_fused_with_the_shared_one(tmp_path: Path) -> None:
    world = make_world(tmp_path, method="fdlora", sampling_rate=1)
    trainer, start = world.trainer(SeededRandom("same coins")), start_of(world)
    for number in (1, 2, 3):
        trainer.train(number, start, lambda done, of: None)
    assert trainer.best_fusion(start)[1] > 0, "the shared one, at its start, knows nothing; its own has trained"
    spoilt = start + np.random.default_rng(1).normal(scale=3, size=start.shape).astype(np.float32)
    spoilt[-head_entries(world) :] = start[-head_entries(world) :]
    assert trainer.best_fusion(spoilt) == (0.0, 1.0), "a shared one that answers nonsense is left out"


def head_entries(world: World) -> int:
    return next(stream.length for stream in world.plan.recipe.state if stream.name == "head")


@pytest.mark.parametrize("mode", ["none", "local", "distributed", "distributed-participant"])
def test_a_lora_that_trains_by_itself_changes_nothing_of_what_goes_up(mode: str, tmp_path: Path) -> None:
    """The same coins give FedIT's update to the bit: the LoRA at home is in no forward pass of it."""
    updates = {}
    for method in ("fedit", "feddpa", "fdlora"):
        world = make_world(tmp_path / method, method=method, mode=mode, sampling_rate=1)
        trainer = world.trainer(SeededRandom("same coins"))
        start = start_of(world) + np.float32(0.05)
        if method != "fedit":
            home = trainer.own_model(start)[1].size - start.size
            trainer.kept = np.full(home, 0.3, dtype=np.float32)
        updates[method] = trainer.train(1, start, lambda done, of: None)
        if method != "fedit":
            assert trainer.kept is not None
            assert not np.array_equal(trainer.kept, np.full(home, 0.3, dtype=np.float32))
    assert np.array_equal(updates["feddpa"], updates["fedit"])
    assert np.array_equal(updates["fdlora"], updates["fedit"])


@pytest.mark.parametrize("mode", ["none", "local", "distributed-participant"])
@pytest.mark.parametrize("name", ["fedalt", "scaffold"])
def test_what_stays_at_home_goes_as_far_as_what_is_summed(
    name: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the state would not be the mean of everybody's; the clip of a difference is far below how far it led."""
    clip: dict[str, Any] = {} if mode == "none" else {"clip_norm": 0.01}
    world = make_world(tmp_path, method=name, mode=mode, sampling_rate=1, local_steps=2, **clip)
    recipe, encoding = world.plan.recipe, world.plan.encoding
    monkeypatch.setattr(TorchTrainer, "_noise", lambda _trainer, entries: np.zeros(entries, dtype=np.int64))
    trainer, start = world.trainer(SeededRandom("same coins")), start_of(world)
    first = kept_at_start(methods.get(name), recipe, read_initial(world.initial, recipe.adapter))
    sent = np.zeros(recipe.turns[0].entries)
    for number in (1, 2, 3):
        one = unit(world.plan, number) if mode == "distributed-participant" else 2.0**-encoding.scale_exponent
        sent += one * trainer.train(number, start, lambda done, of: None)
    assert trainer.kept is not None
    gone = trainer.kept.astype(np.float64) - first
    if name == "fedalt":
        gone = own_change(recipe, np.concatenate([np.zeros(recipe.state_entries), gone]))
        sent = sent[: gone.size]
    else:
        sent = sent[gone.size :]
    assert np.linalg.norm(sent) > 0
    assert np.allclose(gone, sent, rtol=1e-5, atol=1e-7)


def test_layers_that_the_coin_left_out_are_not_computed(tmp_path: Path) -> None:
    world = make_world(tmp_path, method="droppeft", mode="distributed", sampling_rate=1)
    trainer = world.trainer(SeededRandom("same coins"))
    work = trainer._work(1)
    (left_out,) = work.sums.skipped
    calls: list[int] = []
    left_out.get_submodule("layernorm_before").register_forward_hook(lambda *_: calls.append(1))
    rows = work.sums._gradients(np.arange(8))
    assert not calls
    assert rows.shape == (8, world.plan.recipe.entries)
    summed = work.sums.plain(np.arange(8))
    assert np.allclose(rows.double().sum(dim=0).numpy(), summed, rtol=1e-4, atol=1e-6), "each example's own gradient"
    work.sums.engine.losses(work.sums.examples.take(np.arange(8)))
    assert calls, "and after the round they are there again"


BY_EXAMPLE = [method for method in methods.all_methods() if {"local", "distributed"} & set(method.modes)]
SOON = {
    "bottleneck",
    "droppeft",
    "fedalt",
    "fedkseed",
    "fedsa-lora",
    "ravan",
}  # at every change; the others in `make test-all`


@pytest.mark.parametrize(
    "method",
    [pytest.param(method, marks=[] if method.name in SOON else [pytest.mark.slow]) for method in BY_EXAMPLE],
    ids=lambda method: method.name,
)
def test_each_example_s_gradient_is_exact_in_every_turn_of_a_method_that_clips_them(
    method: Method, tmp_path: Path
) -> None:
    world = make_world(tmp_path, "text" if method.texts_only else "image", method=method.name, mode="local")
    synthetic = synthetic_examples(world.base(), world.task, 4)
    engines = TurnEngines(world.adapted(), synthetic, "fast")
    start = engines.adapted.vector()
    moved = start + np.random.default_rng(1).normal(scale=0.05, size=start.shape).astype(np.float32)
    for turn in engines.turns:
        engine = engines.enter(turn)
        engine.adapted.load(moved)
        rows = engine.per_example(synthetic)
        for place in range(4):
            alone = engine.summed(synthetic.take(np.array([place])))
            assert np.linalg.norm(rows[place] - alone) <= EXACT * np.linalg.norm(alone)


EXACT = 1e-5  # relative


def test_layers_that_cannot_be_left_out_are_found_before_anything_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the self-check itself
    monkeypatch.setattr(switched, "_pass_on", lambda hidden_states, *_args, **_kwargs: (hidden_states,))
    with pytest.raises(LocalError, match="left-out layers: the model does not run without them") as info:
        make_world(tmp_path, method="droppeft", mode="local").trainer()
    assert info.value.code == "E-SELF-CHECK"
