"""From events to epsilon: privacy loss distributions, checked against two independent upper bounds.

Guarantees: every figure is pessimistic and has the 1e-9 of the lemma added; it is refused when it exceeds a bound that
is known to be valid (``E-ACCOUNTANT-DISAGREE``). No torch.
Leaves to others: what is charged (``privacy.ledger``), the mechanism's integers (``calibration``).
Source: docs/privacy-accounting.md sections 5 to 7; dp-accounting (Google), pessimistic connect-the-dots PLD.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from privacy.dp import rdp
from privacy.dp.events import Composed, Event, Relation, Step, round_event, steps, upward
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.secagg.graph_bounds import SECURITY_BITS

LEMMA_SLACK: Final = 1e-9  # covers everything between discrete and continuous Gaussians (< 1e-60) and double rounding
COARSEST_GRID: Final = 1e-2
FINEST_GRID: Final = 2e-5  # construction takes seconds there
FINEST_PAIR_GRID: Final = 1e-3  # of the mixture, whose construction is slower
SMALLEST_EPSILON: Final = 1e-3  # smaller figures keep its grid
GRID_ERROR: Final = 0.0005  # the grid costs about T*grid^2/3 of epsilon: this keeps it near 0.02%
LOG_TAIL: Final = -50.0  # the library's own default; smaller where delta or the number of steps asks for it
TAIL_SHARE: Final = 1e-6  # of delta that truncation may cost
STEP_ROUNDING: Final = 1e-15  # of delta, that Fourier transforms in doubles get wrong a step: 7e-17 at most was seen
ROUNDING_SHARE: Final = 0.1  # of delta that this may be in all before the Renyi bound is the better figure
MOST_CELLS: Final = 2e6  # of one step's grid, which bounds time and memory whatever a plan asks
HOPELESS_EPSILON: Final = 1e4  # only the size matters beyond
LARGE_EPSILON: Final = 50.0  # above it the grid grows with epsilon: only the size matters
GRAPH_FAILURE: Final = 2.0**-SECURITY_BITS  # probability that a k-regular run's masks do not hide everybody
AGREEMENT: Final = 1e-6  # double rounding when a bound is tight
_FRACTIONAL_ORDERS: Final = tuple(1 + tenth / 10 for tenth in range(5, 100))
_RELATIONS: Final = {
    "zero-out": NeighboringRelation.ADD_OR_REMOVE_ONE,  # the same numbers (docs/privacy-accounting.md section 1)
    "replace-one": NeighboringRelation.REPLACE_ONE,
}
_Steps = tuple[tuple[Step, int], ...]


def epsilon(events: Event | Iterable[Event], delta: float, *, relation: Relation = "zero-out") -> float:
    """Return the epsilon of some events together at ``delta``, by pessimistic PLD plus 1e-9; 0 for no events.

    The events' parameters must have been fixed in advance (one run); across runs that are chosen adaptively use the
    ledger's filter.

    Raises:
        ValueError: delta is not between 0 and 1.
    """
    return _epsilon(_sorted(events), _valid(delta), relation)


def group_of_two(events: Event | Iterable[Event], delta: float) -> float:
    """Return the epsilon for a person who is two units of privacy (for example a row at each of two participants).

    The two are sampled independently, so a step's shift is 0, 1 or 2 sensitivities, aligned in the worst case: a
    mixture of Gaussians (Choquette-Choo, Ganesh, Steinke, Thakurta 2024, section 4).
    """
    return _group(_sorted(events), _valid(delta))


@dataclass(frozen=True, slots=True)
class CrossChecks:
    """The same spend by three accountants; ``pld`` is the claim, the others are valid and looser."""

    pld: float
    rdp: float
    general: float


def cross_checked(events: Event | Iterable[Event], delta: float) -> CrossChecks:
    """Return a spend by all three accountants.

    Raises:
        LocalError: ``E-ACCOUNTANT-DISAGREE``, the PLD exceeds a bound that is known to be valid.
    """
    checks = _cross_checks(_sorted(events), _valid(delta))
    for name, bound in (("RDP", checks.rdp), ("the general subsampling bound", checks.general)):
        if checks.pld > bound * (1 + AGREEMENT) + LEMMA_SLACK:
            raise LocalError("E-ACCOUNTANT-DISAGREE", f"PLD gives epsilon {checks.pld:.6g}, {name} {bound:.6g}")
    return checks


@dataclass(frozen=True, slots=True)
class TrustEpsilons:
    """Three epsilons of a whole run, by who is trusted, with the number of noises that each relies on."""

    outsiders: float  # who sees only what is released: every survivor's noise counts
    charged: float  # the coordinator with max(f, 1) participants: what the ledger charges
    all_others: float  # everyone else colludes: only this participant's own noise counts
    outsiders_noise: int
    charged_noise: int
    all_others_noise: int


def trust_epsilons(plan: Plan, rounds: int | None = None) -> TrustEpsilons | None:
    """Return a plan's three epsilons over some rounds (all by default), or None in mode ``none``.

    A completed round's sum carries at least ``min_survivors`` noises, which is what outsiders face. In mode ``local``
    all three are equal, because each participant relies on its own noise alone.
    """
    if not plan.privacy.noised:
        return None
    charged = plan.privacy.honest_noise
    noises = (1, 1, 1) if plan.privacy.mode == "local" else (plan.min_survivors, charged, 1)
    delta = plan_delta(plan)
    count = plan.recipe.rounds if rounds is None else rounds
    outsiders, middle, others = (epsilon(_repeat(plan, noise, count), delta) for noise in noises)
    return TrustEpsilons(outsiders, middle, others, *noises)


def plan_delta(plan: Plan) -> float:
    """Return the delta at which a plan's events are added up.

    On a k-regular graph the masks themselves fail with probability 2^-40 over the run, which is taken off the plan's
    delta first.
    """
    return float(plan.privacy.delta) - (GRAPH_FAILURE if plan.graph.kind == "k-regular" else 0.0)


def require_claim(plan: Plan) -> None:
    """Refuse a plan whose integers spend more than it claims.

    Raises:
        LocalError: ``E-PLAN-CLAIM``.
    """
    spent, claimed = run_epsilon(plan), plan.privacy.epsilon
    if spent is not None and spent > float(claimed) * (1 + AGREEMENT):
        raise LocalError("E-PLAN-CLAIM", f"the plan claims epsilon {claimed}, its integers give {upward(spent, 4)}")


def run_epsilon(plan: Plan, rounds: int | None = None) -> float | None:
    """Return the charged epsilon of a run alone at the plan's delta, or None in mode ``none``."""
    if not plan.privacy.noised:
        return None
    count = plan.recipe.rounds if rounds is None else rounds
    return epsilon(_repeat(plan, plan.privacy.honest_noise, count), plan_delta(plan))


def spend_curve(event: Event, rounds: int, delta: float, *, points: int = 24) -> tuple[tuple[int, float], ...]:
    """Return (rounds, epsilon) at up to ``points`` rounds evenly from the first to the last; epsilon never falls."""
    if rounds < 1:
        return ()
    spaced = sorted({1, rounds, *(round(1 + i * (rounds - 1) / (points - 1)) for i in range(points))})
    curve: list[tuple[int, float]] = []
    for count in spaced:
        value = epsilon(Composed(event, count), delta)
        curve.append((count, max(value, curve[-1][1] if curve else 0.0)))  # a change of grid must not show as a refund
    return tuple(curve)


def _repeat(plan: Plan, honest_noise: int, rounds: int) -> tuple[Event, ...]:
    event = round_event(plan, honest_noise=honest_noise)
    return (Composed(event, rounds),) if event is not None and rounds else ()


def _valid(delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is not between 0 and 1")
    return delta


def _sorted(events: Event | Iterable[Event]) -> _Steps:
    return tuple(sorted(steps(events).items()))


@lru_cache(maxsize=1024)
def _epsilon(counted: _Steps, delta: float, relation: Relation) -> float:
    if not counted:
        return 0.0
    halved = relation == "replace-one"  # a valid, looser stand-in: a shift of two sensitivities
    if (bound := _beyond_grids(_doubled(counted) if halved else counted, delta)) is not None:
        return bound
    grid, tail = _grid(counted, delta), _log_tail(counted, delta)
    return _total(((_gaussian(step, grid, tail, relation), n) for step, n in counted), delta)


@lru_cache(maxsize=256)
def _group(counted: _Steps, delta: float) -> float:
    if not counted:
        return 0.0
    if (bound := _beyond_grids(_doubled(counted), delta)) is not None:
        return bound
    grid, tail = max(_grid(_doubled(counted), delta), FINEST_PAIR_GRID), _log_tail(counted, delta)
    return _total(((_pair(step, grid, tail), n) for step, n in counted), delta)


def _doubled(counted: _Steps) -> _Steps:
    """Return steps that dominate those of two units: a shift of 2 whenever at least one of them is sampled."""
    return tuple(((1 - (1 - rate) ** 2, multiplier / 2), n) for (rate, multiplier), n in counted)


def _beyond_grids(counted: _Steps, delta: float) -> float | None:
    """Return the Renyi bound where a grid would be too long, too coarse or drown in rounding, None where PLD serves."""
    about = _bound(counted, delta, rdp.sampled_gaussian)
    widest = max(1 / (2 * multiplier**2) + 10 / multiplier for (_, multiplier), _ in counted)
    too_many_steps = _wanted_grid(about, counted) < FINEST_GRID / 2
    drowned = _rounding(counted) > ROUNDING_SHARE * delta
    if about > HOPELESS_EPSILON or widest / _grid(counted, delta) > MOST_CELLS or too_many_steps or drowned:
        return about + LEMMA_SLACK
    return None


def _log_tail(counted: _Steps, delta: float) -> float:
    """Return the log of the mass that each step may lose to infinity: nothing beside delta, and a round number."""
    return min(LOG_TAIL, 10.0 * math.floor((math.log(delta * TAIL_SHARE) - math.log(_length(counted))) / 10))


def _length(counted: _Steps) -> int:
    return sum(count for _, count in counted)


def _rounding(counted: _Steps) -> float:
    """Return how much of delta the library's Fourier transforms may have lost: it grows with the number of steps.

    They have no error bound of their own, and without this a delta of 1e-12 after 1e5 steps is told 2% too low.
    """
    return STEP_ROUNDING * _length(counted)


def _total(distributions: Iterable[tuple[pld.PrivacyLossDistribution, int]], delta: float) -> float:
    total: pld.PrivacyLossDistribution | None = None
    length = 0
    for one, count in distributions:
        length += count
        composed = one.self_compose(count, tail_mass_truncation=delta * TAIL_SHARE)
        total = composed if total is None else total.compose(composed, tail_mass_truncation=delta * TAIL_SHARE)
    if total is None:
        return 0.0
    return float(total.get_epsilon_for_delta(delta - STEP_ROUNDING * length)) + LEMMA_SLACK


@lru_cache(maxsize=256)
def _gaussian(step: Step, grid: float, log_tail: float, relation: Relation) -> pld.PrivacyLossDistribution:
    rate, multiplier = step
    return pld.from_gaussian_mechanism(
        multiplier,
        sampling_prob=rate,
        value_discretization_interval=grid,
        log_mass_truncation_bound=log_tail,
        neighboring_relation=_RELATIONS[relation],
    )


@lru_cache(maxsize=64)
def _pair(step: Step, grid: float, log_tail: float) -> pld.PrivacyLossDistribution:
    rate, multiplier = step
    if rate == 1:
        return _gaussian((1.0, multiplier / 2), grid, log_tail, "zero-out")
    both = [(1 - rate) ** 2, 2 * rate * (1 - rate), rate**2]
    return pld.from_mixture_gaussian_mechanism(
        multiplier, [0, 1, 2], both, value_discretization_interval=grid, log_mass_truncation_bound=log_tail
    )


def _grid(counted: _Steps, delta: float) -> float:
    """Return a grid by the size of epsilon and the number of steps, from a series of few values.

    Few values, so that bisection over the noise does not see the grid move.
    """
    about = _bound(counted, delta, rdp.sampled_gaussian)
    coarsest = COARSEST_GRID * max(1.0, about / LARGE_EPSILON)
    within = min(coarsest, max(FINEST_GRID, _wanted_grid(about, counted)))
    power = 10.0 ** math.floor(math.log10(within))
    return max(nice for nice in (1, 2, 5) if nice * power <= within * (1 + 1e-12)) * power


def _wanted_grid(about: float, counted: _Steps) -> float:
    return math.sqrt(GRID_ERROR * max(about, SMALLEST_EPSILON) / _length(counted))


def _bound(counted: _Steps, delta: float, divergence: rdp.Divergence) -> float:
    return min(
        rdp.to_epsilon(math.fsum(n * divergence(step, order) for step, n in counted), order, delta)
        for order in rdp.ORDERS
    )


@lru_cache(maxsize=256)
def _cross_checks(counted: _Steps, delta: float) -> CrossChecks:
    if not counted:
        return CrossChecks(0.0, 0.0, 0.0)
    general = _bound(counted, delta, rdp.general_bound)
    if (bound := _beyond_grids(counted, delta)) is not None:
        return CrossChecks(bound, bound, max(bound, general))
    return CrossChecks(_epsilon(counted, delta, "zero-out"), _renyi(counted, delta), general)


def _renyi(counted: _Steps, delta: float) -> float:
    accountant = RdpAccountant(orders=[*_FRACTIONAL_ORDERS, *rdp.ORDERS[9:]])
    with _quiet_absl():
        for (rate, multiplier), n in counted:
            accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier)), n)
        return float(accountant.get_epsilon(delta))


@contextmanager
def _quiet_absl() -> Iterator[None]:
    """Silence the library's warnings about orders that it leaves out: leaving some out keeps the bound valid."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
