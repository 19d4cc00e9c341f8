"""What a plan would cost its population, computed here and never taken from the plan's own claim.

Guarantees: the charged events are those of the plan's integers; the lifetime figure is by the filter that the ledger
enforces, over everything charged so far and all rounds of the plan that are not charged yet.
Leaves to others: the rules that the figures must meet (``assessment``), charging (``ledger``).
Source: docs/privacy-accounting.md sections 5 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from participant.owner.policy import Population
from participant.owner.reservations import Reservation
from participant.owner.rules import Cost
from privacy.dp import rdp
from privacy.dp.events import Composed, Event, round_event
from privacy.ledger import LifetimeBudget, Spent
from privacy.plan import VerifiedPlan


def lifetime_budget(population: Population) -> LifetimeBudget:
    """Return the ledger's filter for a population; its order is the policy's, or the one that buys most.

    What the first charge fixed comes before both (``Spent.fixed``).
    """
    epsilon, delta = population.lifetime_epsilon, population.lifetime_delta
    order = population.order or rdp.filter_order(epsilon, delta)
    return LifetimeBudget(unit=population.unit, epsilon=epsilon, delta=delta, order=order)


def best_order(verified: VerifiedPlan, population: Population) -> tuple[int, float]:
    """Return the order at which a noised plan alone counts least in a lifetime, and that figure."""
    event, delta = round_event(verified.plan), population.lifetime_delta
    assert event is not None  # the caller asks about a plan with noise
    run = Composed(event, verified.plan.charges)
    return min(
        ((order, rdp.to_epsilon(rdp.composed(run, order), order, delta)) for order in rdp.ORDERS),
        key=lambda counted: counted[1],
    )


def divergence_of(verified: VerifiedPlan, order: int) -> float:
    """Return what all rounds of a noised plan add to a lifetime filter of an order, without its part for delta."""
    event = round_event(verified.plan)
    assert event is not None  # the caller asks about a plan with noise
    return rdp.composed(Composed(event, verified.plan.charges), order)


def left_of(allowed: float, used: float) -> str:
    """Return what is left of a budget for reading, rounded down."""
    return f"{max(0.0, math.floor((allowed - used) * 100 + 1e-9) / 100):.2f}"


def cost_of(
    verified: VerifiedPlan, population: Population, spent: Spent, *, reserved: Sequence[Reservation] = ()
) -> Cost | None:
    """Return what a run costs at most, on top of what its population has spent; None in mode ``none``.

    Args:
        verified: the plan.
        population: of the policy.
        spent: by the population so far.
        reserved: what other approved runs will still charge it.
    """
    from privacy.dp.accountants import trust_epsilons  # SciPy is slow to import, and most commands need no epsilon

    plan = verified.plan
    trusted, event = trust_epsilons(plan), round_event(plan)
    if trusted is None or event is None:
        return None
    budget = spent.fixed(lifetime_budget(population))
    charged = sum(run.rounds for run in spent.runs if run.plan_hash == verified.hash)
    ahead = plan.charges - charged
    events = (*spent.events, Composed(event, ahead)) if ahead > 0 else spent.events
    beyond = budget.epsilon if spent.exhausted else 0.0  # the whole budget is spent, and this comes on top
    promised = (*events, *(reservation.event for reservation in reserved))
    return Cost(
        outsiders=trusted.outsiders,
        charged=trusted.charged,
        all_others=trusted.all_others,
        lifetime_before=spent.lifetime_epsilon(budget),
        lifetime_after=_lifetime(events, budget) + beyond,
        order=budget.order,
        order_is_fixed=spent.order is not None,
        reserving=tuple(reservation.run_id for reservation in reserved),
        lifetime_promised=_lifetime(promised, budget) + beyond,
    )


def promised_epsilon(spent: Spent, budget: LifetimeBudget, reserved: Sequence[Reservation]) -> float:
    """Return the lifetime spend once approved runs have charged all that they reserve."""
    if not reserved:
        return spent.lifetime_epsilon(budget)
    return _lifetime((*spent.events, *(reservation.event for reservation in reserved)), budget)


def _lifetime(events: Sequence[Event], budget: LifetimeBudget) -> float:
    return rdp.to_epsilon(rdp.composed(events, budget.order), budget.order, budget.delta)
