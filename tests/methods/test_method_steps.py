"""What methods do beside summing: public masks, factors that alternate, and the coordinator's own mathematics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import methods
from methods import ranks
from methods.adalora import budget, pulled
from methods.coin import gathered
from methods.fedsvd import singular_factors, turned
from methods.layout import Sizes
from methods.lora_fair import correction
from methods.optimizer import OptimizerState
from methods.products import best_factors, differences
from methods.vectors import joined, places, split
from privacy import canonical
from privacy.adapter_parts import Differences, Gather, Role, StateStream
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.plan_parts import Member, MemberOptions
from tests.worlds.recipes import FACTOR_A as A
from tests.worlds.recipes import FACTOR_B as B
from tests.worlds.recipes import HEAD, recipe_of

# --- a common mask ---


def test_the_coin_chooses_as_many_entries_as_the_plan_says_others_each_round_and_the_whole_head() -> None:
    recipe = recipe_of("random-mask", mask=0.5)
    methods.require_sound(recipe, "local")
    assert recipe.turns[0].entries == 14 + 18
    rounds = [gathered(recipe, number) for number in range(1, 6)]
    for chosen in rounds:
        assert chosen.size == len(set(chosen)) == recipe.turns[0].entries
        assert (np.diff(chosen) > 0).all()
        assert set(range(28, 46)) <= set(chosen)
    assert len({chosen.tobytes() for chosen in rounds}) == len(rounds)
    assert np.array_equal(gathered(recipe, 3), rounds[2]), "whoever computes it finds the same"


def test_every_entry_is_chosen_about_as_often_as_any_other() -> None:
    recipe = recipe_of("random-mask", mask=0.25)
    counts = np.zeros(28)
    for number in range(1, 401):
        counts[gathered(recipe, number)[:7]] += 1
    assert np.abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_another_plan_has_another_mask() -> None:
    recipe = recipe_of("random-mask", mask=0.5)
    assert not np.array_equal(gathered(recipe, 1), gathered(recipe.model_copy(update={"title": "Other"}), 1))


def test_without_a_mask_all_that_trains_goes_up() -> None:
    recipe = recipe_of("fedit")
    assert np.array_equal(gathered(recipe, 1), np.arange(46))
    odd, even = (gathered(recipe_of("rolora"), number) for number in (1, 2))
    assert (odd.size, even.size) == (12 + 18, 16 + 18)


def test_a_step_moves_what_the_coin_chose_and_nothing_else() -> None:
    recipe = recipe_of("random-mask", mask=0.5)
    start = OptimizerState.start(np.zeros(46, dtype=np.float32))
    after = methods.advance(recipe, start, np.ones(recipe.turns[0].entries))
    moved = places(recipe, recipe.turns[0])[gathered(recipe, 1)]
    assert np.array_equal(np.flatnonzero(after.iterate), moved)


MASKS: dict[str, tuple[str, float | None]] = {
    "a mask for a method without one": ("fedit", 0.5),
    "no mask for a method that needs one": ("random-mask", None),
    "a mask of everything": ("random-mask", 1.0),
    "a mask of nothing": ("random-mask", 0.0),
}


@pytest.mark.parametrize("sentence", MASKS)
def test_a_recipe_is_refused_for(sentence: str) -> None:
    name, mask = MASKS[sentence]
    state = (StateStream(name="adapter", length=28),)
    with pytest.raises(LocalError, match=r"training\.mask") as info:
        methods.get(name).upload_of(state, Sizes(mask=mask))
    assert info.value.code == "E-CONFIG-INVALID"
    assert methods.get("random-mask").upload_of(state, Sizes(mask=0.5)) == Gather(entries=14)
    assert methods.get("fedit").upload_of(state) == Differences()


def test_a_plan_whose_turns_do_not_fit_its_mask_is_refused() -> None:
    recipe = recipe_of("random-mask", mask=0.5)
    for upload in (Gather(entries=13), Differences()):
        with pytest.raises(LocalError) as info:
            methods.require_sound(recipe.model_copy(update={"upload": upload}), "none")
        assert info.value.code == "E-PLAN-STREAM"


# --- factors that take turns within a round ---


def test_la_lora_trains_one_factor_in_each_local_step_and_the_head_in_all() -> None:
    recipe, method = recipe_of("la-lora"), methods.get("la-lora")
    spans = dict(zip((tensor.key for tensor in recipe.adapter.tensors), ((0, 16), (16, 28), (28, 46)), strict=True))
    for step, factor in enumerate((B, A, B)):
        chosen = method.in_step(recipe, recipe.turns[0], step)
        expected = [*range(*spans[factor]), *range(28, 46)]
        assert chosen is not None
        assert chosen.tolist() == sorted(expected)
    assert methods.get("fedit").in_step(recipe, recipe.turns[0], 0) is None


# --- FedSVD ---


def random_state(recipe: Recipe) -> OptimizerState:
    random = np.random.default_rng(3)
    vector, momentum = (random.normal(size=recipe.state_entries).astype(np.float32) for _ in range(2))
    return replace(OptimizerState.start(vector), momentum=momentum, round=1)


def test_fedsvd_keeps_the_product_and_makes_the_rows_of_a_orthonormal() -> None:
    recipe = recipe_of("fedsvd")
    methods.require_sound(recipe, "distributed")
    assert [(stream.name, stream.role) for stream in recipe.state] == [
        ("a", Role.DERIVED),
        ("b", Role.SHARED),
        ("head", Role.SHARED),
    ]
    assert recipe.turns[0].entries == 12 + 18, "A does not go up"
    before = random_state(recipe)
    after = turned(recipe, before)
    old, new = split(recipe, before.iterate), split(recipe, after.iterate)
    assert np.allclose(new[B] @ new[A], old[B] @ old[A], atol=1e-5)
    assert np.allclose(new[A] @ new[A].T, np.eye(2), atol=1e-6)
    assert np.array_equal(new[HEAD], old[HEAD])
    assert np.array_equal(after.iterate, after.average)


def test_fedsvd_turns_the_momentum_with_the_factor() -> None:
    recipe = recipe_of("fedsvd")
    before = random_state(recipe)
    tensors = split(recipe, before.iterate)
    before = replace(before, momentum=joined(recipe, {**tensors, B: tensors[B], A: 0 * tensors[A]}))
    after = turned(recipe, before)
    momentum, factor = split(recipe, after.momentum)[B], split(recipe, after.iterate)[B]
    assert np.allclose(momentum, factor, atol=1e-5), "a momentum that is B itself is B itself afterwards"


FACTORS = {
    "wide": (2, 8, 6),
    "a product of zero": (2, 8, 6),
    "a rank above the inputs": (4, 3, 6),
    "rank one": (1, 5, 4),
}


@pytest.mark.parametrize("sentence", FACTORS)
def test_singular_factors_have_the_product_and_the_shapes_of_what_they_came_from(sentence: str) -> None:
    rank, inputs, outputs = FACTORS[sentence]
    random = np.random.default_rng(1)
    reads, writes = random.normal(size=(rank, inputs)), random.normal(size=(outputs, rank))
    writes = 0 * writes if "zero" in sentence else writes
    new_reads, new_writes = singular_factors(reads, writes)
    assert (new_reads.shape, new_writes.shape) == (reads.shape, writes.shape)
    assert np.allclose(new_writes @ new_reads, writes @ reads)
    lengths = np.linalg.norm(new_writes, axis=0)
    assert (np.diff(lengths) <= 1e-12).all(), "the largest singular value comes first"


# --- products ---


def test_flexlora_sums_the_products_and_takes_their_exact_mean_apart() -> None:
    recipe = recipe_of("flexlora")
    methods.require_sound(recipe, "local")
    assert recipe.turns[0].entries == 6 * 8 + 18
    random = np.random.default_rng(4)
    start, one, other = (random.normal(size=recipe.state_entries) for _ in range(3))
    start[16:28] = 0  # B, as in round 1
    for end in (one, other):  # of rank one each, so that the plan's rank of two holds their mean
        end[8:16] = 0
    mean = (differences(recipe, start, one) + differences(recipe, start, other)) / 2
    after = methods.advance(recipe, OptimizerState.start(start.astype(np.float32)), mean)
    products = [split(recipe, vector)[B] @ split(recipe, vector)[A] for vector in (one, other)]
    found = split(recipe, after.iterate)
    assert np.allclose(found[B] @ found[A], (products[0] + products[1]) / 2, atol=1e-6)
    assert np.allclose(found[A] @ found[A].T, np.eye(2), atol=1e-6)
    assert np.allclose(after.iterate[28:], (one[28:] + other[28:]) / 2, atol=1e-6)
    assert after.round == 1


def test_factors_of_a_rank_are_the_best_that_the_rank_can_hold() -> None:
    product = np.random.default_rng(5).normal(size=(6, 8))
    values = np.linalg.svd(product, compute_uv=False)
    for rank in (1, 3, 6, 7):
        reads, writes = best_factors(product, rank)
        assert (reads.shape, writes.shape) == ((rank, 8), (6, rank))
        assert np.isclose(np.linalg.norm(product - writes @ reads), np.linalg.norm(values[rank:]))


def test_lora_fair_corrects_the_mean_of_b_towards_the_exact_mean_of_the_products() -> None:
    recipe = recipe_of("lora-fair")
    methods.require_sound(recipe, "local")
    assert recipe.turns[0].entries == 6 * 8 + 28 + 18
    random = np.random.default_rng(8)
    start, one, other = (random.normal(size=recipe.state_entries) for _ in range(3))
    uploads = [differences(recipe, start, end, factors_beside=True) for end in (one, other)]
    after = methods.advance(recipe, OptimizerState.start(start.astype(np.float32)), (uploads[0] + uploads[1]) / 2)
    found, factors = split(recipe, after.iterate), [split(recipe, end) for end in (one, other)]
    exact = (factors[0][B] @ factors[0][A] + factors[1][B] @ factors[1][A]) / 2
    mean_a, mean_b = ((factors[0][key] + factors[1][key]) / 2 for key in (A, B))
    assert np.allclose(found[A], mean_a, atol=1e-6)
    best = exact @ np.linalg.pinv(mean_a)
    assert np.linalg.norm(exact - best @ mean_a) <= np.linalg.norm(exact - found[B] @ found[A])
    assert np.linalg.norm(found[B] - best) < 0.05 * np.linalg.norm(mean_b - best)
    assert np.allclose(found[HEAD], (factors[0][HEAD] + factors[1][HEAD]) / 2, atol=1e-6)


def test_fedex_puts_into_the_base_what_the_mean_of_the_factors_misses() -> None:
    weight = "base_model.model.layer.q_proj.base_layer.weight"
    recipe = recipe_of("fedex-lora", shapes={A: (2, 8), B: (6, 2), weight: (6, 8), HEAD: (3, 6)})
    methods.require_sound(recipe, "local")
    assert [(stream.name, stream.role) for stream in recipe.state] == [
        ("adapter", Role.SHARED),
        ("base", Role.DERIVED),
        ("head", Role.SHARED),
    ]
    assert recipe.turns[0].entries == 6 * 8 + 28 + 18, "the base does not go up"
    random = np.random.default_rng(10)
    start = random.normal(size=recipe.state_entries)
    trained, ends = places(recipe, recipe.turns[0]), [start.copy(), start.copy()]
    for end in ends:
        end[trained] += random.normal(size=trained.size)
    uploads = [differences(recipe, start, end, factors_beside=True) for end in ends]
    mean = (uploads[0] + uploads[1]) / 2
    after = methods.advance(recipe, OptimizerState.start(start.astype(np.float32)), mean)
    found, before, factors = split(recipe, after.iterate), split(recipe, start), [split(recipe, end) for end in ends]
    exact = before[weight] + factors[0][B] @ factors[0][A] + factors[1][B] @ factors[1][A]  # alpha over the rank is 2
    assert np.allclose(found[weight] + 2 * found[B] @ found[A], exact, atol=1e-5)
    assert np.allclose(found[A], (factors[0][A] + factors[1][A]) / 2, atol=1e-6)
    published = methods.get("fedex-lora").export(recipe, after.iterate, {})
    assert published.keys() == {A, B, HEAD}
    assert np.allclose(2 * published[B] @ published[A], exact, atol=1e-5), "what the base moved by, and the factors"
    assert methods.get("fedex-lora").published_options(recipe.adapter) == {"r": 8, "lora_alpha": 16.0}


# --- rotations ---


def test_a_rotation_keeps_the_product_and_undoes_what_only_turned_the_factors() -> None:
    recipe, align = recipe_of("fedrot-lora"), methods.get("fedrot-lora").align
    random = np.random.default_rng(9)
    start, end = (random.normal(size=recipe.state_entries) for _ in range(2))
    turned_factors, product = split(recipe, align(recipe, start, end)), split(recipe, end)[B] @ split(recipe, end)[A]
    assert np.allclose(turned_factors[B] @ turned_factors[A], product)
    before = split(recipe, start)[A]
    assert np.linalg.norm(turned_factors[A] - before) < np.linalg.norm(split(recipe, end)[A] - before)
    rotation = np.array([[0.0, -1.0], [1.0, 0.0]])
    away = start.copy()
    split(recipe, away)[A][:] = rotation @ before
    split(recipe, away)[B][:] = split(recipe, start)[B] @ rotation.T
    assert np.allclose(align(recipe, start, away), start)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", ["fedrot-lora", "flexlora", "lora-fair"])
def test_steps_that_went_astray_are_no_refusal_which_would_tell_of_data(name: str) -> None:
    recipe, method = recipe_of(name), methods.get(name)
    start = np.random.default_rng(11).normal(size=recipe.state_entries)
    end = start.copy()
    end[3], end[20] = np.nan, np.inf
    end = method.align(recipe, start, end)
    if recipe.upload.kind == "products":
        assert differences(recipe, start, end, factors_beside=method.factors_beside).shape == (recipe.entries,)
    assert end.shape == start.shape


def test_no_correction_is_reached_through_rows_of_zeros() -> None:
    assert not correction(np.ones((6, 8)), np.zeros((2, 8))).any()


# --- AdaLoRA ---

P, Q, E = "model.q.lora_A", "model.q.lora_B", "model.q.lora_E"
OTHER = {key.replace("q", "v"): shape for key, shape in {P: (3, 8), Q: (6, 3), E: (3, 1)}.items()}


def adaptive(rounds: int) -> Recipe:
    options = {"peft_type": "ADALORA", "rank": 3, "target_rank": 1, "alpha": "4", "target_modules": ["q", "v"]}
    return recipe_of("adalora", shapes={P: (3, 8), Q: (6, 3), E: (3, 1), **OTHER}, options=options, rounds=rounds)


def test_the_budget_of_adalora_falls_from_the_first_rank_to_the_target_and_stays_there() -> None:
    recipe = adaptive(rounds=10)
    budgets = [budget(recipe, number) for number in range(11)]
    assert (budgets[0], budgets[7], budgets[10]) == (3, 1, 1)
    assert budgets == sorted(budgets, reverse=True)


def test_adalora_keeps_the_largest_diagonal_entries_of_all_layers_together() -> None:
    recipe = adaptive(rounds=1)
    methods.require_sound(recipe, "local")
    values = {E: [[4.0], [-5.0], [1.0]], E.replace("q", "v"): [[2.0], [0.5], [3.0]]}
    random = np.random.default_rng(6)
    tensors = {tensor.key: random.normal(size=tensor.shape) for tensor in recipe.adapter.tensors}
    tensors |= {key: np.array(value) for key, value in values.items()}
    start = OptimizerState.start(joined(recipe, tensors))
    after = methods.advance(recipe, start, np.zeros(recipe.entries))
    found = split(recipe, after.iterate)
    assert found[E].reshape(-1).tolist() == [4.0, -5.0, 0.0]
    assert not found[E.replace("q", "v")].any()
    assert np.array_equal(after.iterate, after.average)


def test_adalora_pulls_factors_towards_orthonormal_rows_however_large_noise_made_them() -> None:
    rows = np.random.default_rng(7).normal(size=(3, 8)) * 100
    for _ in range(300):
        rows = pulled(rows)
    assert np.allclose(rows @ rows.T, np.eye(3), atol=1e-3)


# --- ranks ---


def of_rank(rank: int) -> Member:
    return Member(id="alice", identity_key="ab" * 32, units=5, options=MemberOptions(rank=rank))


def test_a_smaller_rank_trains_the_first_rows_of_a_the_first_columns_of_b_and_the_whole_head() -> None:
    recipe = recipe_of("hetlora")
    methods.require_sound(recipe, "distributed")
    turn = recipe.turns[0]
    mask = ranks.held(recipe, turn, of_rank(1))
    assert mask[:16].reshape(2, 8).tolist() == [[True] * 8, [False] * 8]
    assert mask[16:28].reshape(6, 2).tolist() == [[True, False]] * 6
    assert mask[28:].all()
    assert ranks.held(recipe, turn, of_rank(0)).all(), "0 is the adapter's own rank"
    counts = ranks.counts(recipe, turn, [(of_rank(1), 5), (of_rank(2), 7)])
    assert set(counts[mask]) == {12}
    assert set(counts[~mask]) == {7}


def test_a_plan_that_counts_in_another_way_than_its_method_is_refused() -> None:
    for name, counts in (("hetlora", "all"), ("fedit", "rank")):
        with pytest.raises(LocalError) as info:
            methods.require_sound(recipe_of(name).model_copy(update={"counts": counts}), "none")
        assert info.value.code == "E-PLAN-STREAM"


REFUSED_STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "second moments in a basis that moves": ("fedsvd", {"optimizer": {"name": "adam"}}),
    "an average of iterates in a basis that moves": ("fedsvd", {"optimizer": {"average": "0.5"}}),
    "an optimizer beside a product's exact mean": ("flexlora", {"optimizer": {"name": "sgd"}}),
    "FedProx without its term": ("fedprox", {}),
    "a proximal term beside another method": ("fedit", {"training": {"proximal": "0.1"}}),
}


@pytest.mark.parametrize("sentence", REFUSED_STEPS)
def test_a_plan_is_refused_for(sentence: str) -> None:
    name, changes = REFUSED_STEPS[sentence]
    recipe = recipe_of(name)
    for part, fields in changes.items():
        recipe = recipe.model_copy(update={part: getattr(recipe, part).model_copy(update=fields)})
    with pytest.raises(LocalError) as info:
        methods.require_sound(recipe, "none")
    assert info.value.code == "E-METHOD-REFUSED"


def test_fedprox_with_its_term_is_sound_and_a_plan_without_one_has_no_word_of_it() -> None:
    recipe = recipe_of("fedprox")
    assert b"proximal" not in canonical.encode(recipe.model_dump(mode="json"))
    pulled = recipe.model_copy(update={"training": recipe.training.model_copy(update={"proximal": "0.1"})})
    methods.require_sound(pulled, "local")
    encoded = canonical.encode(pulled.model_dump(mode="json"))
    assert b'"proximal":"0.1"' in encoded
    assert Recipe.model_validate_json(encoded) == pulled


@pytest.mark.parametrize("name", ["fedprox", "la-lora"])
def test_what_one_step_cannot_do_is_refused_in_mode_distributed_and_names_what_can(name: str) -> None:
    with pytest.raises(LocalError, match=r"a round is one step.*method (fedit|rolora)") as info:
        methods.get(name).require_mode("distributed")
    assert info.value.code == "E-METHOD-REFUSED"
