"""How strong a k-regular graph is, and which one a plan should name.

Guarantees: every probability here is an upper bound. Sums have positive terms only, so that rounding stays relative
(below 2^-30 in all), and a bit of margin stands against it; what underflows is below 2^-1000.
Leaves to others: the graph itself (``graph``), and how a plan names it (``plan``).
Source: docs/graphs.md, whose sections are cited; exact hypergeometric terms throughout.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

SECURITY_BITS: Final = 40  # the claim of a k-regular plan fails with probability at most 2^-40 over the whole run
GRINDING_BITS: Final = 60  # coordinator and colluders may try 2^60 choices of nonces and U1 in an attempt
LIVENESS_BITS: Final = 20  # an attempt that loses D at random lacks shares with at most this probability
MARGIN_BITS: Final = 1  # against rounding
NEVER: Final = -math.inf
_TAIL: Final = 1e-18  # of a sum, beyond which its terms are not added any more
_REFINED_BITS: Final = 24  # terms that lie so far below what is asked for need no sharper bound


@dataclass(frozen=True, slots=True)
class Cohort:
    """What a graph must withstand: n on the roster, f colluders, D dropouts, and how often it is drawn in a run."""

    n: int
    f: int
    max_dropouts: int
    rounds: int
    attempts: int

    @property
    def bits(self) -> float:
        """Within how many bits an attempt's graph may fail, whichever context the coordinator picks (section 2)."""
        return SECURITY_BITS + GRINDING_BITS + math.log2(self.rounds * self.attempts)

    @property
    def honest(self) -> int:
        """How many are honest at least; where there are more the bounds still hold (section 2)."""
        return self.n - self.f


@dataclass(frozen=True, slots=True)
class Failure:
    """Upper bounds on log2 of the probability that the graph of one context fails."""

    neighbourhoods: float  # colluders around somebody honest hold t - 1 shares of its secrets or more (section 4)
    connectivity: float  # honest survivors can be cut apart (section 5)

    @property
    def total(self) -> float:
        """Of either."""
        return _log2_sum((self.neighbourhoods, self.connectivity)) + MARGIN_BITS


def failure(cohort: Cohort, *, neighbours: int, share_threshold: int) -> Failure:
    """Return how likely the graph of one context is to fail (sections 4 and 5)."""
    log2 = math.log(2)
    return Failure(
        neighbourhoods=_surrounded(cohort, neighbours, share_threshold) / log2,
        connectivity=_cut_apart(cohort, neighbours) / log2,
    )


@lru_cache(maxsize=64)  # a plan is parsed many times
def check(cohort: Cohort, *, neighbours: int, share_threshold: int) -> None:
    """Refuse a graph that is too weak for its cohort.

    Raises:
        ValueError: which rule it breaks.
    """
    k, t, n = neighbours, share_threshold, cohort.n
    if not (2 <= k < n - 1 and k % 2 == 0):
        raise ValueError(f"a k-regular graph over {n} has an even number of neighbours from 2 to {n - 2}, not {k}")
    if not 2 <= t <= k + 1:
        raise ValueError(f"share_threshold must be from 2 to neighbours + 1 = {k + 1}")
    found = failure(cohort, neighbours=k, share_threshold=t)
    if found.total > -cohort.bits:
        part = max(("neighbourhoods", "connectivity"), key=lambda name: float(getattr(found, name)))
        likely, asked = min(0, math.ceil(found.total)), math.ceil(cohort.bits)
        raise ValueError(
            f"the graph is too weak in {part}: k={k}, t={t} with f={cohort.f} and max_dropouts={cohort.max_dropouts} "
            f"of {n} fails with probability 2^{likely} in an attempt, where 2^-{asked} is asked"
        )


def recommend(n: int, f: int, max_dropouts: int, rounds: int, attempts: int) -> tuple[int, int]:
    """Return the fewest neighbours k found, and t, that are strong enough and outlive D dropouts (section 9).

    Raises:
        ValueError: no k-regular graph over n is.
    """
    cohort = Cohort(n, f, max_dropouts, rounds, attempts)
    below, k = 0, _least_connected(cohort)
    while k < n - 1:
        if _share_threshold(cohort, k) is not None:
            candidates = range(below + 2 if below else k, k + 1, 2)  # what the last step jumped over, and this one
            return next(
                (candidate, t) for candidate in candidates if (t := _share_threshold(cohort, candidate)) is not None
            )
        below, k = k, k + 2 * max(1, k // 32)
    raise ValueError(
        f"no k-regular graph over {n} withstands {f} colluders and {max_dropouts} dropouts: tolerate fewer of either"
    )


def _least_connected(cohort: Cohort) -> int:
    """Return the least even k that keeps honest survivors together; more cycles never hurt."""
    low, high = 1, cohort.n // 2  # cycles
    while low < high:
        middle = (low + high) // 2
        if _cut_apart(cohort, 2 * middle) <= _half(cohort):
            high = middle
        else:
            low = middle + 1
    return 2 * low


def _share_threshold(cohort: Cohort, neighbours: int) -> int | None:
    """Return the least t that withstands the colluders, unless dropouts would leave too few holders."""
    low, high = 2, neighbours + 2
    while low < high:
        middle = (low + high) // 2
        if _surrounded(cohort, neighbours, middle) <= _half(cohort):
            high = middle
        else:
            low = middle + 1
    lacking = _too_few_holders(cohort, neighbours, low)  # surely, if no t withstands them
    return low if lacking <= -LIVENESS_BITS * math.log(2) else None


def _half(cohort: Cohort) -> float:
    """Return the natural logarithm of what each of the two parts may fail with."""
    return -(cohort.bits + MARGIN_BITS + 1) * math.log(2)


# --- sections 3 and 4: neighbourhoods ---


@lru_cache(maxsize=64)
def degrees(n: int, cycles: int) -> tuple[float, ...]:
    """Return how likely a participant is to have 0, 1, 2, ... distinct neighbours (section 3).

    In each cycle its two neighbours are a uniformly random pair of the others.
    """
    others = n - 1
    pairs = others * (others - 1) / 2
    found = [1.0] + [0.0] * (2 * cycles + 2)
    for cycle in range(cycles):
        for known in range(2 * cycle, -1, -1):  # from above: what is added to lies behind
            likely = found[known]
            if likely == 0.0:
                continue
            fresh = others - known
            found[known] = likely * (known * (known - 1) / 2 / pairs)
            if fresh > 0:
                found[known + 1] += likely * (known * fresh / pairs)
                found[known + 2] += likely * (fresh * (fresh - 1) / 2 / pairs)
    return tuple(found[: min(2 * cycles, others) + 1])


def _surrounded(cohort: Cohort, neighbours: int, share_threshold: int) -> float:
    """Return ln P(colluders among somebody honest's neighbours hold at least t - 1 of its shares) (section 4)."""
    others = cohort.n - cohort.max_dropouts - 1  # of the smallest U1, all colluders in it
    terms = [
        math.log(likely) + _upper_tail(others, cohort.f, min(known, others), share_threshold - 1)
        for known, likely in enumerate(degrees(cohort.n, neighbours // 2))
        if likely > 0.0
    ]
    return math.log(cohort.n) + _ln_sum(terms)


def _too_few_holders(cohort: Cohort, neighbours: int, share_threshold: int) -> float:
    """Return ln P(of somebody fewer than t holders are left when D at random drop out) (section 8)."""
    n, dropouts = cohort.n, cohort.max_dropouts
    groups = [(n - dropouts, dropouts, 2)]  # survivors hold a share of their own
    if dropouts:
        groups.append((dropouts, dropouts - 1, 1))  # of who dropped out itself, one fewer among the others
    terms = [
        math.log(many) + math.log(likely) + _upper_tail(n - 1, others, known, known + spare - share_threshold)
        for known, likely in enumerate(degrees(n, neighbours // 2))
        if likely > 0.0
        for many, others, spare in groups
    ]
    return _ln_sum(terms)


def _upper_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """Return an upper bound on ln P(at least so many of those drawn without replacement are marked).

    Beyond the mode terms fall at least as fast as the first two do: a geometric series bounds them.
    """
    least = max(least, 0, drawn - (population - marked))
    if least > min(marked, drawn):
        return NEVER
    first = _ln_choose(marked, least) + _ln_choose(population - marked, drawn - least) - _ln_choose(population, drawn)
    ratio = (marked - least) * (drawn - least) / ((least + 1) * (population - marked - drawn + least + 1))
    return min(0.0, first - math.log1p(-ratio)) if ratio < 1 else 0.0


# --- section 5: connectivity ---


@lru_cache(maxsize=64)
def _cut_apart(cohort: Cohort, neighbours: int) -> float:
    """Return ln P(at most D dropouts can cut honest survivors apart) (section 5)."""
    return _ln_sum([_cut_off(cohort, neighbours // 2, part) for part in range(1, cohort.n // 2 + 1)])


def _cut_off(cohort: Cohort, cycles: int, part: int) -> float:
    """Return ln of a bound on P(some honest set of this size has few enough honest neighbours to be cut off)."""
    sets, rest = _ln_choose(cohort.n, part), cohort.honest - part
    budget = min(cohort.max_dropouts, cohort.n - 2 * part)
    if rest <= budget:
        return 0.0  # a half that might be all of the honest ones: no bound is known

    def bound(around: int) -> float:
        surroundings = _ln_choose(rest, around) - _ln_choose(rest - budget, around - budget)
        return sets + surroundings + cycles * ln_separated(part, rest - around, cohort.n)

    return _descended(bound, range(budget, rest), enough=-(cohort.bits + _REFINED_BITS) * math.log(2))


def _descended(bound: Callable[[int], float], where: range, *, enough: float) -> float:
    """Return a small value of a function by steps downhill from the range's start; any value of it would do."""
    at, step = where.start, max(1, where.start // 4)
    value = bound(at)
    while step and value > enough:
        better = next(
            ((one, tried) for one in (at + step, at - step) if one in where and (tried := bound(one)) < value), None
        )
        if better is None:
            step //= 2
        else:
            at, value = better
    return value


@lru_cache(maxsize=4096)
def ln_separated(one: int, other: int, size: int) -> float:
    """Return ln P(in a random cycle over ``size`` nobody of one set stands beside anybody of another) (section 5).

    Args:
        one: size of a set, at least 1.
        other: size of another, disjoint one, at least 1.
        size: of the cycle.
    """
    neutral = size - one - other
    if neutral < 2:
        return NEVER
    last = min(one, neutral - 1)  # gaps between neutrals that the first set may fill

    def ratio(gaps: int) -> float:
        """The term of one more gap over that of so many; it falls."""
        placed = (neutral - gaps) * (one - gaps) * (neutral - gaps - 1)
        return placed / ((gaps + 1) * gaps * (other + neutral - gaps - 1))

    mode = bisect_left(range(1, last), True, key=lambda gaps: ratio(gaps) < 1) + 1
    total = 1.0
    for factors in (map(ratio, range(mode, last)), (1 / ratio(gaps) for gaps in range(mode - 1, 0, -1))):
        term = 1.0
        for factor in factors:
            term *= factor
            total += term
            if term < _TAIL * total:
                break
    largest = _ln_choose(neutral, mode) + _ln_choose(one - 1, mode - 1)
    largest += _ln_choose(other + neutral - mode - 1, other)
    arrangements = _ln_factorial(neutral - 1) + _ln_factorial(one) + _ln_factorial(other) - _ln_factorial(size - 1)
    return min(0.0, arrangements + largest + math.log(total))


# --- logarithms ---


@cache
def _ln_factorial(n: int) -> float:
    return math.lgamma(n + 1)


def _ln_choose(n: int, k: int) -> float:
    return _ln_factorial(n) - _ln_factorial(k) - _ln_factorial(n - k)


def _ln_sum(logarithms: Sequence[float]) -> float:
    """Return the logarithm of a sum."""
    largest = max(logarithms, default=NEVER)
    if largest == NEVER:
        return NEVER
    return largest + math.log(math.fsum(math.exp(logarithm - largest) for logarithm in logarithms))


def _log2_sum(logarithms: Sequence[float]) -> float:
    return _ln_sum([logarithm * math.log(2) for logarithm in logarithms]) / math.log(2)
