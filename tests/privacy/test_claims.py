"""A plan whose claim is weaker says so wherever a claim is shown."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.runs.creation import trust_sentences
from participant.owner.plan_page import trust
from privacy.claims import graph_sentences, graph_words, suite_sentences, suite_words
from privacy.plan import Plan
from privacy.report import build_report
from tests.worlds.plans import STRONG, make_plan
from tests.worlds.reports import coordinator_facts, reported_plan

SMALL: dict[str, Any] = {"n": 5, "f": 1}


def _report(plan_arguments: dict[str, Any]) -> tuple[str, ...]:
    plan, keys = reported_plan(mode="none", **plan_arguments)
    return build_report(coordinator_facts(plan, keys)).not_protected


def _plan(arguments: dict[str, Any]) -> Plan:
    return make_plan(**arguments)[0]


def test_the_graph_is_named_in_a_few_words() -> None:
    assert graph_words(_plan(SMALL)) == "complete: everybody masks with everybody"
    assert graph_words(_plan(STRONG)) == (
        "k-regular: at most 28 neighbours, 16 shares rebuild a secret, 2 may drop out"
    )


def test_the_weaker_sentence_of_a_k_regular_graph_says_how_much_weaker() -> None:
    (sentence,) = graph_sentences(_plan(STRONG))
    assert "at most 28 neighbours, drawn anew in every attempt, and not with all 59 others" in sentence
    assert "a probability of at most 2^-40 (one in a million millions) over the whole run" in sentence
    assert graph_sentences(_plan(SMALL)) == ()


@pytest.mark.parametrize("arguments", [STRONG, SMALL], ids=["k-regular", "complete"])
def test_it_stands_on_the_operators_screen_the_owners_screen_and_in_the_report(arguments: dict[str, Any]) -> None:
    plan = _plan(arguments)
    expected = graph_sentences(plan)
    for shown in (trust_sentences(plan), trust(plan), _report(arguments)):
        assert tuple(one for one in shown if "neighbours" in one) == expected


def test_suite_one_is_never_shown_without_what_a_recording_is_worth_later() -> None:
    one, two = _plan(SMALL), _plan({**SMALL, "suite": 2})
    assert suite_words(one) == "1: X25519, recordings do not withstand quantum computers"
    assert suite_words(two) == "2: X25519 and ML-KEM-768, recordings withstand quantum computers"
    (sentence,) = suite_sentences(one)
    assert sentence.startswith("Harvest now, decrypt later: whoever keeps the traffic of this run")
    assert suite_sentences(two) == ()
    for shown in (trust_sentences(one), trust(one), _report(SMALL)):
        assert sentence in shown
    for shown in (trust_sentences(two), trust(two), _report({**SMALL, "suite": 2})):
        assert not any("quantum" in said for said in shown)
