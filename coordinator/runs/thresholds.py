"""What a run is to withstand: from an operator's wishes and the roster's size to f, least survivors, and a graph.

Guarantees: numbers that a plan may have, or a refusal that says which option to change and to what.
Leaves to others: the rules (``privacy.plan``, ``privacy.secagg.graph_bounds``), noise and ring (``creation``).
Source: docs/protocol.md sections 2 and 9; docs/graphs.md section 9.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from privacy.errors import LocalError
from privacy.plan import COMPLETE_GRAPH_MAX, default_f, default_survivors, least_survivors
from privacy.plan_parts import Graph
from privacy.secagg import graph_bounds

GraphKind = Literal["complete", "k-regular"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What the operator asks for; ``None`` takes the default."""

    f: int | None = None
    min_survivors: int | None = None
    graph: GraphKind = "complete"
    max_dropouts: int | None = None  # of a k-regular graph: n - min_survivors


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Colluders and dropouts that a plan withstands, and the graph on which it does."""

    f: int
    min_survivors: int
    graph: Graph


def choose(wanted: Requested, n: int, *, with_operator: int, rounds: int, attempts: int) -> Tolerance:
    """Return what a plan over n members withstands.

    Args:
        wanted: the operator's wishes.
        n: size of the roster.
        with_operator: members whose organisation runs the coordinator too; f counts them.
        rounds: of the run; a k-regular graph is drawn anew in each of their attempts.
        attempts: of a round, at most.

    Raises:
        LocalError: ``E-RUN-TOLERANCE``, naming the option to change.
    """
    f = default_f(n, with_operator) if wanted.f is None else wanted.f
    if f < with_operator:
        raise LocalError(
            "E-RUN-TOLERANCE", f"--f must be at least {with_operator}: as many participants run the coordinator"
        )
    survivors = _survivors(wanted, n, f)
    graph = _graph(
        wanted.graph, graph_bounds.Cohort(n, f, n - survivors, rounds, attempts), least_f=max(1, with_operator)
    )
    return Tolerance(f=f, min_survivors=survivors, graph=graph)


def _survivors(wanted: Requested, n: int, f: int) -> int:
    least, dropouts = least_survivors(n, f), wanted.max_dropouts
    if f >= n or least > n:
        raise LocalError("E-RUN-TOLERANCE", f"--f {f} is too many for {n} participants: {least} would have to survive")
    if dropouts is None:
        survivors = default_survivors(n, f) if wanted.min_survivors is None else wanted.min_survivors
        if not least <= survivors <= n:
            raise LocalError("E-RUN-TOLERANCE", f"--min-survivors must be from {least} to {n}")
        return survivors
    if wanted.graph == "complete":
        raise LocalError(
            "E-RUN-TOLERANCE", "--max-dropouts belongs to --graph k-regular; otherwise use --min-survivors"
        )
    if wanted.min_survivors not in (None, n - dropouts):
        rule = f"--min-survivors {wanted.min_survivors} contradicts --max-dropouts {dropouts}"
        raise LocalError("E-RUN-TOLERANCE", f"{rule}: of {n} members {n - dropouts} would survive; give one of the two")
    if not 0 <= dropouts <= n - least:
        rule = f"--max-dropouts must be from 0 to {n - least}"
        raise LocalError("E-RUN-TOLERANCE", f"{rule}: with --f {f} at least {least} of {n} members have to survive")
    return n - dropouts


def _graph(kind: GraphKind, cohort: graph_bounds.Cohort, *, least_f: int) -> Graph:
    if kind == "complete" and cohort.n <= COMPLETE_GRAPH_MAX:
        return Graph()
    found = _recommended(cohort, cohort.f, cohort.max_dropouts)
    if kind == "complete":
        rule = f"more than {COMPLETE_GRAPH_MAX} members need --graph k-regular, whose claim is a weaker one"
        here = f"; here everybody would mask with at most {found[0]} others" if found else ""
        raise LocalError("E-RUN-TOLERANCE", f"{rule} (docs/graphs.md){here}")
    if found is None:
        raise LocalError("E-RUN-TOLERANCE", _nowhere(cohort, least_f))
    neighbours, share_threshold = found
    return Graph(
        kind="k-regular", neighbours=neighbours, share_threshold=share_threshold, max_dropouts=cohort.max_dropouts
    )


def _recommended(cohort: graph_bounds.Cohort, f: int, dropouts: int) -> tuple[int, int] | None:
    try:
        return graph_bounds.recommend(cohort.n, f, dropouts, cohort.rounds, cohort.attempts)
    except ValueError:
        return None


def _nowhere(cohort: graph_bounds.Cohort, least_f: int) -> str:
    """Return why there is no graph, and with how many dropouts or colluders fewer there would be one."""
    n, f, dropouts = cohort.n, cohort.f, cohort.max_dropouts
    ways = []
    if (fewer := _most(range(dropouts), lambda one: _recommended(cohort, f, one) is not None)) is not None:
        ways.append(f"--max-dropouts {fewer}")
    if (fewer := _most(range(least_f, f), lambda one: _recommended(cohort, one, dropouts) is not None)) is not None:
        ways.append(f"--f {fewer}")
    if n <= COMPLETE_GRAPH_MAX:
        ways.append(f"--graph complete, where each masks with all {n - 1} others and the claim is the stronger one")
    return (
        f"no k-regular graph over {n} members withstands f = {f} and {dropouts} dropouts: whatever k is, somebody "
        f"could be left without honest neighbours or holders (docs/graphs.md, section 9); possible are "
        f"{'; '.join(ways) or 'fewer of both'}"
    )


def _most(candidates: range, fits: Callable[[int], bool]) -> int | None:
    """Return the largest candidate that fits, if any does; what is smaller than one that fits, fits as well."""
    fitting = bisect_left(candidates, True, key=lambda candidate: not fits(candidate))
    return candidates[fitting - 1] if fitting else None
