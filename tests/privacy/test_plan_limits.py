"""Limits of plans, from both sides: what is just allowed, and what is just not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from privacy.adapter_options import OPTIONS
from privacy.canonical import Json
from privacy.dp.calibration import assumed
from privacy.draft import PrivacyTarget
from privacy.errors import PlanError
from privacy.plan import wrap_sigmas
from privacy.plan_parts import (
    MAX_VARIANCE_EXPONENT,
    MIN_VARIANCE_EXPONENT,
    MOST_BAND,
    Encoding,
    Graph,
    Mode,
    PlanModel,
    Privacy,
)
from privacy.report import claim
from privacy.report_model import Claim
from tests.worlds.plans import STRONG, make_plan


def code_of(**plan: Any) -> str:
    """Return the code of a plan's refusal, or nothing."""
    try:
        make_plan(**plan)
    except PlanError as refused:
        return refused.code
    return ""


@pytest.mark.parametrize("name", ["", "aaron", "alicf", "bobby", "zoe", "Alice"])
def test_who_is_not_on_the_roster_has_no_place_on_it(name: str) -> None:
    plan, _ = make_plan()
    for ask in (plan.index, plan.member):
        with pytest.raises(KeyError):
            ask(name)


@pytest.mark.parametrize(("shares", "quorum"), [(3, 3), (5, 5), (4, 3), (3, 4), (5, 4), (4, 5)])
def test_neither_threshold_nor_quorum_is_another_than_the_protocols(shares: int, quorum: int) -> None:
    """Of five with one colluder it is four."""
    assert code_of(shamir_threshold=4, quorum=4) == ""
    assert code_of(shamir_threshold=shares, quorum=quorum) == "E-PLAN-RULE"


@pytest.mark.parametrize(("clamp", "code"), [(2**29 - 1, "E-PLAN-RING"), (2**29 - 2, "")])
def test_a_sum_that_may_reach_half_of_the_ring_is_refused(clamp: int, code: str) -> None:
    """Four weights of 1 times clamp + 1 are exactly 2^31, and just below."""
    assert code_of(n=4, mode="none", encoding={"clamp": clamp}) == code


@pytest.mark.parametrize(("delta", "code"), [("0.000000001", ""), ("0.0000000009", "E-PLAN-RULE")])
def test_on_a_k_regular_graph_delta_is_not_below_what_its_masks_may_fail_with(delta: str, code: str) -> None:
    assert code_of(**STRONG, mode="distributed", privacy={"delta": delta, "honest_noise": 57}) == code
    assert code_of(n=5, mode="distributed", privacy={"delta": delta}) == "", "on the complete graph nothing fails"
    assert code_of(**STRONG, mode="none") == "", "without noise there is no delta"


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        ({"recipe": {"rounds": 1_000_000}}, ""),
        ({"recipe": {"rounds": 1_000_001}}, "E-PLAN-RULE"),
        ({"privacy": {"variance_exponent": 40, "sensitivity": 182}, "encoding": {"ring_bits": 64}}, ""),
        ({"privacy": {"variance_exponent": 40, "sensitivity": 181}, "encoding": {"ring_bits": 64}}, "E-PLAN-NOISE"),
        ({"privacy": {"variance_exponent": 6, "sensitivity": 1386}}, "E-PLAN-NOISE"),
    ],
)
def test_a_noised_plan_is_one_that_accountants_can_count(plan: dict[str, Any], code: str) -> None:
    """With three honest noises z' = sqrt(3 * 4^20 - 9)/D is just below 10 000 at D = 182, and 1/100 at D = 1386."""
    assert code_of(mode="distributed", **plan) == code


@pytest.mark.parametrize("rate", ["0.000001", "1"])
@pytest.mark.parametrize("delta", ["0.000000000000001", "0.1"])
@pytest.mark.parametrize("mechanism", [(40, 182), (6, 1300)])
def test_a_report_can_be_made_of_the_oddest_plan_that_is_allowed(
    rate: str, delta: str, mechanism: tuple[int, int]
) -> None:
    odd: Json = {"sampling_rate": rate, "delta": delta, "variance_exponent": mechanism[0], "sensitivity": mechanism[1]}
    plan, _ = make_plan(mode="distributed", privacy=odd, recipe={"rounds": 1_000_000}, encoding={"ring_bits": 64})
    for charged in (0, 1, plan.recipe.rounds):
        figures = claim(plan, charged_rounds=charged)
        assert isinstance(figures, Claim)
        assert float(figures.charged.epsilon) <= float(figures.checks.rdp) + 1e-3


# --- parts of plans by themselves: (fields, words of the refusal; none if it is allowed) ---

EVEN, LANES = "even number of neighbours of at least 2", "packed lanes are 8 to 32 bits wide"
EXPONENT, RATE = (
    f"variance_exponent must be {MIN_VARIANCE_EXPONENT} to {MAX_VARIANCE_EXPONENT}",
    "above 0 and at most 1",
)
AT_LEAST_1, TARGET = "sensitivity and honest noise of at least 1", "epsilon, delta and clip_norm must be positive"
CLIP = "clip_norm must be from 0.000001 to 1,000,000 in a noised mode"

GRAPHS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "k-regular", "neighbours": 2, "share_threshold": 2}, ""),
    ({"kind": "k-regular", "neighbours": 0}, EVEN),
    ({"kind": "k-regular", "neighbours": 1}, EVEN),
    ({"kind": "k-regular", "neighbours": 3}, EVEN),
    ({"kind": "complete"}, ""),
    ({"kind": "complete", "neighbours": 2}, "the complete graph has no neighbours"),
    ({"kind": "complete", "share_threshold": 2}, "the complete graph has no neighbours"),
    ({"kind": "complete", "max_dropouts": 1}, "the complete graph has no neighbours"),
]
ENCODINGS: list[tuple[dict[str, Any], str]] = [
    *(({"ring_bits": 64, "lane_bits": bits}, "") for bits in (0, 8, 21, 32)),
    *(({"ring_bits": 64, "lane_bits": bits}, LANES) for bits in (1, 7, 33)),
    ({"ring_bits": 32, "lane_bits": 16}, LANES),
]
PRIVACY: list[tuple[Mode, dict[str, Any], str]] = [
    ("distributed", {"variance_exponent": MIN_VARIANCE_EXPONENT}, ""),
    ("distributed", {"variance_exponent": MAX_VARIANCE_EXPONENT}, ""),
    ("distributed", {"variance_exponent": MIN_VARIANCE_EXPONENT - 1}, EXPONENT),
    ("distributed", {"variance_exponent": MAX_VARIANCE_EXPONENT + 1}, EXPONENT),
    ("distributed", {"sensitivity": 1, "honest_noise": 1}, ""),
    ("distributed", {"sensitivity": 0}, AT_LEAST_1),
    ("distributed", {"honest_noise": 0}, AT_LEAST_1),
    ("distributed", {"sampling_rate": "1"}, ""),
    ("distributed", {"sampling_rate": "0"}, RATE),
    ("distributed", {"sampling_rate": "1.0001"}, RATE),
    ("distributed", {"sampling_rate": "0.000001"}, ""),
    ("distributed", {"sampling_rate": "0.000000999"}, "sampling_rate must be at least 0.000001"),
    ("none", {"sampling_rate": "0.000000999"}, ""),
    ("distributed", {"delta": "0.1"}, ""),
    ("distributed", {"delta": "0.11"}, "delta must be from 1e-15 to 0.1"),
    ("distributed", {"delta": "0.000000000000001"}, ""),
    ("distributed", {"delta": "0.0000000000000009"}, "delta must be from 1e-15 to 0.1"),
    ("distributed", {"epsilon": "0"}, TARGET),
    ("distributed", {"delta": "0"}, TARGET),
    ("distributed", {"delta": "1"}, TARGET),
    ("distributed", {"clip_norm": "0"}, TARGET),
    ("distributed", {"clip_norm": "0.000001"}, ""),
    ("distributed", {"clip_norm": "0.0000009"}, CLIP),
    ("distributed", {"clip_norm": "1000000"}, ""),
    ("distributed", {"clip_norm": "1000000.1"}, CLIP),
    ("distributed", {"local_steps": 2}, "one step per round"),
    ("distributed", {"bands": (2,)}, "a single band is"),
    ("distributed", {"bands": (MOST_BAND, 1), "sampling_rate": "0.5"}, ""),
    ("distributed", {"bands": (MOST_BAND + 1, 1), "sampling_rate": "0.5"}, f"a band is at most {MOST_BAND}"),
    ("distributed", {"bands": (2, 2), "sampling_rate": "0.5"}, ""),
    ("distributed", {"bands": (2, 1), "sampling_rate": "0.500001"}, "times the number of bands must be at most 1"),
    ("distributed", {"bands": (1, 2), "sampling_rate": "0.5"}, "bands must not rise"),
    ("distributed", {"relation": "none"}, "has the zero-out relation"),
    ("distributed", {"unit": "none"}, "a noised mode has a unit of privacy"),
    ("distributed", {"unit": "participant"}, "the unit is the participant in mode distributed-participant"),
    ("distributed", {"unit": "user"}, "max_rows_per_user belongs to the user unit"),
    ("distributed", {"unit": "user", "max_rows_per_user": 1}, ""),
    ("distributed", {"max_rows_per_user": 1}, "max_rows_per_user belongs to the user unit"),
    ("distributed-participant", {"local_steps": 2}, ""),
    ("distributed-participant", {"unit": "example"}, "the unit is the participant in mode distributed-participant"),
    ("local", {"honest_noise": 2}, "nobody else's noise is relied on"),
    ("local", {"local_steps": 2}, ""),
    ("none", {}, ""),
    ("none", {"variance_exponent": MIN_VARIANCE_EXPONENT}, "mode none has no noise"),
    ("none", {"sensitivity": 1}, "mode none has no noise"),
    ("none", {"honest_noise": 1}, "mode none has no noise"),
    ("none", {"unit": "example"}, "mode none has no noise"),
    ("none", {"relation": "zero-out"}, "mode none has no noise"),
]


def check_part(part: type[PlanModel], fields: dict[str, Any], words: str) -> None:
    if not words:
        assert part.model_validate(fields).model_dump().items() >= fields.items()
        return
    with pytest.raises(ValueError, match=words):
        part.model_validate(fields)


@pytest.mark.parametrize(("fields", "words"), GRAPHS)
def test_a_graph_has_what_its_kind_has(fields: dict[str, Any], words: str) -> None:
    check_part(Graph, fields, words)


@pytest.mark.parametrize(("fields", "words"), ENCODINGS)
def test_lanes_fit_into_words(fields: dict[str, Any], words: str) -> None:
    check_part(Encoding, {"scale_exponent": 0, "clamp": 1, **fields}, words)


@pytest.mark.parametrize(("mode", "fields", "words"), PRIVACY)
def test_a_mechanism_is_what_its_mode_takes(mode: Mode, fields: dict[str, Any], words: str) -> None:
    check_part(Privacy, {**make_plan(mode=mode)[0].privacy.model_dump(), **fields}, words)


def test_without_noise_a_plan_has_no_standard_deviation_and_with_it_that_of_its_exponent() -> None:
    assert make_plan(mode="none")[0].privacy.sigma == 0
    assert (
        Privacy.model_validate({**make_plan(mode="distributed")[0].privacy.model_dump(), "variance_exponent": 6}).sigma
        == 8
    )


@pytest.mark.parametrize(("events", "sigmas"), [(1, 10.5), (390_000_000_000, 10.5), (800_000_000_000, 10.566)])
def test_a_sum_of_noise_is_bounded_by_more_deviations_only_where_there_are_more_sums_of_it(
    events: int, sigmas: float
) -> None:
    assert wrap_sigmas(events) == pytest.approx(sigmas, abs=1e-3)


@pytest.mark.parametrize("mode", ["none", "local", "distributed", "distributed-participant"])
def test_no_run_takes_more_than_a_million_steps_whatever_its_mode(mode: Mode) -> None:
    privacy = make_plan(mode=mode)[0].privacy
    privacy.require_countable(1_000_000 // privacy.local_steps)
    with pytest.raises(ValueError, match="at most 1,000,000"):
        privacy.require_countable(1_000_000 // privacy.local_steps + 1)
    for rounds in (1_000_001, 2**31, 2**53 - 1):
        assert code_of(mode=mode, recipe={"rounds": rounds}) == "E-PLAN-RULE"


BOUNDS: list[tuple[str, dict[str, Any], bool]] = [
    *(
        (f"{name} of {value} in {part}", {"recipe": {part: {name: value}}}, fits)
        for part in ("training", "optimizer")
        for name in ("learning_rate", "head_learning_rate")
        for value, fits in (
            ("0", False), ("0.000000000999", False), ("0.000000001", True), ("10000", True), ("10000.1", False)
        )
    ),
    ("a micro-batch of 4096", {"recipe": {"training": {"micro_batch": 4096}}}, True),
    ("a micro-batch of 4097", {"recipe": {"training": {"micro_batch": 4097}}}, False),
    ("a clip norm of a millionth", {"privacy": {"clip_norm": "0.000001"}}, True),
    ("a clip norm below a millionth", {"privacy": {"clip_norm": "0.00000099"}}, False),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "plan", "fits"), BOUNDS)
def test_a_plan_trains_something_and_fits_into_memory(sentence: str, plan: dict[str, Any], fits: bool) -> None:
    assert (code_of(mode="distributed", **plan) == "") is fits, sentence


@pytest.mark.parametrize(
    ("alpha", "fits"), [("0", False), ("0.0000001", False), ("0.000001", True), ("1000000", True), ("1000001", False)]
)
def test_the_scale_of_an_adapter_lets_it_count(alpha: str, fits: bool) -> None:
    for kind in OPTIONS.values():
        if "alpha" in kind.model_fields:
            ranks: dict[str, Any] = {name: 2 for name in ("rank", "target_rank", "heads") if name in kind.model_fields}
            given: dict[str, Any] = {"alpha": alpha, "target_modules": ("query",), **ranks}
            if fits:
                kind(**given)
            else:
                with pytest.raises(ValidationError, match="it must be from"):
                    kind(**given)


def test_a_draft_is_checked_with_a_sensitivity_that_a_plan_may_have() -> None:
    target = PrivacyTarget(
        mode="distributed", unit="example", epsilon="8", delta="0.00001", sampling_rate="0.1", local_steps=1,
        clip_norm="1", update_bound="8",
    )  # fmt: skip
    for entries in (1, 1000, 10**8):
        assumption = assumed(target, clipped=entries)
        assert assumption.sensitivity**2 > entries / 12 + 4 * assumption.sensitivity
        assert entries <= 0.01 * assumption.sensitivity**2
