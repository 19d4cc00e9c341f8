"""From events to epsilon: privacy loss distributions, checked against two independent upper bounds.

Guarantees: every figure is pessimistic and has the 1e-9 of the lemma added; it is refused when it exceeds a bound that
is known to be valid (``E-ACCOUNTANT-DISAGREE``). No torch.
Leaves to others: grids (``resolution``), what is charged (``privacy.ledger``), the mechanism's integers
(``calibration``).
Source: docs/privacy-accounting.md sections 5 to 7; dp-accounting (Google), pessimistic connect-the-dots PLD.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Final

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from privacy.dp import rdp, resolution
from privacy.dp.events import Composed, Event, Relation, Step, format_epsilon_up, round_event, steps
from privacy.dp.resolution import Counted
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.secagg.graph_bounds import SECURITY_BITS

LEMMA_SLACK: Final = 1e-9  # covers everything between discrete and continuous Gaussians (< 1e-60) and double rounding
GRAPH_FAILURE: Final = 2.0**-SECURITY_BITS  # probability that a k-regular run's masks do not hide everybody
AGREEMENT: Final = 1e-6  # double rounding when a bound is tight
MOST_GROUPED: Final = 300.0  # an epsilon of one unit, beyond which only the size of a pair's matters
GROUP_PRECISION: Final = 1e-4  # relative, of the bisection; its upper end is returned
_FRACTIONAL_ORDERS: Final = tuple(1 + tenth / 10 for tenth in range(5, 100))
_RELATIONS: Final = {
    "zero-out": NeighboringRelation.ADD_OR_REMOVE_ONE,  # the same numbers (docs/privacy-accounting.md section 1)
    "replace-one": NeighboringRelation.REPLACE_ONE,
}


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


def any_group_of_two(events: Event | Iterable[Event], delta: float) -> float:
    """Return the epsilon for a person who is two units of privacy, whatever the mechanism is: what bands need.

    Of any (epsilon, delta) it makes (2 epsilon, delta (1 + exp(epsilon))): the two may lie in different bins, and their
    blocks then overlap out of step (docs/privacy-accounting.md section 11).
    """
    counted = _sorted(events)
    if not counted:
        return 0.0
    low, high = _epsilon(counted, _valid(delta), "zero-out"), _by_renyi(counted, delta)
    while high < MOST_GROUPED and high - low > GROUP_PRECISION * high:
        middle = (low + high) / 2
        fits = _epsilon(counted, delta / (1 + math.exp(middle)), "zero-out") <= middle
        low, high = (low, middle) if fits else (middle, high)
    return 2 * high


def _by_renyi(counted: Counted, delta: float) -> float:
    """Return an epsilon with delta(epsilon) (1 + exp(epsilon)) at most ``delta``, in closed form.

    ``rdp.to_epsilon`` at delta/(2 exp(epsilon)), which is smaller, solved for epsilon order by order.
    """
    return min(
        rdp.to_epsilon(math.fsum(n * rdp.sampled_gaussian(step, order) for step, n in counted), order, delta / 2)
        * ((order - 1) / (order - 2))
        for order in rdp.ORDERS
        if order > 2
    )


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


def trust_epsilons(plan: Plan, charges: int | None = None) -> TrustEpsilons | None:
    """Return a plan's three epsilons over some charges (all by default), or None in mode ``none``.

    A completed round's sum carries at least ``min_survivors`` noises, which is what outsiders face. In mode ``local``
    all three are equal, because each participant relies on its own noise alone.
    """
    if not plan.privacy.noised:
        return None
    charged = plan.privacy.honest_noise
    noises = (1, 1, 1) if plan.privacy.mode == "local" else (plan.min_survivors, charged, 1)
    delta = plan_delta(plan)
    count = plan.charges if charges is None else charges
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
        raise LocalError(
            "E-PLAN-CLAIM", f"the plan claims epsilon {claimed}, its integers give {format_epsilon_up(spent, 4)}"
        )


def run_epsilon(plan: Plan, rounds: int | None = None) -> float | None:
    """Return the charged epsilon of a run alone at the plan's delta, or None in mode ``none``."""
    if not plan.privacy.noised:
        return None
    count = plan.privacy.charges(plan.recipe.rounds if rounds is None else rounds)
    return epsilon(_repeat(plan, plan.privacy.honest_noise, count), plan_delta(plan))


def spend_curve(event: Event, charges: int, delta: float, *, points: int = 24) -> tuple[tuple[int, float], ...]:
    """Return (charges, epsilon) at up to ``points`` charges evenly from the first to the last; epsilon never falls."""
    if charges < 1:
        return ()
    spaced = sorted({1, charges, *(round(1 + i * (charges - 1) / (points - 1)) for i in range(points))})
    curve: list[tuple[int, float]] = []
    for count in spaced:
        value = epsilon(Composed(event, count), delta)
        curve.append((count, max(value, curve[-1][1] if curve else 0.0)))  # a change of grid must not show as a refund
    return tuple(curve)


def pair_epsilon(plan: Plan, charges: int) -> float:
    """Return the epsilon for a person who is two units of privacy, after some charges of a noised plan."""
    events = _repeat(plan, plan.privacy.honest_noise, charges)
    return (any_group_of_two if plan.privacy.banded else group_of_two)(events, plan_delta(plan))


def _repeat(plan: Plan, honest_noise: int, charges: int) -> tuple[Event, ...]:
    event = round_event(plan, honest_noise=honest_noise)
    return (Composed(event, charges),) if event is not None and charges else ()


def _valid(delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is not between 0 and 1")
    return delta


def _sorted(events: Event | Iterable[Event]) -> Counted:
    return tuple(sorted(steps(events).items()))


@lru_cache(maxsize=1024)
def _epsilon(counted: Counted, delta: float, relation: Relation) -> float:
    if not counted:
        return 0.0
    halved = relation == "replace-one"  # a valid, looser stand-in: a shift of two sensitivities
    if (bound := _beyond(_doubled(counted) if halved else counted, delta)) is not None:
        return bound
    grid, tail = resolution.grid(counted, delta), resolution.log_tail(counted, delta)
    return _total(counted, delta, lambda step: _gaussian(step, grid, tail, relation))


@lru_cache(maxsize=256)
def _group(counted: Counted, delta: float) -> float:
    if not counted:
        return 0.0
    if (bound := _beyond(_doubled(counted), delta)) is not None:
        return bound
    grid = max(resolution.grid(_doubled(counted), delta), resolution.FINEST_PAIR_GRID)
    tail = resolution.log_tail(counted, delta)
    return _total(counted, delta, lambda step: _pair(step, grid, tail))


def _doubled(counted: Counted) -> Counted:
    """Return steps that dominate those of two units: a shift of 2 whenever at least one of them is sampled."""
    return tuple(((1 - (1 - rate) ** 2, multiplier / 2), n) for (rate, multiplier), n in counted)


def _beyond(counted: Counted, delta: float) -> float | None:
    bound = resolution.bound_beyond_grids(counted, delta)
    return None if bound is None else bound + LEMMA_SLACK


def _total(counted: Counted, delta: float, distribution: Callable[[Step], pld.PrivacyLossDistribution]) -> float:
    tail = delta * resolution.TAIL_SHARE
    parts = [distribution(step).self_compose(count, tail_mass_truncation=tail) for step, count in counted]
    total = reduce(lambda done, part: done.compose(part, tail_mass_truncation=tail), parts)
    return float(total.get_epsilon_for_delta(delta - resolution.rounding(counted))) + LEMMA_SLACK


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


@lru_cache(maxsize=256)
def _cross_checks(counted: Counted, delta: float) -> CrossChecks:
    if not counted:
        return CrossChecks(0.0, 0.0, 0.0)
    general = rdp.least_of(counted, delta, rdp.general_bound)
    if (bound := _beyond(counted, delta)) is not None:
        return CrossChecks(bound, bound, max(bound, general))
    return CrossChecks(_epsilon(counted, delta, "zero-out"), _renyi(counted, delta), general)


def _renyi(counted: Counted, delta: float) -> float:
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
