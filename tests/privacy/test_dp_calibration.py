"""Calibrated integers keep the target, the rounding rule and the ring, whatever the federation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.dp.accountants import run_epsilon
from privacy.dp.calibration import MOST_LOST, calibrate, largest_sensitivity, needed_multiplier
from privacy.dp.clipping import clip_radius, integer_clip
from privacy.dp.events import derived_multiplier
from privacy.dp.signal import Setting, least_clamp, noise_of_difference, share_lost
from privacy.draft import PrivacyTarget
from privacy.errors import LocalError, OnlysumError
from privacy.plan import Plan, default_survivors, largest_sum
from privacy.plan_parts import Mode, Privacy
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


def setting_of(*, n: int, f: int, entries: int, rounds: int, survivors: int = 0, **changes: Any) -> Setting:
    values = {"units": 100, "weights": n, "slowest": 0.1, **changes}
    least = survivors or default_survivors(n, f)
    return Setting(rounds=rounds, entries=entries, n=n, f=f, min_survivors=least, **values)


def planned(
    asked: PrivacyTarget, *, n: int, f: int, entries: int, rounds: int, bits: int | None = None
) -> tuple[Plan, Setting]:
    """Return a plan made as the coordinator makes it; the plan's own rules check it once more."""
    setting = setting_of(n=n, f=f, entries=entries, rounds=rounds)
    privacy, encoding = calibrate(asked, setting, entry_bits=bits)
    plan, _ = make_plan(
        n=n,
        f=f,
        mode=asked.mode,
        entries=entries,
        privacy=privacy.model_dump(),
        encoding=encoding.model_dump(),
        recipe={"rounds": rounds},
    )
    return plan, setting


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
    plan, setting = planned(target(mode, **changes), n=n, f=int(share * (n - 2)), entries=entries, rounds=rounds)
    privacy = plan.privacy
    assert largest_sum(plan) < 2 ** (plan.encoding.bits - 1)
    spent = run_epsilon(plan)
    if mode == "none":
        assert spent is None
        return
    assert spent is not None
    assert float(wanted) * 0.98 <= spent <= float(wanted)
    assert privacy.sensitivity**2 > entries / 12 + 4 * privacy.sensitivity
    assert share_lost(privacy, plan.encoding, setting) <= MOST_LOST
    assert entries / (24 * privacy.sensitivity**2) <= MOST_LOST, "what rounding takes of the clip radius is counted"
    if mode.startswith("distributed"):
        assert plan.encoding.clamp >= least_clamp(privacy, setting)


@given(needed=st.floats(0.05, 500), honest=st.integers(1, 4000), exponent=st.integers(6, 50))
def test_the_derived_noise_multiplier_is_never_below_the_needed_one(needed: float, honest: int, exponent: int) -> None:
    sensitivity = largest_sensitivity(needed, honest=honest, exponent=exponent)
    if sensitivity:
        assert derived_multiplier(exponent, sensitivity, honest) >= needed
    assert derived_multiplier(exponent, sensitivity + 1, honest) < needed


@pytest.mark.parametrize(("wanted", "multiplier"), [("8", 0.936), ("2", 2.248), ("1", 3.942)])
def test_the_documented_noise_multipliers_are_found(wanted: str, multiplier: float) -> None:
    assert needed_multiplier(target(epsilon=wanted), rounds=100) == pytest.approx(multiplier, rel=1e-3)


@pytest.mark.parametrize(
    ("n", "entries", "exponent", "sensitivity", "bits"),
    [
        (10, 10**5, 18, 1.4e3, 16),
        (10, 10**6, 23, 8.1e3, 21),
        (10, 10**7, 26, 2.3e4, 21),
        (1000, 10**5, 12, 1.8e3, 21),
        (1000, 10**6, 15, 5.1e3, 21),
        (1000, 10**7, 18, 1.4e4, 21),
    ],
)
def test_the_documented_integers_are_found_when_seven_tenths_of_the_noise_is_honest(
    n: int, entries: int, exponent: int, sensitivity: float, bits: int
) -> None:
    honest = 7 * n // 10
    setting = setting_of(n=n, f=1, entries=entries, rounds=100, survivors=honest + 1, units=1000)
    privacy, encoding = calibrate(target(), setting)
    assert (privacy.honest_noise, privacy.variance_exponent, encoding.bits) == (honest, exponent, bits)
    assert privacy.sensitivity == pytest.approx(sensitivity, rel=0.04)


def integers(asked: PrivacyTarget, **sizes: Any) -> Privacy:
    return calibrate(asked, setting_of(**sizes))[0]


def test_local_relies_on_nobody_and_pays_for_every_step() -> None:
    one = integers(target("local", local_steps=1), rounds=50, entries=1000, n=5, f=1, survivors=4)
    five = integers(target("local", local_steps=5), rounds=10, entries=1000, n=5, f=1, survivors=4)
    assert one.honest_noise == five.honest_noise == 1
    assert one.noise_multiplier == pytest.approx(five.noise_multiplier, rel=1e-3), "on grids of their own"


def test_colluders_and_ones_own_noise_are_not_relied_on() -> None:
    found = {f: integers(target(), rounds=10, entries=100, n=10, f=f, survivors=9) for f in (0, 1, 3)}
    assert {f: privacy.honest_noise for f, privacy in found.items()} == {0: 8, 1: 8, 3: 6}


def test_mode_none_has_no_integers_of_noise() -> None:
    privacy = integers(target("none"), rounds=10, entries=100, n=3, f=0, survivors=3)
    assert (privacy.variance_exponent, privacy.sensitivity, privacy.honest_noise) == (0, 0, 0)


@pytest.mark.parametrize("changes", [{"epsilon": "0"}, {"delta": "0"}, {"delta": "1"}], ids=str)
def test_a_target_that_claims_nothing_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="epsilon, delta and clip_norm must be positive, delta below 1"):
        target(**changes)


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(LocalError) as caught:
        integers(target(epsilon="0.00000000001"), rounds=100, entries=100, n=5, f=1, survivors=4)
    assert caught.value.code == "E-PLAN-NOISE"


def test_survivors_that_leave_no_honest_noise_are_refused() -> None:
    with pytest.raises(OnlysumError) as caught:
        integers(target(), rounds=10, entries=100, n=5, f=3, survivors=3)
    assert caught.value.code == "E-PLAN-NOISE"


@pytest.mark.parametrize(
    ("bound", "n", "weights", "bits", "exponent"),
    [
        ("1", 5, 5, 21, 17),
        ("8", 10, 10, 32, 24),
        ("1", 5, 5 * 267, 32, 20),
        ("1", 1000, 1000, 32, 21),
        ("1", 10, 10 * 100_000, 64, 24),
        ("0.001", 10, 10 * 100_000, 32, 21),
        ("0.001", 5, 5, 16, 22),
    ],
)
def test_differences_without_noise_get_the_narrowest_words_that_round_finely_enough(
    bound: str, n: int, weights: int, bits: int, exponent: int
) -> None:
    setting = setting_of(n=n, f=0, entries=100, rounds=10, weights=weights)
    _, encoding = calibrate(target("none", update_bound=bound), setting)
    assert (encoding.bits, encoding.scale_exponent) == (bits, exponent)
    assert encoding.clamp == math.floor(float(bound) * 2**exponent)
    assert weights * (encoding.clamp + 1) < 2 ** (bits - 1)


@pytest.mark.parametrize("bound", ["0", "0.000000001", "100000000000000000"])
def test_a_bound_that_fits_no_ring_is_refused(bound: str) -> None:
    with pytest.raises(LocalError) as caught:
        calibrate(target("none", update_bound=bound), setting_of(n=5, f=0, entries=100, rounds=10))
    assert caught.value.code == "E-PLAN-RING"


def test_differences_with_noise_are_rounded_as_coarsely_as_a_hundredth_of_the_signal_allows() -> None:
    """What rounding adds is compared with the noise that a participant's own steps leave in an entry."""
    setting = setting_of(n=10, f=1, entries=10_000, rounds=10)
    privacy, encoding = calibrate(target("local", update_bound="1"), setting)
    unit = 1 / clip_radius(privacy.sensitivity, 10_000)
    noise = 0.1 * unit * privacy.sigma / (0.1 * 100) * math.sqrt(2)
    assert noise_of_difference(privacy, setting) == pytest.approx(noise)
    lost = share_lost(privacy, encoding, setting)
    assert lost <= MOST_LOST
    assert encoding.bits == 16
    rounded = 1 - 1 / math.sqrt(1 + 4.0**-encoding.scale_exponent / 12 / noise**2)
    assert rounded < lost < rounded + 2e-3
    slow = setting_of(n=10, f=1, entries=10_000, rounds=10, slowest=0.0001)
    assert calibrate(target("local", update_bound="1"), slow)[1].bits > 16, "less noise, finer steps"
    unknown = setting_of(n=10, f=1, entries=10_000, rounds=10, slowest=0.0)
    assert calibrate(target("local", update_bound="1"), unknown)[1].scale_exponent >= 16
    with pytest.raises(LocalError):
        calibrate(target("local", update_bound="1"), unknown, entry_bits=16)


@pytest.mark.parametrize("bits", [16, 21, 32, 64])
def test_the_operator_may_ask_for_other_words_whatever_they_cost(bits: int) -> None:
    plan, setting = planned(target(), n=10, f=3, entries=10**6, rounds=100, bits=bits)
    assert plan.encoding.bits == bits
    assert largest_sum(plan) < 2 ** (bits - 1)
    assert (share_lost(plan.privacy, plan.encoding, setting) > MOST_LOST) == (bits == 16)
    spent = run_epsilon(plan)
    assert spent is not None
    assert spent <= 8


@pytest.mark.parametrize(("bits", "code"), [(8, "E-PLAN-RING"), (17, "E-USAGE"), (0, "E-USAGE"), (128, "E-USAGE")])
def test_words_that_do_not_hold_the_sum_or_that_there_are_not_are_refused(bits: int, code: str) -> None:
    with pytest.raises(LocalError) as caught:
        calibrate(target(), setting_of(n=10, f=3, entries=10**6, rounds=100), entry_bits=bits)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("units", "entries", "times"), [(1, 10**6, 0.016), (1, 100, 1), (670, 1674, 3.2), (10**6, 1, 1.6 * 10**1 * 316)]
)
def test_the_clamp_leaves_room_for_a_batch_and_never_more_than_all_of_it(
    units: int, entries: int, times: float
) -> None:
    """A tenth is sampled: what 67 records of the demo's digits brought to one entry was 3.0 D at most."""
    setting = setting_of(n=10, f=1, entries=entries, rounds=1, units=units)
    privacy, _ = calibrate(target(), setting_of(n=10, f=1, entries=100, rounds=1))
    assert least_clamp(privacy, setting) == pytest.approx(times * privacy.sensitivity, rel=0.01)


def test_what_is_lost_agrees_with_rounded_rows() -> None:
    """How far clipped and rounded rows lead in their own direction, as a share of D, against the formula."""
    entries, setting = 4000, setting_of(n=10, f=3, entries=4000, rounds=100, units=10)
    privacy, encoding = calibrate(target(), setting, entry_bits=12)
    rows = np.random.default_rng(1).normal(size=(50, entries))
    whole = integer_clip(rows, sensitivity=privacy.sensitivity, clip_norm=1.0)
    kept = (whole * rows).sum(1) / np.linalg.norm(rows, axis=1) / privacy.sensitivity
    lost = share_lost(privacy, encoding, setting)
    assert lost > 0.01
    assert 1 - kept.mean() == pytest.approx(lost, rel=0.1)
