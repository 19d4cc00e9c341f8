"""What a graph too weak for a plan would leak, by the span oracle: whole components of survivors, and nothing else.

This is the part of docs/graphs.md that needs no probability: whatever graph is drawn and whoever is dropped, a revealed
sum is over a connected component of honest survivors in which everybody has enough honest neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set

import pytest

from participant.protocol.memory import RunMemory
from privacy.secagg.graph import MaskingGraph
from privacy.secagg.graph_bounds import Cohort, check
from tests.worlds.edits import Instead, Refusal, edited
from tests.worlds.plans import unproven
from tests.worlds.span import LyingCoordinator, Release, Shown
from tests.worlds.span_rows import Sum, independent, recorded

CASES = [  # n, f, k, t, least survivors: more shares than colluders hold, and few enough to open small components
    (12, 0, 2, 2, 7),
    (12, 1, 4, 3, 7),
    (14, 1, 4, 3, 8),
    (14, 2, 6, 4, 9),
]


@pytest.fixture(autouse=True)
def _recorded() -> Iterator[None]:
    with recorded():
        yield


def weak(
    n: int, f: int, k: int, t: int, least: int, *, seed: int, hidden: tuple[str, Set[str]] = ("", frozenset())
) -> LyingCoordinator:
    """Return a lying coordinator over a graph that no plan may have, after uploads by everybody who can.

    ``hidden``: somebody to whom these others are not shown in U2.
    """
    world = LyingCoordinator(n, f, seed=str(seed), min_survivors=least)
    world.plan = unproven(world.plan.plan, neighbours=k, share_threshold=t)
    world.memories = {name: RunMemory.empty(world.plan.hash) for name in world.honest}
    u2 = dict.fromkeys(world.honest, world.everyone)
    if hidden[0]:
        u2[hidden[0]] = tuple(name for name in world.everyone if name not in hidden[1])
    world.open(1, tuple(Shown(name, world.everyone, u2[name]) for name in world.honest))
    return world


def graph_of(world: LyingCoordinator) -> MaskingGraph:
    return next(iter(world.attempts[1].dealt.values())).graph


def releases(world: LyingCoordinator, survivors: Sequence[str]) -> list[Release]:
    """Have S signed by whoever will, then ask everybody for shares, in S or not."""
    signed = [world.sign(1, survivors, name) for name in world.honest]
    signatures = [one for one in signed if one is not None]
    released = [world.release(1, survivors, name, signatures) for name in world.honest]
    return [one for one in released if one is not None]


def opened(world: LyingCoordinator, survivors: Set[str]) -> list[frozenset[str]]:
    """The components of honest survivors that are readable: of everybody's seed, and of the masking secrets of their
    neighbours that dropped out, enough shares are to be had.
    """
    graph, colluders = graph_of(world), frozenset(world.colluders)
    left = honest = frozenset(survivors & set(world.honest))
    tell = honest | colluders
    found = []
    while left:
        component, pending = set[str](), [min(left)]
        while pending:
            name = pending.pop()
            component.add(name)
            pending += (honest & set(graph.neighbours(name))) - component
        left -= component
        around = {peer for name in component for peer in graph.holders(name)} - colluders
        if all(len(tell.intersection(graph.holders(name))) >= world.plan.plan.share_threshold for name in around):
            found.append(frozenset(component))
    return found


def same_span(sums: Sequence[Sum], components: Sequence[frozenset[str]]) -> bool:
    indicators: list[Sum] = [{(name, (1, 0)): 1 for name in sorted(component)} for component in components]
    together = independent([*sums, *indicators])
    return len(sums) == len(indicators) == len(together)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whatever_is_dropped_only_whole_components_with_enough_neighbours_are_revealed(
    case: tuple[int, int, int, int, int],
) -> None:
    n, f, _, t, least = case
    revealed: list[int] = []
    for seed in range(12):
        world, chance = weak(*case, seed=seed), random.Random(seed)
        uploaded = {*world.attempts[1].uploads, *world.colluders}
        aimed = graph_of(world).neighbours(chance.choice(world.honest))
        for dropped in (aimed, aimed[1:], chance.sample(world.honest, n - least), ()):
            survivors = tuple(sorted(uploaded - set(dropped[: n - least])))
            play = world.fork()
            released = releases(play, survivors)
            expected = opened(play, set(survivors)) if released else []
            assert same_span(play.learned(released), expected)
            assert all(len(one) >= max(2, t - f) for one in expected), "never an update by itself"
            revealed += map(len, expected)
    assert len(revealed) > 12, "rounds must come to an end often enough for this to mean anything"
    assert len(set(revealed)) > 1


def isolated() -> tuple[LyingCoordinator, str, tuple[str, ...]]:
    """Return a world, somebody of whom all neighbours are honest, uploaded, and can be left out of S, and that S."""
    for seed in range(20):
        world = weak(12, 1, 4, 4, 7, seed=seed)
        for name in world.attempts[1].uploads:
            around = set(graph_of(world).neighbours(name))
            there = {*world.attempts[1].uploads, *world.colluders} - around
            if len(around) == 4 and around <= world.attempts[1].uploads.keys() and len(there) >= 7:
                return world, name, tuple(sorted(there))
    raise AssertionError("no such graph")


def test_somebody_whose_neighbours_are_all_declared_dropped_is_in_no_sum() -> None:
    world, victim, survivors = isolated()
    learned = world.learned(releases(world, survivors))
    assert all((victim, (1, 0)) not in one for one in learned)


def test_it_is_bare_once_holders_outside_the_survivors_release_too() -> None:
    with edited(Refusal("this participant is not among the survivors")):
        world, victim, survivors = isolated()
        learned = world.learned(releases(world, survivors))
        assert same_span([one for one in learned if (victim, (1, 0)) in one], [frozenset((victim,))])


def split_off() -> tuple[LyingCoordinator, str, tuple[str, ...]]:
    """Return a world, somebody to whom of its neighbours only two are shown, and an S without these two."""
    case = (14, 1, 6, 3, 9)
    for seed in range(20):
        graph = graph_of(world := weak(*case, seed=seed))
        for name in world.honest:
            around = sorted(set(graph.neighbours(name)) - set(world.colluders))
            if len(around) == 6:
                world = weak(*case, seed=seed, hidden=(name, set(around[2:])))
                return world, name, tuple(one for one in world.everyone if one not in around[:2])
    raise AssertionError("no such graph")


def test_somebody_who_was_shown_another_u2_is_in_no_sum_though_it_signs_nothing() -> None:
    world, victim, survivors = split_off()
    assert victim in survivors
    assert releases(world, survivors) == [], "its receipt is over another U2"


def test_it_is_bare_if_the_receipts_of_who_did_not_sign_the_survivors_are_not_verified() -> None:
    """Everybody else releases along an S that holds it: its masks are with two that are declared dropped."""
    with edited(Refusal("the receipt of {receipt.sender} is not signed")):
        world, victim, survivors = split_off()
        learned = world.learned(releases(world, survivors))
        assert [one for one in learned if (victim, (1, 0)) in one] == [{(victim, (1, 0)): 1}]


def surrounded(colluders: int, t: int, *, alone: bool) -> Iterator[list[Sum]]:
    """Yield what is learned of somebody with so many colluding neighbours, all its honest ones in S or none."""
    for seed in range(60):
        world = weak(14, 2, 4, t, 9, seed=seed)
        for name in world.attempts[1].uploads:
            around = set(graph_of(world).neighbours(name))
            honest = around - set(world.colluders)
            there = {*world.attempts[1].uploads, *world.colluders} - (honest if alone else set())
            if len(around) - len(honest) == colluders and honest and len(there) >= 9:
                play = world.fork()
                learned = play.learned(releases(play, tuple(sorted(there))))
                yield [one for one in learned if (name, (1, 0)) in one]


@pytest.mark.parametrize(
    ("colluders", "threshold", "alone", "bare"),
    [
        (1, 3, True, False),
        (2, 4, True, False),
        (2, 4, False, False),
        (1, 2, True, True),  # t = c + 1: its own share and theirs open the self mask of who has been cut off
        (2, 3, True, True),
        (2, 3, False, False),  # but not of who is connected
        (2, 2, False, True),  # t = c: colluders open both secrets alone, whatever is dropped
    ],
)
def test_a_threshold_two_above_the_colluders_around_is_what_keeps_an_update_from_being_bare(
    colluders: int, threshold: int, *, alone: bool, bare: bool
) -> None:
    """The rule on neighbourhoods (docs/graphs.md, section 4), on one of them that keeps it and ones that do not."""
    about = next(sums for sums in surrounded(colluders, threshold, alone=alone) if sums or alone)
    assert (set(map(len, about)) == {1}) == bare


@pytest.mark.parametrize(
    ("weakened", "colluders", "alone"),
    [("share_threshold", 1, True), ("share_threshold + 1", 2, False)],
    ids=["one share less, and somebody cut off", "two shares less, and nobody cut off"],
)
def test_a_bare_update_is_found_on_graphs_that_a_weaker_rule_would_let_plans_name(
    weakened: str, colluders: int, *, alone: bool
) -> None:
    cohort, threshold = Cohort(60, colluders, 2, 100, 3), 2
    with pytest.raises(ValueError, match="too weak in neighbourhoods"):
        check(cohort, neighbours=32, share_threshold=threshold)
    with edited(Instead("_surrounded", "share_threshold - 1", weakened), prefixes=("privacy.secagg",)):
        check(cohort, neighbours=32, share_threshold=threshold)
    assert any(len(one) == 1 for sums in surrounded(colluders, threshold, alone=alone) for one in sums)
