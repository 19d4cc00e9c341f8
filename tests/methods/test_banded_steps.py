"""Sums with earlier rounds in them are decoded before the step: C^-1 round by round, the same to the bit everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import methods
from methods.global_adapter import Blocks, next_state, state_from_bytes, state_to_bytes, without_sum
from methods.optimizer import OptimizerState
from privacy.dp.bands import banded
from privacy.draft import require_bandable
from privacy.errors import LocalError
from privacy.plan import Plan
from tests.worlds.plans import make_plan
from tests.worlds.recipes import recipe_of

Integers = NDArray[np.int64]

BANDS = (5, 3, 2)
ENTRIES, ROUNDS = 12, 6
SGD = {"name": "sgd", "learning_rate": "0.5", "momentum": "0.9"}


def plan_with(bands: tuple[int, ...]) -> Plan:
    """Return a plan of six rounds in mode distributed."""
    return make_plan(
        mode="distributed",
        entries=ENTRIES,
        recipe={"rounds": ROUNDS, "optimizer": SGD},
        privacy={"bands": [*bands], "sampling_rate": "0.25"},
        encoding={"clamp": 2**20},
    )[0]


BANDED, SINGLE = plan_with(BANDS), plan_with((1,))
EVERYBODY = [member.id for member in BANDED.roster]


def blocks(total: Integers, ends: Sequence[int] = (ENTRIES,)) -> Blocks:
    """Yield a sum, the two streams apart."""
    starts = sorted({0, 9, *ends} - {ENTRIES})
    return ((start, total[start:end]) for start, end in zip(starts, (*starts[1:], ENTRIES), strict=True))


def start() -> OptimizerState:
    return OptimizerState.start(np.zeros(ENTRIES, dtype=np.float32))


def own_sums(seed: int = 1) -> list[Integers]:
    return list(np.random.default_rng(seed).integers(-9000, 9000, size=(ROUNDS, ENTRIES)))


def masked(sums: Sequence[Integers | None], number: int) -> Integers:
    """Return what everybody together adds up to in a round from 1: earlier sums too, but not of voided rounds."""
    own = sums[number - 1]
    assert own is not None
    return banded(BANDS, number, own, [(at, one) for at, one in enumerate(sums, 1) if one is not None and at < number])


def test_without_noise_the_steps_are_those_of_the_rounds_own_sums() -> None:
    sums, states = own_sums(), (start(), start())
    for number in range(1, ROUNDS + 1):
        states = (
            next_state(BANDED, states[0], blocks(masked(sums, number)), EVERYBODY),
            next_state(SINGLE, states[1], blocks(sums[number - 1]), EVERYBODY),
        )
        assert np.allclose(states[0].iterate, states[1].iterate, rtol=1e-5, atol=1e-6)
        assert np.allclose(states[0].decoded[0], sums[number - 1], rtol=1e-6)
    assert len(states[0].decoded) == len(BANDS) - 1
    assert states[1].decoded == ()


def test_noise_is_decoded_by_the_inverse_of_the_bands() -> None:
    sums = own_sums()
    state = start()
    for number, noisy in enumerate(sums, 1):
        state = next_state(BANDED, state, blocks(noisy), EVERYBODY)
        matrix = sum(band * np.eye(number, k=-back) for back, band in enumerate(BANDS))
        wanted = np.linalg.solve(matrix, np.array(sums[:number], dtype=np.float64))
        assert np.allclose(state.decoded[0], wanted[-1], rtol=1e-5, atol=1e-3)


def test_a_voided_round_counts_as_zero_where_later_ones_are_decoded() -> None:
    sums: list[Integers | None] = [*own_sums()]
    sums[2] = None
    state = start()
    for number in range(1, ROUNDS + 1):
        if sums[number - 1] is None:
            before = state
            state = without_sum(BANDED, state)
            assert (state.round, len(state.decoded)) == (number, 2)
            assert not state.decoded[0].any()
            assert np.array_equal(state.iterate, before.iterate)
            continue
        state = next_state(BANDED, state, blocks(masked(sums, number)), EVERYBODY)
        assert np.allclose(state.decoded[0], np.asarray(sums[number - 1]), rtol=1e-5, atol=1e-2)
    assert without_sum(SINGLE, start()).decoded == ()


def test_the_state_goes_on_from_disk_to_the_bit_and_in_blocks_of_any_size() -> None:
    sums, whole, parts = own_sums(), start(), start()
    for number in range(1, ROUNDS + 1):
        total = sums[number - 1]
        if number == 3:
            whole, parts = without_sum(BANDED, whole), without_sum(BANDED, parts)
            continue
        whole = next_state(BANDED, whole, blocks(total), EVERYBODY)
        parts = next_state(BANDED, parts, blocks(total, ends=(2, 5, 10)), EVERYBODY)
        parts = state_from_bytes(number, state_to_bytes(parts, with_iterate=True))
        for one, other in ((whole.iterate, parts.iterate), (whole.momentum, parts.momentum)):
            assert one.tobytes() == other.tobytes()
        assert [one.tobytes() for one in whole.decoded] == [one.tobytes() for one in parts.decoded]


def test_a_sum_that_is_too_old_for_a_band_does_not_count_nor_does_one_of_the_same_round() -> None:
    own, old = np.ones(2, dtype=np.int64), np.full(2, 7, dtype=np.int64)
    found = banded(BANDS, 9, own, [(6, old), (7, old), (9, old), (10, old)])
    assert found.tolist() == [5 + 2 * 7] * 2


REFUSED = ["rolora", "random-mask", "count-sketch", "droppeft", "hetlora", "fedsvd"]


@pytest.mark.parametrize("name", REFUSED)
def test_methods_whose_rounds_do_not_sum_the_same_entries_on_the_same_axes_refuse_bands(name: str) -> None:
    with pytest.raises(LocalError, match="would not cancel") as caught:
        methods.get(name).require_one_basis()
    assert caught.value.code == "E-METHOD-REFUSED"


@pytest.mark.parametrize(("name", "mask"), [("rolora", None), ("random-mask", 0.5), ("hetlora", None)])
def test_recipes_whose_rounds_do_not_sum_the_same_entries_of_everybody_refuse_bands(
    name: str, mask: float | None
) -> None:
    recipe = recipe_of(name, mask=mask)
    require_bandable(recipe, SINGLE.privacy)
    with pytest.raises(ValueError, match="sum the same entries"):
        require_bandable(recipe, BANDED.privacy)


def test_a_plans_bands_are_refused_by_method_and_allowed_by_others() -> None:
    recipe = recipe_of("ffa-lora")
    methods.require_sound(recipe, "distributed", BANDS)
    with pytest.raises(LocalError, match="leave bands at 1"):
        methods.require_sound(recipe_of("rolora"), "distributed", BANDS)
