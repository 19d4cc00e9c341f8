"""The claim, searched: no course of events lets a lying coordinator compute more than one sum, and each rule is needed.

A rule of docs/protocol.md section 5 is deleted, and the search must find a leak. Where several checks each imply the
rule, only deleting all of them leaks; then any one of them is put back, and the leak is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.worlds.edits import Edit, Instead, Refusal, edited
from tests.worlds.plans import names
from tests.worlds.span import LyingCoordinator, Shown, View, name_of
from tests.worlds.span_rows import learned, recorded, violates
from tests.worlds.span_search import Space, explore_voided, views

FOUR, FIVE = names(4), names(5)


@pytest.fixture(autouse=True)
def _recorded() -> Iterator[None]:
    with recorded():
        yield


def shown(to: str, u1: str, u2: str = "", *, adapter: int = 0) -> Shown:
    actors = tuple(u1.split())
    return Shown(to, actors, tuple(u2.split()) or tuple(map(name_of, actors)), adapter)


def to_all(honest: tuple[str, ...], u1: str) -> View:
    return tuple(shown(name, u1) for name in honest)


def every_view(smallest: int, *, advertisements: int = 1) -> list[View]:
    return list(views(LyingCoordinator(4, 1), smallest=smallest, advertisements=advertisements))


def every_u2(smallest: int) -> list[View]:
    """Every U2 for everybody, where U1 is all four."""
    return [view for view in every_view(smallest) if all(one.u1 == FOUR for one in view)]


# --- the claim ---


def test_exhaustive_search_over_split_views_and_two_interleaved_attempts_finds_one_sum_or_nothing() -> None:
    every = every_view(3, advertisements=2)
    space = Space(4, 1, every, every)
    assert space.world().plan.plan.quorum == 3
    outcomes = list(space.outcomes())
    assert len(outcomes) > 1000
    assert not any(outcomes)


def test_exhaustive_search_finds_nothing_where_all_four_must_survive() -> None:
    space = Space(4, 1, every_view(3), min_survivors=4)
    outcomes = list(space.outcomes())
    assert outcomes
    assert not any(outcomes)


# --- each rule is needed ---

EVERYBODY = "[one.id for one in participant.parameters.roster]"
SAME_U2 = (Refusal("} masked with another U2"),)
OLD_SIGNATURE = "signed and (signed.attempt, signed.survivors) != (record.attempt, proposal.survivors)"
OLD_RELEASE = "earlier and (earlier.attempt, earlier.survivors) != (record.attempt, proposal.survivors)"
ONCE_AN_ATTEMPT = (  # instead of once a round
    Instead(
        "check_proposal",
        OLD_SIGNATURE,
        "signed and signed.attempt == record.attempt and signed.survivors != proposal.survivors",
    ),
    Instead(
        "check_request",
        OLD_RELEASE,
        "earlier and earlier.attempt == record.attempt and earlier.survivors != proposal.survivors",
    ),
)

SPLIT_U2 = Space(4, 1, every_u2(3))
SMALL_U2 = Space(4, 1, every_u2(2))
TOGETHER = Space(4, 1, [to_all(FOUR[:3], "alice bob carol dave")])
ALL_MUST = Space(4, 1, every_u2(3), min_survivors=4)
NAMED_TWICE = Space(
    4, 1, every_u2(3), min_survivors=4, sets=[("alice", "bob", "bob", "dave"), ("alice", "alice", "bob", "dave")]
)
INVENTED = Space(
    4, 1, [(shown("alice", "alice bob carol* dave"), shown("bob", "alice bob carol* dave"))], min_survivors=4
)
REPLACED_KEYS = Space(
    4, 1, [tuple(shown(name, "alice~ bob~ carol~ dave", "alice bob carol dave") for name in FOUR[:3])]
)
TWO_MODELS = Space(
    4, 1, [tuple(shown(name, "alice bob carol", adapter=int(name == "bob")) for name in ("alice", "bob", "carol"))]
)
# All three honest release the shares of alice and bob; of carol, dave and erin each is in one or two of the sets.
NOBODY_COLLUDES = Space(
    5, 0, [to_all(FIVE, " ".join(FIVE))], min_survivors=3, sets=[("alice", "bob", third) for third in FIVE[2:]]
)
TWO_ATTEMPTS = Space(
    4,
    1,
    [to_all(FOUR[:3], "alice bob carol dave")],
    [to_all(FOUR[:3], "alice bob carol dave")],
    sets=[("alice", "bob", "dave"), ("alice", "bob", "carol", "dave")],
)


@dataclass(frozen=True)
class Rule:
    """A space in which a lack of the rule shows, and the checks of which each implies it there."""

    space: Space
    checks: tuple[Edit, ...]


RULES: dict[str, Rule] = {
    "all of S masked with one U2, which has S in it": Rule(
        SPLIT_U2, (*SAME_U2, Instead("_check_members", "record.u2", EVERYBODY))
    ),
    "all of S masked with one U2, or each with at least m": Rule(
        SMALL_U2,
        (
            *SAME_U2,
            Instead("check_dealers", "participant.parameters.min_survivors", "0"),
            Instead("check_dealers", "check_holders(participant, [*neighbours, participant.me], phase)", "None"),
        ),
    ),
    "members of S alone sign and release": Rule(
        SPLIT_U2,
        (
            *SAME_U2,
            Refusal("this participant is not among the survivors"),
            Instead("check_quorum", "signature.sender in listed", "True"),
        ),
    ),
    "at least m survive": Rule(ALL_MUST, (Instead("_check_members", "participant.parameters.min_survivors", "0"),)),
    "nobody is named twice": Rule(NAMED_TWICE, (Refusal("must be sorted and name nobody twice"),)),
    "nobody is invented": Rule(
        INVENTED,
        (
            Refusal("the advertisement of"),
            Refusal("the receipt of {receipt.sender} is not signed"),
        ),
    ),
    "nobody's own keys are replaced": Rule(
        REPLACED_KEYS,
        (Instead("check_advertisements", "returned.body != own.body", "False"), Refusal("the advertisement of")),
    ),
    "all start from one model": Rule(
        TWO_MODELS,
        (Refusal("was offered another round, attempt or adapter"), Instead("context", "self.adapter_hash", "b''")),
    ),
    "a quorum signed": Rule(NOBODY_COLLUDES, (Refusal("signatures that the plan asks for are valid"),)),
    "a quorum of different participants": Rule(
        NOBODY_COLLUDES,
        (
            Instead(
                "check_quorum",
                "len(valid) < participant.parameters.quorum",
                "len([each for each in quorum.signatures if each.sender in valid]) < participant.parameters.quorum",
            ),
        ),
    ),
    "a quorum of valid signatures": Rule(
        NOBODY_COLLUDES,
        (
            Instead(
                "check_quorum",
                "participant.signed_by("
                "signature.sender, signature.signature, quorum.signed_bytes(version, signature.sender))",
                "True",
            ),
        ),
    ),
    "a quorum for this S": Rule(
        NOBODY_COLLUDES,
        (Instead("SurvivorSet.signed_bytes", "self.hash", "b''"),),
    ),
    "one S is signed": Rule(NOBODY_COLLUDES, (Refusal("another survivor set of this round is signed already"),)),
    "shares are released along one S, which a quorum signed": Rule(
        TOGETHER,
        (
            Refusal("this is not the survivor set signed or released before"),
            Refusal("signatures that the plan asks for are valid"),
        ),
    ),
    "an attempt completes, and no retry is open any more": Rule(
        TWO_ATTEMPTS, (*ONCE_AN_ATTEMPT, Refusal("no other attempt may complete"))
    ),
    "a retry completes, and the attempts before it are closed": Rule(
        TWO_ATTEMPTS, (*ONCE_AN_ATTEMPT, Instead("_check_open", "memory.highest != position.order", "False"))
    ),
    "no share of a survivor's masking secret": Rule(
        TOGETHER, (Instead("_release", "held.dealer not in survivors", "True"),)
    ),
    "no share of a dropout's seed": Rule(SPLIT_U2, (Instead("_release", "held.dealer in survivors", "True"),)),
    "a mask of one's own": Rule(SPLIT_U2, (Instead("_terms", "[own, *pairwise]", "pairwise"),)),
    "a mask for each pair": Rule(TOGETHER, (Instead("_terms", "[own, *pairwise]", "[own]"),)),
}
OVERLAPPING = [(name, kept) for name, rule in RULES.items() for kept in range(len(rule.checks)) if len(rule.checks) > 1]


@pytest.mark.parametrize("rule", RULES)
def test_without_this_rule_the_search_finds_a_leak(rule: str) -> None:
    with edited(*RULES[rule].checks):
        assert any(RULES[rule].space.outcomes())


@pytest.mark.parametrize(("rule", "kept"), OVERLAPPING)
def test_one_check_of_a_rule_is_enough(rule: str, kept: int) -> None:
    with edited(*(check for index, check in enumerate(RULES[rule].checks) if index != kept)):
        assert not any(RULES[rule].space.outcomes())


@pytest.mark.parametrize("rule", RULES)
def test_with_all_rules_the_same_search_finds_none(rule: str) -> None:
    assert not any(RULES[rule].space.outcomes())


def test_with_a_lower_threshold_than_the_plans_the_search_finds_a_leak() -> None:
    with edited(Instead("threshold", "(n + f) // 2 + 1", "(n + f) // 2"), prefixes=["privacy.plan"]):
        assert any(TOGETHER.outcomes())


# --- voided rounds ---

CLOSED_FOR_EVER = (
    Instead("_check_open", "memory.completed >= position.round", "False"),
    Instead("_check_open", "memory.highest != position.order", "False"),
)


def voided_outcomes() -> Iterator[bool]:
    """Yield the outcomes of every course in which some are told that round 1 is voided, and go on in both rounds."""
    world = LyingCoordinator(4, 1, mode="local")
    world.open(1, to_all(FOUR[:3], "alice bob carol dave"))
    return explore_voided(world, [("alice", "bob", "dave"), ("alice", "carol", "dave")])


def test_exhaustive_search_over_voided_rounds_finds_one_sum_of_each_round_or_nothing() -> None:
    outcomes = list(voided_outcomes())
    assert len(outcomes) > 20
    assert not any(outcomes)


def test_without_closing_a_voided_round_the_search_finds_a_leak() -> None:
    with edited(*CLOSED_FOR_EVER):
        assert any(voided_outcomes())


@pytest.mark.parametrize("kept", [0, 1])
def test_one_check_that_a_voided_round_is_closed_is_enough(kept: int) -> None:
    with edited(CLOSED_FOR_EVER[1 - kept]):
        assert not any(voided_outcomes())


# --- the oracle itself ---


def test_the_oracle_sees_one_update_in_the_difference_of_two_sums() -> None:
    alice, bob, other = ("alice", 0), ("bob", 0), ("bob", 1)
    own = ("stream", b"alice's own")
    rows = [{("update", alice): 1, ("update", bob): 1, own: 1}, {("update", alice): 1, own: 1}]
    assert violates(learned(rows), least_honest=2)
    assert not violates(learned(rows[:1]), least_honest=2)
    assert not violates(learned([{("update", alice): 1, ("update", bob): 1}]), least_honest=2)
    assert violates(learned([{("update", alice): 1, ("update", bob): 2}]), least_honest=2)
    assert violates(learned([{("update", alice): 1, ("update", other): 1}]), least_honest=2), "two models in one sum"
