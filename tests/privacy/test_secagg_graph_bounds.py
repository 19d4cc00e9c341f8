"""The bounds of docs/graphs.md against exact counts and against an adversary that sees the graph."""

from __future__ import annotations

import math
import re
from collections import Counter
from fractions import Fraction
from itertools import combinations, permutations, product
from pathlib import Path

import pytest

from privacy.canonical import Json
from privacy.errors import PlanError
from privacy.secagg import graph_bounds
from privacy.secagg.graph import masking_graph
from privacy.secagg.graph_bounds import Cohort, check, degrees, failure, ln_separated, recommend
from tests.worlds.plans import make_plan

ONCE = {"rounds": 1, "attempts": 1}


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
    for population, marked, drawn in ((20, 6, 8), (7, 2, 2), (50, 5, 20), (30, 30, 4), (900, 300, 60), (12, 0, 5)):
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


# --- what is recommended ---

TABLE = re.compile(r"<!-- begin table.*?-->\n(.*?)<!-- end table -->", re.DOTALL)


def recommended() -> list[tuple[float, ...]]:
    """Return n, f, D, k, t, mean number of neighbours, log2 of both bounds and bits, as docs/graphs.md has them."""
    found = TABLE.search((Path(__file__).parents[2] / "docs" / "graphs.md").read_text())
    assert found is not None
    rows = found[1].replace("-inf", "-9999").splitlines()[2:]
    return [tuple(map(float, row.strip("|").split("|"))) for row in rows]


@pytest.mark.parametrize("row", recommended(), ids=str)
def test_what_the_document_recommends_is_accepted_and_less_is_refused(row: tuple[float, ...]) -> None:
    n, f, dropouts, k, t, mean = map(int, row[:6])
    neighbourhoods, connectivity, bits = row[6:]
    assert recommend(n, f, dropouts, rounds=100, attempts=3) == (k, t)
    cohort = Cohort(n, f, dropouts, 100, 3)
    found = failure(cohort, neighbours=k, share_threshold=t)
    assert round(max(-9999, found.neighbourhoods)) == neighbourhoods
    assert round(found.connectivity) == connectivity
    assert round(-found.total, 1) == bits >= cohort.bits
    assert round(sum(degree * likely for degree, likely in enumerate(degrees(n, k // 2)))) == mean
    check(cohort, neighbours=k, share_threshold=t)
    with pytest.raises(ValueError, match="too weak in neighbourhoods"):
        check(cohort, neighbours=k, share_threshold=t - 2)


def test_fifty_two_neighbours_of_a_thousand_withstand_sixty_colluders_and_ten_dropouts_and_not_twenty_of_each() -> None:
    check(Cohort(1000, 60, 10, 100, 3), neighbours=52, share_threshold=37)
    for f, dropouts, part in ((20, 20, "connectivity"), (80, 10, "neighbourhoods"), (333, 1, "neighbourhoods")):
        with pytest.raises(ValueError, match=f"too weak in {part}: k=52, t=37"):
            check(Cohort(1000, f, dropouts, 100, 3), neighbours=52, share_threshold=37)


@pytest.mark.parametrize("n", [513, 600, 1000, 2048, 4096])
def test_above_the_complete_graph_a_third_may_collude_and_a_tenth_drop_out(n: int) -> None:
    k, t = recommend(n, (n - 1) // 3, n // 10, rounds=100, attempts=3)
    assert t < k < n / 2


def test_a_coordinator_with_half_of_the_roster_is_withstood_by_no_k_regular_graph() -> None:
    half = failure(Cohort(100, 50, 0, **ONCE), neighbours=96, share_threshold=90)
    assert 0 <= half.connectivity < 10
    assert failure(Cohort(100, 49, 0, **ONCE), neighbours=96, share_threshold=90).connectivity < 0


def test_neighbours_and_threshold_keep_their_limits() -> None:
    alone, pair = Cohort(5, 0, 0, **ONCE), Cohort(60, 1, 2, **ONCE)
    for cohort, k, t in ((alone, 2, 2), (alone, 2, 3), (pair, 58, 31)):
        check(cohort, neighbours=k, share_threshold=t)
    for cohort, k in ((pair, 60), (pair, 0), (pair, 57), (Cohort(61, 1, 2, **ONCE), 60)):
        with pytest.raises(ValueError, match=f"an even number of neighbours from 2 to {cohort.n - 2}, not {k}"):
            check(cohort, neighbours=k, share_threshold=31)
    for t in (1, 4):
        with pytest.raises(ValueError, match=r"share_threshold must be from 2 to neighbours \+ 1 = 3"):
            check(alone, neighbours=2, share_threshold=t)


def test_where_nothing_is_strong_enough_that_is_said() -> None:
    with pytest.raises(ValueError, match="no k-regular graph over"):
        recommend(50, 3, 5, rounds=100, attempts=3)


@pytest.mark.parametrize(
    ("n", "most"), [(80, 0), (81, 1), (100, 4), (200, 29), (513, 125), (600, 155), (1000, 294)], ids=str
)
def test_with_a_third_colluding_this_is_the_largest_number_of_dropouts_for_which_there_is_a_graph(
    n: int, most: int
) -> None:
    f = (n - 1) // 3
    recommend(n, f, most, rounds=100, attempts=3)
    with pytest.raises(ValueError, match=f"no k-regular graph over {n} withstands {f} colluders and {most + 1}"):
        recommend(n, f, most + 1, rounds=100, attempts=3)


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


def test_a_plan_of_six_hundred_with_a_third_colluding_and_a_tenth_dropping_out_is_accepted() -> None:
    k, t = recommend(600, 199, 60, rounds=3, attempts=3)
    graph: dict[str, Json] = {"kind": "k-regular", "neighbours": k, "share_threshold": t, "max_dropouts": 60}
    plan, _ = make_plan(600, 199, min_survivors=540, graph=graph)
    assert (plan.graph.neighbours, plan.share_threshold) == (k, t)
    with pytest.raises(PlanError, match="too weak in neighbourhoods"):
        make_plan(600, 199, min_survivors=540, graph={**graph, "share_threshold": t - 2})
