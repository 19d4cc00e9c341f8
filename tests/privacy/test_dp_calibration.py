"""Calibrated integers keep the target, the rounding rule and the ring, whatever the federation."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.dp.accountants import run_epsilon
from privacy.dp.calibration import ROUNDING_LOSS, calibrate, choose_encoding, largest_sensitivity, needed_multiplier
from privacy.dp.events import derived_multiplier
from privacy.draft import PrivacyTarget
from privacy.errors import LocalError, OnlysumError
from privacy.plan import Plan, default_survivors, largest_sum
from privacy.plan_parts import Mode
from tests.worlds.plans import make_plan

MODES: tuple[Mode, ...] = ("distributed", "local", "distributed-participant", "none")


def target(mode: Mode = "distributed", **changes: object) -> PrivacyTarget:
    unit = {"none": "none", "distributed-participant": "participant"}.get(mode, "example")
    fields: dict[str, object] = {
        "mode": mode,
        "unit": unit,
        "epsilon": "0" if mode == "none" else "8",
        "delta": "0" if mode == "none" else "0.00001",
        "sampling_rate": "0.1",
        "local_steps": 1 if mode == "distributed" else 2,
        "clip_norm": "1",
        "update_bound": "1",
    }
    return PrivacyTarget.model_validate({**fields, **changes})


def planned(asked: PrivacyTarget, *, n: int, f: int, entries: int, rounds: int) -> Plan:
    """Return a plan made as the coordinator makes it; the plan's own rules check it once more."""
    survivors = default_survivors(n, f)
    privacy = calibrate(asked, rounds=rounds, entries=entries, n=n, f=f, min_survivors=survivors)
    encoding = choose_encoding(
        privacy, update_bound=asked.update_bound, entries=entries, rounds=rounds, weights=[1] * n
    )
    plan, _ = make_plan(
        n=n,
        f=f,
        mode=asked.mode,
        entries=entries,
        privacy=privacy.model_dump(),
        encoding=encoding.model_dump(),
        recipe={"rounds": rounds},
    )
    return plan


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    mode=st.sampled_from(MODES),
    wanted=st.sampled_from(["0.5", "1", "3.3", "8", "20"]),
    rate=st.sampled_from(["0.01", "0.1", "0.5", "1"]),
    n=st.integers(3, 60),
    share=st.floats(0, 0.45),
    entries=st.integers(4, 2_000_000),
    rounds=st.sampled_from([1, 20, 100]),
)
def test_calibrated_integers_keep_the_target_and_every_rule_of_the_plan(
    mode: Mode, wanted: str, rate: str, n: int, share: float, entries: int, rounds: int
) -> None:
    changes = {} if mode == "none" else {"epsilon": wanted, "sampling_rate": rate}
    plan = planned(target(mode, **changes), n=n, f=int(share * (n - 2)), entries=entries, rounds=rounds)
    privacy = plan.privacy
    assert largest_sum(plan) < 2 ** (plan.encoding.bits - 1)
    spent = run_epsilon(plan)
    if mode == "none":
        assert spent is None
        return
    assert spent is not None
    assert float(wanted) * 0.98 <= spent <= float(wanted)
    assert privacy.sensitivity**2 > entries / 12 + 4 * privacy.sensitivity
    assert entries / (24 * privacy.sensitivity**2) <= ROUNDING_LOSS


@given(needed=st.floats(0.05, 500), honest=st.integers(1, 4000), exponent=st.integers(3, 25))
def test_the_derived_noise_multiplier_is_never_below_the_needed_one(needed: float, honest: int, exponent: int) -> None:
    sensitivity = largest_sensitivity(needed, honest=honest, exponent=exponent)
    if sensitivity:
        assert derived_multiplier(exponent, sensitivity, honest) >= needed
    assert derived_multiplier(exponent, sensitivity + 1, honest) < needed


@pytest.mark.parametrize(("wanted", "multiplier"), [("8", 0.936), ("2", 2.248), ("1", 3.942)])
def test_the_documented_noise_multipliers_are_found(wanted: str, multiplier: float) -> None:
    assert needed_multiplier(target(epsilon=wanted), rounds=100) == pytest.approx(multiplier, rel=1e-3)


@pytest.mark.parametrize(
    ("n", "entries", "exponent", "sensitivity"),
    [
        (10, 10**5, 11, 5.8e3),
        (1000, 10**5, 7, 3.6e3),
        (10, 10**6, 12, 1.2e4),
        (1000, 10**6, 9, 1.4e4),
        (10, 10**7, 14, 4.6e4),
        (1000, 10**7, 11, 5.8e4),
    ],
)
def test_the_documented_integers_are_found_when_seven_tenths_of_the_noise_is_honest(
    n: int, entries: int, exponent: int, sensitivity: float
) -> None:
    honest = 7 * n // 10
    privacy = calibrate(target(), rounds=100, entries=entries, n=n, f=1, min_survivors=honest + 1)
    assert (privacy.honest_noise, privacy.noise_exponent) == (honest, exponent)
    assert privacy.sensitivity == pytest.approx(sensitivity, rel=0.04)
    encoding = choose_encoding(privacy, update_bound="1", entries=entries, rounds=100, weights=[1] * n)
    assert encoding.ring_bits == 32
    assert encoding.clamp > 16 * privacy.sensitivity


def test_local_relies_on_nobody_and_pays_for_every_step() -> None:
    one = calibrate(target("local", local_steps=1), rounds=50, entries=1000, n=5, f=1, min_survivors=4)
    five = calibrate(target("local", local_steps=5), rounds=10, entries=1000, n=5, f=1, min_survivors=4)
    assert one.honest_noise == five.honest_noise == 1
    assert (one.sensitivity, one.noise_exponent) == (five.sensitivity, five.noise_exponent)


def test_colluders_and_ones_own_noise_are_not_relied_on() -> None:
    found = {f: calibrate(target(), rounds=10, entries=100, n=10, f=f, min_survivors=9) for f in (0, 1, 3)}
    assert {f: privacy.honest_noise for f, privacy in found.items()} == {0: 8, 1: 8, 3: 6}


def test_mode_none_has_no_integers_of_noise() -> None:
    privacy = calibrate(target("none"), rounds=10, entries=100, n=3, f=0, min_survivors=3)
    assert (privacy.noise_exponent, privacy.sensitivity, privacy.honest_noise) == (0, 0, 0)


@pytest.mark.parametrize("changes", [{"epsilon": "0"}, {"delta": "0"}, {"delta": "1"}], ids=str)
def test_a_target_that_claims_nothing_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="epsilon, delta and clip_norm must be positive, delta below 1"):
        target(**changes)


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(LocalError) as caught:
        calibrate(target(epsilon="0.00000000001"), rounds=100, entries=100, n=5, f=1, min_survivors=4)
    assert caught.value.code == "E-PLAN-NOISE"


def test_survivors_that_leave_no_honest_noise_are_refused() -> None:
    with pytest.raises(OnlysumError) as caught:
        calibrate(target(), rounds=10, entries=100, n=5, f=3, min_survivors=3)
    assert caught.value.code == "E-PLAN-NOISE"


@pytest.mark.parametrize(
    ("bound", "weights", "bits", "exponent"),
    [
        ("1", [1] * 5, 32, 24),
        ("8", [1] * 10, 32, 24),
        ("1", [267] * 5, 32, 20),
        ("1", [1] * 1000, 32, 21),
        ("1", [100_000] * 10, 64, 24),
        ("0.001", [100_000] * 10, 32, 21),
    ],
)
def test_differences_get_the_finest_scale_that_the_ring_holds(
    bound: str, weights: list[int], bits: int, exponent: int
) -> None:
    privacy = calibrate(target("none"), rounds=10, entries=100, n=5, f=0, min_survivors=4)
    encoding = choose_encoding(privacy, update_bound=bound, entries=100, rounds=10, weights=weights)
    assert (encoding.ring_bits, encoding.scale_exponent) == (bits, exponent)
    assert encoding.clamp == math.floor(float(bound) * 2**exponent)
    assert sum(weights) * (encoding.clamp + 1) < 2 ** (bits - 1)


@pytest.mark.parametrize("bound", ["0", "0.000000001", "100000000000000000"])
def test_a_bound_that_fits_no_ring_is_refused(bound: str) -> None:
    privacy = calibrate(target("none"), rounds=10, entries=100, n=5, f=0, min_survivors=4)
    with pytest.raises(LocalError) as caught:
        choose_encoding(privacy, update_bound=bound, entries=100, rounds=10, weights=[1] * 5)
    assert caught.value.code == "E-PLAN-RING"


def test_a_clamp_that_could_bite_takes_64_bits() -> None:
    privacy = calibrate(target(epsilon="8"), rounds=100, entries=50_000_000, n=4000, f=10, min_survivors=3900)
    encoding = choose_encoding(privacy, update_bound="1", entries=50_000_000, rounds=100, weights=[1] * 4000)
    assert encoding.clamp >= 16 * privacy.sensitivity
    assert 4000 * encoding.clamp < 2 ** (encoding.bits - 1)
