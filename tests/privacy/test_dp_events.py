"""Events have one form, unknown ones are refused, and a plan's round has exactly one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import canonical
from privacy.dp.events import (
    Composed,
    Event,
    Gaussian,
    PoissonSampled,
    format_epsilon_up,
    from_json,
    round_event,
    steps,
    to_json,
)
from tests.worlds.plans import make_plan

MULTIPLIERS = st.floats(1e-6, 1e9)
GAUSSIANS = st.builds(Gaussian, MULTIPLIERS)
SAMPLED = st.builds(PoissonSampled, st.floats(1e-9, 1, exclude_min=True), GAUSSIANS)
EVENTS: st.SearchStrategy[Event] = st.recursive(
    GAUSSIANS | SAMPLED, lambda inner: st.builds(Composed, inner, st.integers(1, 10**6)), max_leaves=3
)


@given(EVENTS)
def test_an_event_reads_back_from_its_canonical_form(event: Event) -> None:
    data = canonical.encode(to_json(event))
    assert from_json(canonical.decode(data)) == event
    assert canonical.encode(to_json(from_json(canonical.decode(data)))) == data


GAUSSIAN = {"kind": "gaussian", "noise_multiplier": "1.5"}
REFUSED = {
    "an unknown kind": {"kind": "laplace", "noise_multiplier": "1"},
    "no kind": {"noise_multiplier": "1"},
    "an unknown field": {**GAUSSIAN, "note": "x"},
    "a missing field": {"kind": "gaussian"},
    "a number that is no string": {"kind": "gaussian", "noise_multiplier": 1},
    "another form of a number": {"kind": "gaussian", "noise_multiplier": "1.50"},
    "an exponent": {"kind": "gaussian", "noise_multiplier": "1e0"},
    "not a number": {"kind": "gaussian", "noise_multiplier": "nan"},
    "infinite noise": {"kind": "gaussian", "noise_multiplier": "inf"},
    "no noise": {"kind": "gaussian", "noise_multiplier": "0"},
    "negative noise": {"kind": "gaussian", "noise_multiplier": "-1"},
    "a rate above one": {"kind": "poisson-sampled", "sampling_rate": "1.1", "event": GAUSSIAN},
    "a rate of zero": {"kind": "poisson-sampled", "sampling_rate": "0", "event": GAUSSIAN},
    "sampling of a composition": {
        "kind": "poisson-sampled",
        "sampling_rate": "0.1",
        "event": {"kind": "composed", "event": GAUSSIAN, "count": 2},
    },
    "composed no times": {"kind": "composed", "event": GAUSSIAN, "count": 0},
    "a text": "gaussian",
    "nothing": None,
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_an_event_is_refused_that_has(value: canonical.Json) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_json(value)


def test_equal_steps_of_different_events_add_up() -> None:
    step = PoissonSampled(0.1, Gaussian(1.0))
    counted = steps([step, Composed(Composed(step, 3), 2), Gaussian(2.0)])
    assert counted == {(0.1, 1.0): 7, (1.0, 2.0): 1}


def test_a_distributed_round_is_one_sampled_step_with_the_noise_that_is_relied_on() -> None:
    plan, _ = make_plan(mode="distributed")
    event = round_event(plan)
    assert isinstance(event, PoissonSampled)
    assert event.sampling_rate == 0.5
    privacy = plan.privacy
    exact = math.sqrt(privacy.honest_noise * 2**privacy.variance_exponent - 9) / privacy.sensitivity
    assert exact - 2e-12 <= event.event.noise_multiplier <= exact


def test_a_local_round_is_its_steps_with_ones_own_noise_alone() -> None:
    plan, _ = make_plan(mode="local")
    event = round_event(plan)
    assert isinstance(event, Composed)
    assert event.count == plan.privacy.local_steps == 2
    assert isinstance(event.event, PoissonSampled)
    assert round_event(plan, honest_noise=5) == event


def test_a_round_per_participant_is_not_amplified_by_sampling() -> None:
    plan, _ = make_plan(mode="distributed-participant")
    assert isinstance(round_event(plan), Gaussian)


def test_mode_none_has_no_event() -> None:
    assert round_event(make_plan(mode="none")[0]) is None


def test_more_noise_relied_on_is_a_larger_multiplier() -> None:
    plan, _ = make_plan(mode="distributed", n=10, f=3)
    found = [round_event(plan, honest_noise=h) for h in (1, 2, 4, 10)]
    multipliers = [one.event.noise_multiplier for one in found if isinstance(one, PoissonSampled)]
    assert len(multipliers) == 4
    assert multipliers == sorted(multipliers)


@pytest.mark.parametrize(
    ("epsilon", "decimals", "shown"),
    [(7.981, 2, "7.99"), (7.98, 2, "7.98"), (0.0001, 2, "0.01"), (0.0, 2, "0.00"), (1.2301, 3, "1.231"),
     (99.999, 2, "100.00"), (1234.1, 2, "1,235"), (math.inf, 2, "infinite")],
)  # fmt: skip
def test_an_epsilon_for_reading_is_never_below_the_epsilon(epsilon: float, decimals: int, shown: str) -> None:
    assert format_epsilon_up(epsilon, decimals) == shown
