"""What each sentence of claim says, and for which plans it is said."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest

from privacy.claims import (
    NO_NOISE,
    UNVERIFIED,
    WORDS,
    adversaries,
    collusion_sentence,
    departing_sentence,
    difference_sentence,
    epsilon_sentence,
    epsilons_sentence,
    figure_sentences,
    graph_sentences,
    graph_words,
    limit_sentences,
    limits,
    noise_sentences,
    not_protected,
    suite_sentences,
    suite_words,
    sum_sentence,
    trust_sentences,
    two_units_sentence,
)
from privacy.claims.noise import EXCEPTION, SURER, certainty
from privacy.plan import Plan
from privacy.plan_parts import Mode
from privacy.task_parts import CausalLanguageModelling
from tests.worlds.plans import STRONG, make_plan

SMALL: dict[str, Any] = {"n": 5, "f": 1}
NOISED: tuple[Mode, ...] = ("local", "distributed", "distributed-participant")


def _plan(arguments: dict[str, Any], mode: Mode = "none") -> Plan:
    return make_plan(mode=mode, **arguments)[0]


# --- graph and suite ---


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
def test_whom_one_trusts_and_what_is_not_protected_say_so(arguments: dict[str, Any]) -> None:
    plan = _plan(arguments)
    for shown in (trust_sentences(plan), not_protected(plan)):
        assert tuple(sentence for sentence in shown if "neighbours" in sentence) == graph_sentences(plan)


def test_suite_one_is_never_shown_without_what_a_recording_is_worth_later() -> None:
    first, second = _plan(SMALL), _plan({**SMALL, "suite": 2})
    assert suite_words(first) == "1: X25519, recordings do not withstand quantum computers"
    assert suite_words(second) == "2: X25519 and ML-KEM-768, recordings withstand quantum computers"
    (sentence,) = suite_sentences(first)
    assert sentence.startswith("Harvest now, decrypt later: whoever keeps the traffic of this run")
    assert suite_sentences(second) == ()
    for shown in (trust_sentences(first), not_protected(first)):
        assert sentence in shown
    for shown in (trust_sentences(second), not_protected(second)):
        assert not any("quantum" in sentence for sentence in shown)


# --- what the coordinator sees ---


@pytest.mark.parametrize("mode", NOISED)
def test_with_noise_a_sum_is_never_one_update_and_a_difference_of_sums_is_said_to_carry_noise(mode: Mode) -> None:
    plan = _plan(SMALL, mode)
    assert sum_sentence(plan) == (
        "In each round the coordinator sees one sum over at least 4 of 5 participants, at least 3 of them honest, and "
        "never one update."
    )
    sentence = difference_sentence(plan)
    assert sentence.startswith("Each sum carries the noise that is charged for; where the difference of two sums is")
    assert "it carries the noise of both" in sentence
    assert f"about one {plan.privacy.unit} no more than the charged epsilons allow" in sentence
    assert ("what many records of one participant have in common" in sentence) == (plan.privacy.unit == "example")


@pytest.mark.parametrize("arguments", [SMALL, STRONG, {"n": 3, "f": 1}], ids=["five", "k-regular", "no dropout"])
def test_without_noise_nothing_promises_that_one_update_is_hidden(arguments: dict[str, Any]) -> None:
    plan = _plan(arguments)
    for sentence in (*trust_sentences(plan), *not_protected(plan)):
        assert "never" not in sentence
        assert "only" not in sentence or sentence in graph_sentences(plan)
    for shown in (trust_sentences(plan), not_protected(plan)):
        assert difference_sentence(plan) in shown
    assert NO_NOISE in not_protected(plan)


def test_without_noise_both_ways_to_one_update_are_named() -> None:
    sentence = difference_sentence(_plan(SMALL))
    assert "their difference is its update" in sentence
    assert "and so start two rounds from the same adapter" in sentence
    assert "Two honest runs whose rosters differ by one member are such a pair, without any lie" in sentence


def test_where_nobody_may_drop_out_only_two_runs_make_such_a_pair() -> None:
    sentence = difference_sentence(_plan({"n": 3, "f": 1}))
    assert "dropped" not in sentence
    assert "Two honest runs whose rosters differ by one member" in sentence


def test_what_leaves_has_the_length_of_the_masked_vector() -> None:
    assert "12 numbers (48 bytes) leaves" in departing_sentence(_plan(SMALL))
    packed = {"ring_bits": 64, "lane_bits": 21, "clamp": 1}
    plan = _plan({**SMALL, "encoding": packed, "entries": 16})
    assert "16 numbers (48 bytes) leaves" in departing_sentence(plan)  # 12 and 4 entries, three to a word of 8 bytes


def test_what_leaves_is_said_of_every_kind_of_round() -> None:
    plan = _plan(SMALL)
    recipe = plan.recipe
    (whole,) = recipe.turns
    part = whole.model_copy(update={"sums": whole.sums[:1]})
    schedule = recipe.schedule.model_copy(update={"cycle": (1, 0)})
    recipe = recipe.model_copy(update={"turns": (whole, part), "schedule": schedule})
    sentence = departing_sentence(plan.model_copy(update={"recipe": recipe}))
    assert (part.entries, whole.entries) == (9, 12)
    assert "one masked list of 9 to 12 numbers (36 to 48 bytes, by what trains in the round) leaves" in sentence


@pytest.mark.parametrize(
    ("n", "f", "words"),
    [
        (5, 0, "No participant works together with the coordinator."),
        (5, 1, "At most 1 of the 5 participants works together with the coordinator."),
        (10, 3, "At most 3 of the 10 participants work together with the coordinator."),
    ],
)
def test_how_many_may_collude_is_said_in_plain_words(n: int, f: int, words: str) -> None:
    assert collusion_sentence(_plan({"n": n, "f": f})) == words


# --- noise ---


def test_whose_noise_is_relied_on_depends_on_the_mode() -> None:
    assert noise_sentences(_plan(SMALL)) == ()
    assert noise_sentences(_plan(SMALL, "local")) == (
        "For the noise, nobody else: each participant adds all of its own.",
    )
    (shared,) = noise_sentences(_plan(SMALL, "distributed"))
    assert "3 honest participants add their part" in shared
    assert "together with 1 participant." in shared


def test_what_stays_open_begins_with_what_noise_does_not_hide_or_with_its_absence() -> None:
    assert limits(_plan(SMALL, "distributed"))[0].startswith("What many records have in common")
    assert limits(_plan(SMALL))[0] == NO_NOISE


@pytest.mark.parametrize("mode", ["none", "distributed"])
def test_of_a_model_of_language_it_is_said_that_it_may_repeat_words(mode: Mode) -> None:
    plan = _plan(SMALL, mode)
    task = CausalLanguageModelling(data="notes", form="text", max_length=8)
    writing = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"task": task})})
    assert WORDS not in limits(plan)
    assert [*limits(plan)[:1], WORDS, *limits(plan)[1:]] == [*limits(writing)]


def test_epsilons_are_rounded_up_wherever_they_are_said() -> None:
    plan = _plan(SMALL, "distributed")
    assert "epsilon at most 5.78 at" in epsilon_sentence(5.7701, delta="0.00001", unit="example")
    said = epsilons_sentence(plan, outsiders=1.001, charged=2.001, all_others=3.001)
    for whom, epsilon in zip(adversaries(plan), ("1.01", "2.01", "3.01"), strict=True):
        assert f"against {whom}: {epsilon}" in said
    assert "epsilon 4.01" in two_units_sentence("example", 4.001)


@pytest.mark.parametrize(("epsilon", "shown"), [(0, "50%"), (1, "73.2%"), (2, "88.1%"), (8, "99.97%"), (9, "99.99%")])
def test_a_guess_cannot_become_surer_than_epsilon_allows(epsilon: float, shown: str) -> None:
    assert certainty(epsilon) == shown


@pytest.mark.parametrize(("epsilon", "shown"), [(0, "52.7%"), (1, "75.2%"), (2, "89.2%"), (8, "99.97%"), (9, "99.99%")])
def test_how_sure_a_guess_becomes_is_said_with_the_exception_that_delta_proves(epsilon: float, shown: str) -> None:
    said = " ".join(limit_sentences(epsilon, delta="0.00001", unit="user"))
    assert f"more than {shown} sure, except with a probability of at most 1 in 10,000." in said


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (0.5, "a real doubt remains"),
        (2.0, "a strong suspicion"),
        (7.99, "99.97% is as good as certain"),
        (12.0, "promises little by itself"),
    ],
)
def test_what_an_epsilon_is_worth_to_a_person_is_said_plainly(epsilon: float, words: str) -> None:
    assert words in " ".join(limit_sentences(epsilon, delta="0.00001", unit="user"))


def test_whoever_reads_that_a_roster_is_unverified_reads_what_to_do() -> None:
    assert "What to do: each owner compares by telephone" in UNVERIFIED


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 9.0])
def test_the_loss_of_a_gaussian_exceeds_what_is_said_less_often_than_is_said_and_epsilon_more_often_than_delta(
    multiplier: float, epsilon: float
) -> None:
    """The loss of a shift of 1 is normal with mean 1/2z^2 and deviation 1/z."""
    normal = NormalDist(1 / (2 * multiplier**2), 1 / multiplier)
    other = NormalDist(-1 / (2 * multiplier**2), 1 / multiplier)
    beyond = 1 - normal.cdf(epsilon)
    delta = beyond - math.exp(epsilon) * (1 - other.cdf(epsilon))
    if delta < 1e-9:
        pytest.skip("the difference of two tails is all rounding there")
    assert 1 - normal.cdf(epsilon + SURER) <= EXCEPTION * delta
    assert beyond > delta


def test_an_epsilon_says_why_its_delta_and_what_several_rows_arithmetic_and_time_leave() -> None:
    said = figure_sentences(_plan(SMALL, "distributed"))
    assert [sentence.split(":")[0].split(" 0")[0] for sentence in said] == [
        "Why delta", "The figure is per row", "Arithmetic", "Timing",
    ]  # fmt: skip
    assert "populations of up to 10,000." in said[0]
    assert figure_sentences(_plan(SMALL, "none")) == ()
    assert not any("per row" in sentence for sentence in figure_sentences(_plan(SMALL, "distributed-participant")))


def test_a_participant_is_not_said_to_be_at_two_participants() -> None:
    assert "at each of two" not in two_units_sentence("participant", 1.0)
