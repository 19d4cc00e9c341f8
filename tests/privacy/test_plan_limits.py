"""Limits of plans, from both sides: what is just allowed, and what is just not."""

from __future__ import annotations

from typing import Any

import pytest

from privacy.errors import PeerError
from tests.plans import STRONG, make_plan


def code_of(**plan: Any) -> str:
    """Return the code of a plan's refusal, or nothing."""
    try:
        make_plan(**plan)
    except PeerError as refused:
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
