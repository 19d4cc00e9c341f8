"""The bounds of docs/graphs.md as a whole, against an adversary that sees the graph and tries all that it may do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import pytest

from privacy.secagg import graph_bounds
from privacy.secagg.graph import MaskingGraph, masking_graph
from privacy.secagg.graph_bounds import Cohort, failure

ONCE = {"rounds": 1, "attempts": 1}


def graphs(n: int, neighbours: int, contexts: int, *, absent: int = 0) -> Iterator[MaskingGraph]:
    """Yield graphs of many contexts, with the first few of the roster absent; the last ones collude in the tests."""
    members = tuple(f"p{i:02d}" for i in range(absent, n))
    for number in range(contexts):
        yield masking_graph(members, round_ctx=number.to_bytes(32, "big"), neighbours=neighbours)


def honest_of(graph: MaskingGraph, colluders: int) -> frozenset[str]:
    return frozenset(graph.members[: len(graph.members) - colluders])


def cut_apart(graph: MaskingGraph, honest: frozenset[str], dropouts: int) -> bool:
    """Return whether a coordinator that has seen the graph can drop honest participants so that others fall apart."""
    return any(
        not _connected(graph, honest - set(dropped))
        for count in range(dropouts + 1)
        for dropped in combinations(sorted(honest), count)
    )


def _connected(graph: MaskingGraph, members: frozenset[str]) -> bool:
    start = min(members)
    seen, pending = {start}, [start]
    while pending:
        fresh = (members & set(graph.neighbours(pending.pop()))) - seen
        seen |= fresh
        pending += fresh
    return seen == members


@pytest.mark.parametrize(
    ("n", "k", "f", "dropouts"), [(12, 4, 1, 1), (14, 4, 2, 1), (12, 6, 1, 2), (13, 6, 3, 2), (12, 4, 0, 2)]
)
def test_an_adversary_that_sees_the_graph_cuts_no_more_often_than_is_bounded(
    n: int, k: int, f: int, dropouts: int
) -> None:
    contexts = 400
    bound = 2 ** failure(Cohort(n, f, dropouts, **ONCE), neighbours=k, share_threshold=2).connectivity
    found = sum(cut_apart(graph, honest_of(graph, f), dropouts) for graph in graphs(n, k, contexts)) / contexts
    deviation = math.sqrt(bound / contexts)
    assert found <= bound + 4 * deviation
    assert found >= bound / 3 - 4 * deviation, "the bound is of the right size"
    # Somebody who is absent from the start is of less use than somebody who is dropped with the graph in view.
    shrunk = (
        sum(cut_apart(graph, honest_of(graph, f), dropouts - 1) for graph in graphs(n, k, contexts, absent=1))
        / contexts
    )
    assert shrunk <= found
    fewer = (
        sum(cut_apart(graph, honest_of(graph, f - 1), dropouts) for graph in graphs(n, k, contexts)) / contexts
        if f
        else 0
    )
    assert fewer <= found, "colluders that are none only help"


@pytest.mark.parametrize(
    ("n", "k", "f", "dropouts", "threshold"), [(20, 6, 4, 2, 5), (20, 6, 4, 2, 6), (16, 4, 3, 3, 4), (24, 10, 6, 0, 7)]
)
def test_colluders_around_somebody_hold_all_but_one_of_the_shares_no_more_often_than_is_bounded(
    n: int, k: int, f: int, dropouts: int, threshold: int
) -> None:
    contexts = 3000
    bound = 2 ** failure(Cohort(n, f, dropouts, **ONCE), neighbours=k, share_threshold=threshold).neighbourhoods

    def lost(graph: MaskingGraph) -> bool:
        honest = honest_of(graph, f)
        return any(threshold <= len(set(graph.holders(name)) - honest) + 1 for name in honest)

    for absent in (0, dropouts):
        found = sum(map(lost, graphs(n, k, contexts, absent=absent))) / contexts
        assert found <= bound + 4 * math.sqrt(bound / contexts)
    assert found >= bound / 4, "the bound is of the right size"


@pytest.mark.parametrize(("n", "k", "dropouts", "threshold"), [(14, 6, 2, 4), (20, 8, 3, 5), (20, 8, 3, 4)])
def test_holders_are_too_few_after_random_dropouts_no_more_often_than_is_bounded(
    n: int, k: int, dropouts: int, threshold: int
) -> None:
    """Of who dropped out itself the others must hold enough: its own share is gone."""
    contexts = 3000
    bound = math.exp(graph_bounds._too_few_holders(Cohort(n, 0, dropouts, **ONCE), k, threshold))

    def lacking(graph: MaskingGraph) -> bool:
        there = set(graph.members[dropouts:])  # the graph is random, so that these are as good as any
        return any(len(there & set(graph.holders(name))) < threshold for name in graph.members)

    found = sum(map(lacking, graphs(n, k, contexts))) / contexts
    assert bound / 4 <= found <= bound + 4 * math.sqrt(bound / contexts)
