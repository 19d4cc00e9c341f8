"""The bounds of docs/graphs.md against exact counts and against an adversary that sees the graph."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, permutations, product
from pathlib import Path

import pytest

from privacy.secagg import graph_bounds
from privacy.secagg.graph import MaskingGraph, masking_graph
from privacy.secagg.graph_bounds import Cohort, check, degrees, failure, ln_separated, recommend

ONCE = {"rounds": 1, "attempts": 1}


def graphs(n: int, neighbours: int, contexts: int, *, absent: int = 0) -> Iterator[MaskingGraph]:
    """Yield graphs of many contexts, with the first few of the roster absent; the last ones collude in the tests."""
    members = tuple(f"p{i:02d}" for i in range(absent, n))
    for number in range(contexts):
        yield masking_graph(members, round_ctx=number.to_bytes(32, "big"), neighbours=neighbours)


def honest_of(graph: MaskingGraph, colluders: int) -> frozenset[str]:
    return frozenset(graph.members[: len(graph.members) - colluders])


# --- the parts, exactly ---


@pytest.mark.parametrize("size", [4, 5, 6, 7, 8])
def test_separation_in_a_cycle_is_counted_exactly(size: int) -> None:
    for one, other in product(range(1, size), repeat=2):
        if one + other > size:
            continue
        kinds = ["a"] * one + ["b"] * other + ["x"] * (size - one - other)
        apart = sum(
            all({kinds[cycle[i - 1]], kinds[cycle[i]]} != {"a", "b"} for i in range(size))
            for rest in permutations(range(1, size))
            for cycle in [(0, *rest)]
        )
        counted = Fraction(apart, math.factorial(size - 1))
        assert math.exp(ln_separated(one, other, size)) == pytest.approx(float(counted), rel=1e-12)


def test_separation_of_large_sets_is_summed_exactly() -> None:
    for one, other, size in ((40, 90, 200), (3, 500, 1000), (300, 300, 1000), (1, 2, 60)):
        neutral = size - one - other
        ways = sum(
            math.comb(neutral, gaps) * math.comb(one - 1, gaps - 1) * math.comb(other + neutral - gaps - 1, other)
            for gaps in range(1, min(one, neutral - 1) + 1)
        )
        exact = Fraction(
            math.factorial(neutral - 1) * math.factorial(one) * math.factorial(other) * ways, math.factorial(size - 1)
        )
        expected = math.log(exact.numerator) - math.log(exact.denominator)
        assert ln_separated(one, other, size) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "cycles"), [(4, 2), (5, 2), (6, 3), (8, 2), (7, 3)])
def test_degrees_are_counted_exactly(n: int, cycles: int) -> None:
    pairs = list(combinations(range(n - 1), 2))
    found = Counter(len({*map(int, sum(drawn, ()))}) for drawn in product(pairs, repeat=cycles))
    for degree, likely in enumerate(degrees(n, cycles)):
        assert likely == pytest.approx(found[degree] / len(pairs) ** cycles, abs=1e-15)


def test_degrees_are_certain_to_lie_somewhere() -> None:
    for n, cycles in ((5, 2), (60, 14), (1000, 100), (40, 38)):
        assert math.fsum(degrees(n, cycles)) == pytest.approx(1, abs=1e-12)


def test_the_tail_is_bounded_from_above_and_sharply_where_it_is_small() -> None:
    for population, marked, drawn in ((20, 6, 8), (50, 5, 20), (30, 30, 4), (900, 300, 60), (12, 0, 5)):
        total = math.comb(population, drawn)
        for least in range(drawn + 2):
            exact = sum(
                Fraction(math.comb(marked, i) * math.comb(population - marked, drawn - i), total)
                for i in range(least, drawn + 1)
            )
            bound = math.exp(graph_bounds._upper_tail(population, marked, drawn, least))
            assert bound >= float(exact) * (1 - 1e-9)
            if exact < Fraction(1, 1000):
                assert bound <= 2 * float(exact)


# --- the whole, against an adversary ---


def cut_apart(graph: MaskingGraph, honest: frozenset[str], dropouts: int) -> bool:
    """Say whether the coordinator, which has seen the graph, can drop honest participants so that others fall apart."""
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
    found = sum(cut_apart(one, honest_of(one, f), dropouts) for one in graphs(n, k, contexts)) / contexts
    deviation = math.sqrt(bound / contexts)
    assert found <= bound + 4 * deviation
    assert found >= bound / 3 - 4 * deviation, "the bound is of the right size"
    # Somebody who is absent from the start is of less use than somebody who is dropped with the graph in view.
    shrunk = sum(cut_apart(one, honest_of(one, f), dropouts - 1) for one in graphs(n, k, contexts, absent=1)) / contexts
    assert shrunk <= found
    fewer = (
        sum(cut_apart(one, honest_of(one, f - 1), dropouts) for one in graphs(n, k, contexts)) / contexts if f else 0
    )
    assert fewer <= found, "colluders that are none only help"


@pytest.mark.parametrize(
    ("n", "k", "f", "dropouts", "threshold"), [(20, 6, 4, 2, 5), (20, 6, 4, 2, 6), (16, 8, 3, 3, 6), (24, 10, 6, 0, 8)]
)
def test_holders_with_their_colluders_reach_two_thresholds_no_more_often_than_is_bounded(
    n: int, k: int, f: int, dropouts: int, threshold: int
) -> None:
    contexts = 3000
    bound = 2 ** failure(Cohort(n, f, dropouts, **ONCE), neighbours=k, share_threshold=threshold).neighbourhoods

    def lost(graph: MaskingGraph) -> bool:
        honest = honest_of(graph, f)
        return any(
            2 * threshold <= len(holders) + len(holders - honest)
            for holders in (frozenset(graph.holders(name)) for name in honest)
        )

    for absent in (0, dropouts):
        found = sum(map(lost, graphs(n, k, contexts, absent=absent))) / contexts
        assert found <= bound + 4 * math.sqrt(bound / contexts)
    assert found >= bound / 4, "the bound is of the right size"


def test_no_set_of_holders_gives_both_secrets_of_one_participant() -> None:
    """2t > |holders| + colluders: even if honest holders were told different things, colluders telling both."""
    for holders, colluders in product(range(1, 30), range(10)):
        threshold = (holders + colluders) // 2 + 1
        for one_kind in range(holders - colluders + 1):
            other_kind = holders - colluders - one_kind
            assert not (one_kind + colluders >= threshold and other_kind + colluders >= threshold)


# --- what is recommended ---

TABLE = re.compile(r"<!-- begin table.*?-->\n(.*?)<!-- end table -->", re.DOTALL)


def recommended() -> list[tuple[int, ...]]:
    """Return n, f, D, k, t, mean number of neighbours and log2 of both bounds, as docs/graphs.md has them."""
    found = TABLE.search((Path(__file__).parents[2] / "docs" / "graphs.md").read_text())
    assert found is not None
    rows = found[1].replace("-inf", "-9999").splitlines()[2:]
    return [tuple(int(cell) for cell in row.strip("|").split("|")) for row in rows]


@pytest.mark.parametrize("row", recommended(), ids=str)
def test_what_the_document_recommends_is_accepted_and_less_is_refused(row: tuple[int, ...]) -> None:
    n, f, dropouts, k, t, mean, neighbourhoods, connectivity = row
    assert recommend(n, f, dropouts, rounds=100, attempts=3) == (k, t)
    cohort = Cohort(n, f, dropouts, 100, 3)
    found = failure(cohort, neighbours=k, share_threshold=t)
    assert round(max(-9999, found.neighbourhoods)) == neighbourhoods
    assert round(found.connectivity) == connectivity
    assert round(sum(degree * likely for degree, likely in enumerate(degrees(n, k // 2)))) == mean
    check(cohort, neighbours=k, share_threshold=t)
    with pytest.raises(ValueError, match="too weak in neighbourhoods"):
        check(cohort, neighbours=k, share_threshold=t - 2)


def test_fifty_two_neighbours_of_a_thousand_withstand_ten_colluders_and_ten_dropouts_and_not_twenty() -> None:
    check(Cohort(1000, 10, 10, 100, 3), neighbours=52, share_threshold=37)
    for f, dropouts, part in ((20, 20, "connectivity"), (50, 10, "neighbourhoods"), (333, 1, "neighbourhoods")):
        with pytest.raises(ValueError, match=f"too weak in {part}: k=52, t=37"):
            check(Cohort(1000, f, dropouts, 100, 3), neighbours=52, share_threshold=37)


def test_a_coordinator_with_half_of_the_roster_is_withstood_by_no_k_regular_graph() -> None:
    assert failure(Cohort(100, 50, 0, **ONCE), neighbours=96, share_threshold=90).connectivity >= 0
    assert failure(Cohort(100, 49, 0, **ONCE), neighbours=96, share_threshold=90).connectivity < 0


def test_where_nothing_is_strong_enough_that_is_said() -> None:
    for cohort in ((600, 199, 60), (40, 1, 2), (50, 3, 5)):
        with pytest.raises(ValueError, match="no k-regular graph over"):
            recommend(*cohort, rounds=100, attempts=3)


def test_more_rounds_attempts_colluders_or_dropouts_are_never_easier_to_withstand() -> None:
    base = (1000, 50, 20, 100, 3)
    known = recommend(*base)
    for harder in ((1000, 60, 20, 100, 3), (1000, 50, 30, 100, 3), (1000, 50, 20, 10**6, 3), (1000, 50, 20, 100, 99)):
        assert recommend(*harder) >= known
    assert Cohort(*base).bits == pytest.approx(100 + math.log2(300))


def test_a_recommended_graph_keeps_enough_holders_when_as_many_drop_out_as_may() -> None:
    n, f, dropouts = 513, 5, 5
    k, t = recommend(n, f, dropouts, rounds=100, attempts=3)
    members = tuple(f"p{i:03d}" for i in range(n))
    for number in range(20):
        graph = masking_graph(members, round_ctx=number.to_bytes(32, "big"), neighbours=k)
        there = frozenset(members[number : number + n - dropouts])
        assert min(len(there & set(graph.holders(name))) for name in members) >= t
