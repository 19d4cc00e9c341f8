"""What sets single methods apart: coins over ranks and layers, parts at home, variates, cores and directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import methods
from methods.coin import chosen_layers, gathered, layer_of
from methods.fedalt import others
from methods.fedkseed import direction, moved_by, replayed
from methods.layout import Sizes, schedule_of
from methods.optimizer import OptimizerState
from methods.ravan import CORES, SCALES, folded, multiplied_out
from methods.scaffold import pull, variate_entries
from methods.second_lora import fused, of_both_ranks
from methods.selectors import SEEDS_KEY
from methods.uploads import Steps, encoded
from methods.vectors import Vector, home_tensors, joined, local_places, split
from privacy import canonical
from privacy.adapter_parts import Adapter, Gather, Opening, Role, Schedule
from privacy.draft import Recipe
from privacy.errors import LocalError
from tests.worlds.plans import plan_document
from tests.worlds.recipes import FACTOR_A as A
from tests.worlds.recipes import FACTOR_B as B
from tests.worlds.recipes import HEAD, LORA, SHAPES, recipe_of

LAYERS: dict[str, tuple[int, ...]] = {
    key.replace("layer.q_proj", f"layer.{number}.q_proj"): shape
    for number in range(4)
    for key, shape in SHAPES.items()
    if key != HEAD
} | {HEAD: SHAPES[HEAD]}
HOME_A, HOME_B = A.replace("lora_A", "lora_A.home"), B.replace("lora_B", "lora_B.home")
MIXER = A.replace("lora_A", "lora_mixer.home")
SECOND: dict[str, tuple[int, ...]] = {**SHAPES, HOME_A: SHAPES[A], HOME_B: SHAPES[B]}
MIXED: dict[str, tuple[int, ...]] = {**SECOND, MIXER: (2, 8), MIXER.replace("weight", "bias"): (2,)}
NOTHING = np.empty(0, dtype=np.float32)


def random_state(recipe: Recipe, seed: int = 1) -> Vector:
    return np.random.default_rng(seed).normal(size=recipe.state_entries).astype(np.float32)


def steps_of(recipe: Recipe, start: np.ndarray, end: np.ndarray, kept: Vector = NOTHING, number: int = 1) -> Steps:
    reach = np.full(local_places(recipe, recipe.turn(number)).size, 0.5)
    return Steps(number=number, start=start.astype(np.float64), end=end.astype(np.float64), kept=kept, reach=reach)


# --- coins over ranks and layers ---


def test_lora_a2_trains_the_same_ranks_of_one_factor_at_everybodys() -> None:
    wide = {A: (4, 8), B: (6, 4), HEAD: SHAPES[HEAD]}
    recipe = recipe_of("lora-a2", mask=0.5, shapes=wide, options={**LORA, "rank": 4})
    assert recipe.upload == Gather(entries=2, of="ranks")
    assert [turn.entries for turn in recipe.turns] == [6 * 2 + 18, 2 * 8 + 18]
    start = OptimizerState.start(np.zeros(recipe.state_entries, dtype=np.float32))
    after = methods.advance(recipe, start, np.ones(30))
    moved = split(recipe, after.iterate)
    assert not moved[A].any()
    assert sorted(moved[B].sum(axis=0)) == [0, 0, 6, 6], "two columns of B, whole"
    later = split(recipe, methods.advance(recipe, after, np.ones(34)).iterate)
    assert sorted(later[A].sum(axis=1)) == [0, 0, 8, 8], "two rows of A, whole"
    assert np.array_equal(later[B], moved[B])


def test_droppeft_lets_as_many_whole_layers_train_as_the_plan_says_others_each_round() -> None:
    recipe = recipe_of("droppeft", mask=0.5, shapes=LAYERS)
    methods.require_sound(recipe, "distributed")
    assert recipe.turns[0].entries == 2 * 28 + 18
    chosen = [chosen_layers(recipe, number) for number in range(1, 9)]
    assert {len(layers) for layers in chosen} == {2}
    assert set().union(*chosen) == {0, 1, 2, 3}
    start = OptimizerState.start(np.zeros(recipe.state_entries, dtype=np.float32))
    moved = split(recipe, methods.advance(recipe, start, np.ones(recipe.turns[0].entries)).iterate)
    assert {layer_of(key) for key, value in moved.items() if value.any()} == {None, *chosen[0]}


def test_droppeft_is_refused_where_layers_differ_in_size() -> None:
    uneven = {**LAYERS, A.replace("layer.q_proj", "layer.3.q_proj"): (2, 16)}
    with pytest.raises(LocalError, match="two layers of one size; take method random-mask") as info:
        recipe_of("droppeft", mask=0.5, shapes=uneven)
    assert info.value.code == "E-METHOD-REFUSED"


def test_the_bytes_of_a_mask_over_entries_are_those_of_plans_that_knew_no_other() -> None:
    assert Gather(entries=7).model_dump(mode="json") == {"kind": "gather", "entries": 7}
    assert Gather(entries=7, of="ranks").model_dump(mode="json") == {"kind": "gather", "entries": 7, "of": "ranks"}


# --- SLoRA ---


def slora(rounds: int = 2) -> Recipe:
    base = A.replace("lora_A.weight", "base_layer.weight")
    shapes = {**SHAPES, base: (6, 8)}
    opening = Schedule(opening=(Opening(turn=0, rounds=rounds),), cycle=(1,))
    return recipe_of("slora", mask=0.25, opening_rounds=rounds, shapes=shapes, schedule=opening.model_dump(mode="json"))


def test_slora_moves_the_same_few_weights_in_all_its_first_rounds_and_then_the_factors() -> None:
    recipe = slora()
    methods.require_sound(recipe, "distributed")
    assert [recipe.turn(number).entries for number in (1, 2, 3)] == [12 + 18, 12 + 18, 28 + 18]
    assert np.array_equal(gathered(recipe, 1), gathered(recipe, 2))
    assert [tensor.part for tensor in recipe.adapter.tensors].count("base") == 1


def test_slora_goes_on_from_the_best_factors_of_what_the_base_moved_by() -> None:
    recipe = slora()
    base = A.replace("lora_A.weight", "base_layer.weight")
    start = OptimizerState.start(joined(recipe, {key: np.zeros(shape) for key, shape in _shapes(recipe).items()}))
    first = methods.advance(recipe, start, np.random.default_rng(1).normal(size=30))
    sparse = split(recipe, first.iterate)[base]
    assert np.count_nonzero(sparse) == 12
    second = methods.advance(recipe, first, np.zeros(30))
    tensors = split(recipe, second.iterate)
    left, values, right = np.linalg.svd(sparse.astype(np.float64))
    assert np.allclose(2 * tensors[B] @ tensors[A], (left[:, :2] * values[:2]) @ right[:2], atol=1e-6), (
        "alpha/rank is 2"
    )
    assert not tensors[base].any()
    third = methods.advance(recipe, second, np.ones(46))
    assert not split(recipe, third.iterate)[base].any()


def _shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    return {tensor.key: tensor.shape for tensor in recipe.adapter.tensors}


@pytest.mark.parametrize("opening", [0, 3, 4])
def test_slora_needs_an_opening_that_ends_before_the_run(opening: int) -> None:
    with pytest.raises(LocalError, match=r"training\.opening_rounds") as info:
        schedule_of(methods.get("slora"), opening, 3)
    assert info.value.code == "E-CONFIG-INVALID"


# --- RAVAN ---


def test_ravan_sends_scaled_cores_with_every_scale_at_one_again() -> None:
    module = "base_model.model.layer.q_proj"
    shapes = {module + CORES: (3, 2, 2), module + SCALES: (3,), HEAD: (3, 6)}
    frozen = {f"{module}.lora_A.weight": (6, 8), f"{module}.lora_B.out.weight": (6, 6)}
    options = {
        "peft_type": "LORA_HEADS",
        "heads": 3,
        "rank": 2,
        "alpha": "6",
        "target_modules": ["q_proj"],
        "layers": [],
    }
    recipe = recipe_of("ravan", shapes={**shapes, **frozen}, options=options)
    methods.require_sound(recipe, "distributed")
    assert recipe.turns[0].entries == 3 * 4 + 3 + 18
    vector = random_state(recipe).astype(np.float64)
    before, after = split(recipe, vector), split(recipe, folded(recipe, vector, vector))
    assert np.allclose(after[module + CORES], before[module + CORES] * before[module + SCALES][:, None, None])
    assert (after[module + SCALES] == 1).all()
    random = np.random.default_rng(2)
    held = {key: random.normal(size=shape).astype(np.float32) for key, shape in frozen.items()}
    was, now = (
        multiplied_out(recipe.adapter, {**{key: one.astype(np.float32) for key, one in state.items()}, **held}, {})
        for state in (before, after)
    )
    assert np.allclose(was[f"{module}.lora_B.weight"], now[f"{module}.lora_B.weight"], atol=1e-5)
    blocks = np.zeros((6, 6))
    for head, core in enumerate(after[module + CORES]):
        blocks[2 * head : 2 * head + 2, 2 * head : 2 * head + 2] = core
    assert np.allclose(now[f"{module}.lora_B.weight"], held[f"{module}.lora_B.out.weight"] @ blocks, atol=1e-5)


# --- SCAFFOLD ---


def test_the_common_variate_is_the_mean_of_everybodys_though_some_drop_out() -> None:
    recipe = recipe_of("scaffold")
    methods.require_sound(recipe, "local")
    assert recipe.turns[0].entries == 2 * 46
    assert recipe.state_entries == 2 * 46
    method, random = methods.get("scaffold"), np.random.default_rng(6)
    assert variate_entries(recipe) == method.kept(recipe) == 46
    state = OptimizerState.start(np.concatenate([random.normal(size=46), np.zeros(46)]).astype(np.float32))
    kept = {name: np.zeros(46, dtype=np.float32) for name in ("ann", "ben", "cid", "dot")}
    for gone in ("dot", "ann", "cid"):
        sent = []
        for name, own in kept.items():
            if name != gone:
                start = state.iterate.astype(np.float64)
                end = start + np.concatenate([random.normal(size=46), np.zeros(46)])
                update, kept[name] = encoded(method, recipe, steps_of(recipe, start, end, own))
                sent.append(update)
        mean = np.mean(sent, axis=0)
        mean[46:] *= len(sent) / len(kept)  # as `methods.global_adapter.direction` does it
        state = methods.advance(recipe, state, mean)
        assert np.allclose(state.iterate[46:], np.mean(list(kept.values()), axis=0), atol=1e-5)


def test_a_step_of_scaffold_is_corrected_by_the_common_variate_less_ones_own() -> None:
    recipe = recipe_of("scaffold")
    state, own = random_state(recipe), np.arange(46, dtype=np.float32)
    assert np.allclose(pull(recipe, state.astype(np.float64), own), state[46:] - own)
    _, kept = encoded(methods.get("scaffold"), recipe, steps_of(recipe, state, state - 1, own))
    assert np.allclose(kept[:46], own - state[46:] + 1 / 0.5, atol=1e-5), "c_i - c + (x - y)/(K rate)"


# --- parts that stay at home ---


def test_fedsa_lora_sends_a_and_keeps_b() -> None:
    recipe = recipe_of("fedsa-lora")
    methods.require_sound(recipe, "local")
    assert [(stream.name, stream.length) for stream in recipe.turns[0].sums] == [("a", 16), ("head", 18)]
    assert recipe.turns[0].trains == ("a", "head", "personal")
    assert recipe.clipped_entries == 16 + 18 + 12 > recipe.entries, "B is inside the clip"
    start = np.zeros(46)
    sent, kept = encoded(methods.get("fedsa-lora"), recipe, steps_of(recipe, start, np.arange(46.0)))
    assert np.array_equal(sent, np.arange(34))
    assert np.array_equal(kept, np.arange(34, 46))


@pytest.mark.parametrize("name", ["feddpa", "fdlora"])
def test_a_second_lora_that_trains_by_itself_changes_nothing_of_what_is_summed(name: str) -> None:
    recipe, plain = recipe_of(name, shapes=SECOND), recipe_of("fedit")
    for mode in ("local", "distributed", "distributed-participant", "none"):
        methods.require_sound(recipe, mode)
    assert (recipe.state, recipe.turns) == (plain.state, plain.turns)
    assert recipe.clipped_entries == plain.clipped_entries
    assert [tensor.key for tensor in home_tensors(recipe)] == [HOME_A, HOME_B]


def test_two_loras_side_by_side_are_one_of_twice_the_rank() -> None:
    recipe, random = recipe_of("feddpa", shapes=SECOND), np.random.default_rng(3)
    released, mine = (
        {key: random.normal(size=SECOND[key]).astype(np.float32) for key in keys} for keys in ((A, B), (HOME_A, HOME_B))
    )
    both = fused(released, mine, (0.25, 2.0))
    expected = 0.25 * released[B] @ released[A] + 2.0 * mine[HOME_B] @ mine[HOME_A]
    assert np.allclose(both[B] @ both[A], expected, atol=1e-5)
    assert of_both_ranks(recipe.adapter) == {"r": 4, "lora_alpha": 8.0}


def test_fedalt_trains_beside_the_mean_of_all_others_and_sends_how_far_its_own_went() -> None:
    recipe = recipe_of("fedalt", shapes=MIXED)
    methods.require_sound(recipe, "distributed-participant")
    assert [(stream.name, stream.length) for stream in recipe.turns[0].sums] == [("adapter", 28), ("head", 18)]
    random = np.random.default_rng(4)
    own = [random.normal(size=28 + 18).astype(np.float32) for _ in range(3)]  # two factors and the mixer
    keys = [tensor.key for tensor in home_tensors(recipe)]
    lora = [np.concatenate([value.reshape(-1) for value in _parts(recipe, mine, keys)]) for mine in own]
    state = np.concatenate([np.mean(lora, axis=0), np.zeros(18)]).astype(np.float32)
    seen = others(recipe, state, own[0], 1 / 3)
    assert np.allclose(seen[:28], (lora[1] + lora[2]) / 2, atol=1e-5)
    assert np.array_equal(seen[28:], state[28:])
    end = np.concatenate([seen, own[0] + 1])
    sent, kept = encoded(methods.get("fedalt"), recipe, steps_of(recipe, np.concatenate([seen, own[0]]), end))
    assert np.allclose(sent[:28], 1, atol=1e-5)
    assert not sent[28:].any()
    assert np.allclose(kept, own[0] + 1)
    after = methods.advance(recipe, replace(OptimizerState.start(state), round=1), sent)
    assert np.allclose(after.iterate[:28], state[:28] + 1, atol=1e-5)


def _parts(recipe: Recipe, mine: Vector, keys: list[str]) -> list[np.ndarray]:
    """Return a participant's own factors in the order of the mean's."""
    ends = np.cumsum([tensor.entries for tensor in home_tensors(recipe)])[:-1]
    parts = dict(zip(keys, np.split(mine, ends), strict=True))
    return [parts[key] for key in (HOME_A, HOME_B)]


# --- FedKSeed ---

SEEDS = {"peft_type": "SEEDS", "directions": 64, "target_modules": ["dense"]}
DENSE = "base_model.model.dense.weight"


def seeds() -> Recipe:
    return recipe_of("fedkseed", shapes={SEEDS_KEY: (64,), DENSE: (12, 10), HEAD: (3, 6)}, options=SEEDS)


def test_fedkseed_sums_one_number_for_each_direction_whatever_the_modules() -> None:
    recipe = seeds()
    methods.require_sound(recipe, "distributed")
    assert recipe.turns[0].entries == 64 + 18
    assert {tensor.key: tensor.stream for tensor in recipe.adapter.tensors}[DENSE] == Role.FROZEN


def test_directions_are_signs_that_the_seed_decides_and_nearly_orthogonal() -> None:
    adapter = seeds().adapter
    rows = np.array([direction(adapter, number, DENSE, (12, 10)).reshape(-1) for number in range(64)])
    assert set(np.abs(rows).reshape(-1).tolist()) == {0.125}, "1 over the root of 64"
    inner = rows @ rows.T * 64 / 120
    assert np.abs(inner - np.eye(64)).max() < 0.5
    other = adapter.model_copy(update={"seed": adapter.seed + 1})
    assert not np.array_equal(direction(other, 0, DENSE, (12, 10)), rows[0].reshape(12, 10))


def test_what_is_released_replays_the_directions() -> None:
    adapter, random = seeds().adapter, np.random.default_rng(5)
    scalars, start = random.normal(size=64).astype(np.float32), random.normal(size=(12, 10)).astype(np.float32)
    found = replayed(adapter, {SEEDS_KEY: scalars, DENSE: start, HEAD: np.zeros((3, 6), dtype=np.float32)}, {})
    assert found.keys() == {DENSE, HEAD}
    expected = sum(scalars[number] * direction(adapter, number, DENSE, (12, 10)) for number in range(64))
    assert np.allclose(found[DENSE] - start, expected, atol=1e-5)
    assert not moved_by(adapter, np.zeros(64, dtype=np.float32), DENSE, (12, 10)).any()


# --- what a recipe must say ---

TAKEN = {name: methods.get(name).takes for name in ("droppeft", "lora-a2", "random-mask", "slora", "fedask")}


@pytest.mark.parametrize("name", TAKEN)
def test_a_method_without_a_size_that_it_needs_is_refused(name: str) -> None:
    whole = Sizes(mask=0.5, sketch=4, opening_rounds=1)
    needed = replace(NO_SIZE, **{size: getattr(whole, size) for size in TAKEN[name]})
    for missing in TAKEN[name]:
        with pytest.raises(LocalError, match=rf"training\.{missing}: .* needs it") as info:
            methods.get(name).upload_of((), replace(needed, **{missing: None}))
        assert info.value.code == "E-CONFIG-INVALID"


NO_SIZE = Sizes()


def test_a_personal_part_has_no_place_in_a_plan_of_another_method() -> None:
    document: Any = plan_document()["recipe"]
    options = {
        "method": "fedit",
        "options": LORA,
        "tensors": [{"key": HOME_A, "shape": [2, 8], "stream": "personal", "part": "adapter"}],
    }
    adapter = Adapter.model_validate_json(canonical.encode(document["adapter"] | options))
    with pytest.raises(LocalError, match=r"FedIT has no tensor like .*lora_A\.home"):
        methods.get("fedit").stream_of(HOME_A, adapter)
