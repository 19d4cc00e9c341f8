"""The rule that fills in a recipe: what it chooses from public sizes, which way it bends, and that it keeps bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authoring.defaults import (
    BESIDE_WITHOUT_NOISE,
    FARTHEST,
    FARTHEST_WITHOUT_NOISE,
    MOMENT,
    Choice,
    Setting,
    Strength,
    choose,
    delta_for,
    distance,
    expected_multiplier,
    gaussian_mu,
    plain,
    sampling_rate,
    strength,
    surplus,
)
from privacy.dp.calibration import needed_multiplier
from privacy.draft import PrivacyTarget
from privacy.errors import LocalError

MODES = ("distributed", "local", "distributed-participant", "none")
SETTING = Setting(mode="distributed", epsilon=8, delta=1e-5, participants=8, units=10_000, entries=30_000, labels=77)


def setting(mode: Any, **changes: Any) -> Setting:
    off = {"epsilon": 0.0, "delta": 0.0} if mode == "none" else {}
    return replace(SETTING, mode=mode, **{**off, **changes})


def values(chosen: tuple[Choice, ...]) -> dict[str, Any]:
    return {choice.key: choice.value for choice in chosen}


def of_run(one: Setting) -> float:
    return strength(one, rounds=100, local_steps=1, rate=sampling_rate(one, 100)).of_run


# --- the mechanism in closed form ---


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_mu_gives_back_its_delta(mu: float, epsilon: float) -> None:
    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    delta = normal(-epsilon / mu + mu / 2) - math.exp(epsilon) * normal(-epsilon / mu - mu / 2)
    if delta > 1e-12:  # below, doubles cancel
        assert gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-4)


@pytest.mark.parametrize(("epsilon", "most"), [(1, 0.1), (8, 0.08)])
def test_the_expected_noise_is_near_what_the_accountant_asks_for(epsilon: int, most: float) -> None:
    one = replace(SETTING, epsilon=float(epsilon))
    rate = plain(sampling_rate(one, 100))
    target = PrivacyTarget(
        mode="distributed", unit="example", epsilon=str(epsilon), delta="0.00001", sampling_rate=rate, local_steps=1,
        clip_norm="1", update_bound="8",
    )  # fmt: skip
    assert expected_multiplier(one, 100, float(rate)) == pytest.approx(needed_multiplier(target, rounds=100), rel=most)


def test_at_the_chosen_sampling_rate_small_batches_cost_a_twenty_fifth() -> None:
    """Against whole batches of the same number of steps, whatever the target."""
    for epsilon in (0.5, 1.0, 3.0, 8.0):
        one = replace(SETTING, epsilon=epsilon, units=10**6)
        rate = sampling_rate(one, 100)
        whole = expected_multiplier(one, 100, 1.0)
        assert expected_multiplier(one, 100, rate) / rate / whole == pytest.approx(1.04, abs=0.01)


# --- which way it bends ---


def test_more_data_gives_a_stronger_signal_and_longer_steps_up_to_a_bound() -> None:
    sizes = [replace(SETTING, units=units) for units in (500, 1000, 10_000, 10**6)]
    strengths = [of_run(one) for one in sizes]
    assert strengths == sorted(strengths)
    rates = [float(values(choose(one, {}))["optimizer.head_learning_rate"]) for one in sizes]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]
    assert distance(sizes[-1], strengths[-1]) == math.sqrt(77) * FARTHEST


def test_without_noise_a_head_beside_an_adapter_goes_a_shorter_way_than_alone() -> None:
    beside, alone, adapter = (
        distance(setting("none", **kind), math.inf) for kind in ({}, {"alone": True}, {"head": False, "labels": 1})
    )
    assert beside == math.sqrt(77) * BESIDE_WITHOUT_NOISE
    assert alone == math.sqrt(77) * FARTHEST_WITHOUT_NOISE
    assert adapter == FARTHEST_WITHOUT_NOISE
    assert distance(SETTING, math.inf) == distance(replace(SETTING, alone=True), math.inf)


def test_a_smaller_epsilon_weakens_the_signal_and_shortens_steps() -> None:
    targets = [replace(SETTING, epsilon=epsilon) for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0)]
    strengths = [of_run(one) for one in targets]
    assert strengths == sorted(strengths)
    rates = [float(values(choose(one, {}))["optimizer.head_learning_rate"]) for one in targets]
    assert rates == sorted(rates)


def test_more_entries_weaken_the_signal() -> None:
    few, many = (of_run(replace(SETTING, entries=entries)) for entries in (1_000, 100_000))
    assert few / many == pytest.approx(10)


def test_noise_that_is_shared_leaves_more_signal_than_noise_of_each() -> None:
    """By the root of how many members' noise a claim relies on: 5 of 8."""
    assert surplus(setting("local")) == pytest.approx(math.sqrt(8))
    assert surplus(SETTING) == pytest.approx(math.sqrt(8 / 5))


def test_more_rounds_gain_nothing_once_sampling_follows_them() -> None:
    runs = [
        strength(SETTING, rounds=steps, local_steps=1, rate=sampling_rate(SETTING, steps)).of_run
        for steps in (50, 100, 400)
    ]
    assert max(runs) / min(runs) == pytest.approx(1, abs=1e-6)
    assert sampling_rate(SETTING, 400) < sampling_rate(SETTING, 100)


def test_how_a_run_is_cut_into_rounds_changes_neither_rates_nor_signal() -> None:
    local = setting("local")
    whole, cut = (
        values(choose(local, {"rounds": rounds, "privacy.local_steps": steps})) for rounds, steps in ((100, 1), (20, 5))
    )
    assert whole == cut


# --- what is chosen ---


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(MODES),
    epsilon=st.floats(0.05, 50),
    participants=st.integers(3, 4000),
    units=st.integers(3, 10**8),
    entries=st.integers(1, 10**8),
    labels=st.integers(1, 5000),
    head=st.booleans(),
)
def test_whatever_the_sizes_are_a_recipe_is_completed_within_the_bounds_of_plans(
    mode: Any, epsilon: float, participants: int, units: int, entries: int, labels: int, head: bool
) -> None:
    one = setting(
        mode, participants=participants, units=units, entries=entries, labels=labels, head=head,
        **({} if mode == "none" else {"epsilon": epsilon}),
    )  # fmt: skip
    found = values(choose(one, {}))
    assert 1e-6 <= float(found["privacy.sampling_rate"]) <= 1
    assert found["privacy.local_steps"] == (1 if mode == "distributed" else 5)
    assert ("training.head_learning_rate" in found or "optimizer.head_learning_rate" in found) == head
    for key in ("training.learning_rate", "optimizer.learning_rate"):
        if key in found:
            assert 1e-9 <= float(found[key]) <= 10_000
    assert found["optimizer.average"] == "0.9"


def test_banking_s_size_gets_the_values_that_the_page_of_utility_reports() -> None:
    """A change of the rule is seen here first."""
    assert values(choose(replace(SETTING, entries=32_717, units=10_003), {})) == {
        "privacy.local_steps": 1, "rounds": 100, "privacy.clip_norm": "1", "privacy.sampling_rate": "0.42",
        "training.learning_rate": "1", "optimizer.name": "sgd", "optimizer.learning_rate": "0.25",
        "optimizer.head_learning_rate": "2.5", "optimizer.momentum": "0.9", "optimizer.average": "0.9",
    }  # fmt: skip


def test_what_a_recipe_says_is_not_chosen_again() -> None:
    said: dict[str, str | int] = {
        "rounds": 7, "privacy.sampling_rate": "0.5", "privacy.local_steps": 1, "privacy.clip_norm": "3",
        "training.learning_rate": "0.1",
    }  # fmt: skip
    assert choose(SETTING, said) == ()


def test_a_larger_clip_norm_shortens_the_rate() -> None:
    """So that the distance stays."""
    small, large = (values(choose(SETTING, {"privacy.clip_norm": clip})) for clip in ("1", "4"))
    ratio = float(small["optimizer.head_learning_rate"]) / float(large["optimizer.head_learning_rate"])
    assert ratio == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_few_rounds_has_no_longer_steps_than_a_whole_one(mode: str) -> None:
    few, whole = (values(choose(setting(mode), said)) for said in ({"rounds": 2, "privacy.local_steps": 1}, {}))
    section = "training" if mode in ("local", "none") else "optimizer"
    for key in ("learning_rate", "head_learning_rate"):
        assert float(few[f"{section}.{key}"]) <= 1.15 * float(whole[f"{section}.{key}"])  # whole batches lose nothing


def test_beside_an_optimizer_of_its_own_a_recipe_needs_a_rate_where_there_are_steps() -> None:
    own: dict[str, str | int] = {"optimizer.learning_rate": "0.5"}
    (rate,) = (choice for choice in choose(SETTING, own) if choice.key.startswith("training"))
    assert (rate.value, "no effect" in rate.reason) == ("1", True)
    with pytest.raises(LocalError, match=r"training\.learning_rate") as info:
        choose(setting("local"), own)
    assert info.value.code == "E-CONFIG-INVALID"


def test_noise_that_is_larger_than_the_signal_of_a_round_is_said_with_what_helps() -> None:
    assert Strength(1.0, 10.0).warning() is None
    warning = Strength(0.25, 2.5).warning()
    assert warning is not None
    assert "noise is 4.0 times" in warning
    assert "more data" in warning
    weak = replace(SETTING, units=500, epsilon=1.0)
    assert strength(weak, rounds=1000, local_steps=1, rate=0.01).of_round < 1


def test_delta_is_a_tenth_of_one_unit_s_share_and_at_most_1e_5() -> None:
    assert [delta_for(units) for units in (10, 10_000, 20_000, 10**6)] == [
        "0.00001", "0.00001", "0.000001", "0.0000001",
    ]  # fmt: skip


def test_numbers_are_written_out_as_plans_have_them() -> None:
    assert [plain(number) for number in (0.2567, 12.34, 1234.0, 0.000012, 1.0)] == [
        "0.26", "12", "1200", "0.000012", "1.0",
    ]  # fmt: skip
    assert MOMENT == 0.4
