"""The masking graph: both ends of an edge find each other, and nobody chooses where the edges are."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg.graph import MaskingGraph, masking_graph
from privacy.secagg.graph_bounds import degrees

CONTEXT = b"\x07" * 32


def members(n: int) -> tuple[str, ...]:
    return tuple(f"p{i:04d}" for i in range(n))


def edges(graph: MaskingGraph) -> set[tuple[str, str]]:
    return {(name, other) for name in graph.members for other in graph.neighbours(name)}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_complete_graph_is_a_graph_of_any_size(size: int) -> None:
    members = ("alice", "bob", "carol")[:size]
    assert masking_graph(members, round_ctx=b"", neighbours=0).complete


def test_in_the_complete_graph_everyone_else_is_a_neighbour_in_sorted_order() -> None:
    graph = masking_graph(("alice", "bob", "carol"), round_ctx=CONTEXT, neighbours=0)
    assert graph.complete
    assert graph.neighbours("bob") == ("alice", "carol")
    assert graph.holders("bob") == ("alice", "bob", "carol")
    assert masking_graph(("alice", "bob"), round_ctx=CONTEXT, neighbours=0).neighbours("bob") == ("alice",)


@pytest.mark.parametrize("neighbours", [0, 2])
def test_who_is_no_member_has_no_neighbours(neighbours: int) -> None:
    graph = masking_graph(("alice", "bob", "carol"), round_ctx=CONTEXT, neighbours=neighbours)
    for stranger in ("aaron", "bert", "dave"):
        with pytest.raises(KeyError):
            graph.neighbours(stranger)


@pytest.mark.parametrize(
    ("ids", "neighbours"),
    [(("b", "a", "c"), 2), (("a", "a", "b"), 2), (("a", "a"), 0), (("a", "b", "c"), 3), (("a", "b"), 2)],
)
def test_what_makes_no_graph_is_refused(ids: tuple[str, ...], neighbours: int) -> None:
    with pytest.raises(ValueError, match=r"sorted and distinct|even number"):
        masking_graph(ids, round_ctx=CONTEXT, neighbours=neighbours)


@given(st.integers(3, 40), st.integers(1, 6), st.binary(min_size=32, max_size=32))
def test_every_edge_goes_both_ways_and_nobody_has_more_than_k_neighbours(n: int, cycles: int, context: bytes) -> None:
    graph = masking_graph(members(n), round_ctx=context, neighbours=2 * cycles)
    found = edges(graph)
    assert found == {(other, name) for name, other in found}
    for name in graph.members:
        neighbours = graph.neighbours(name)
        assert 2 <= len(neighbours) <= min(2 * cycles, n - 1)
        assert name not in neighbours
        assert list(neighbours) == sorted(set(neighbours))
        assert graph.holders(name) == tuple(sorted((*neighbours, name)))


@given(st.integers(3, 40), st.binary(min_size=32, max_size=32))
def test_each_cycle_goes_once_through_everybody(n: int, context: bytes) -> None:
    for cycle in masking_graph(members(n), round_ctx=context, neighbours=4).cycles:
        assert sorted(cycle.order) == list(range(n))
        for before, after in pairwise((*cycle.order, cycle.order[0])):
            assert after in cycle.beside(before)
            assert before in cycle.beside(after)


def test_an_edge_of_two_cycles_is_one_edge_and_the_graph_the_union_of_its_cycles() -> None:
    graph = masking_graph(members(8), round_ctx=CONTEXT, neighbours=6)
    union = {frozenset(one) for cycle in graph.cycles for one in pairwise((*cycle.order, cycle.order[0]))}
    assert {frozenset(int(name[1:]) for name in edge) for edge in edges(graph)} == union
    assert len(union) < 8 * 3, "this context has an edge in two cycles"


def test_the_graph_is_the_same_every_time_and_another_in_every_context_and_cohort() -> None:
    first = masking_graph(members(30), round_ctx=CONTEXT, neighbours=4)
    assert edges(masking_graph(list(members(30)), round_ctx=CONTEXT, neighbours=4)) == edges(first)
    assert edges(masking_graph(members(30), round_ctx=b"\x08" * 32, neighbours=4)) != edges(first)
    fewer = masking_graph(members(30)[:-1], round_ctx=CONTEXT, neighbours=4)
    assert any(first.neighbours(name) != fewer.neighbours(name) for name in fewer.members)
    more = masking_graph(members(30), round_ctx=CONTEXT, neighbours=6)
    assert edges(first) < edges(more), "a larger k adds cycles"


def test_the_edges_of_a_known_context_are_pinned() -> None:
    """So that another implementation can compare itself."""
    graph = masking_graph(members(7), round_ctx=CONTEXT, neighbours=4)
    assert [list(cycle.order) for cycle in graph.cycles] == [[5, 4, 3, 0, 6, 2, 1], [2, 4, 6, 3, 5, 0, 1]]


def test_neighbours_are_uniform_and_their_number_is_distributed_as_derived() -> None:
    """Over 4000 contexts: each of ten others as often as every other, and degrees as in docs/graphs.md section 3."""
    contexts, n, cycles = 4000, 11, 3
    seen: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    for number in range(contexts):
        graph = masking_graph(members(n), round_ctx=number.to_bytes(32, "big"), neighbours=2 * cycles)
        neighbours = graph.neighbours("p0000")
        seen.update(neighbours)
        sizes[len(neighbours)] += 1
    mean = sum(seen.values()) / (n - 1)
    assert sum((count - mean) ** 2 / mean for count in seen.values()) < 27.9, "chi-square, 9 degrees of freedom, 0.1%"
    expected = {degree: contexts * likely for degree, likely in enumerate(degrees(n, cycles)) if likely}
    usual = {degree: value for degree, value in expected.items() if value > 10}
    assert sum((sizes[degree] - value) ** 2 / value for degree, value in usual.items()) < 16.3, "3 degrees of freedom"
    assert set(sizes) <= set(expected)
