"""Epsilon by round of a plan, for the plot of a run.

Guarantees: the figures are the accountants' own, rounded up as in reports; a plan's curve is computed once.
Leaves to others: what was charged, which each owner's ledger says (``participant.owner.ledger``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from privacy.plan import Plan


@dataclass(frozen=True, slots=True)
class EpsilonCurve:
    """Epsilon after so many charged rounds, at up to 24 of them."""

    points: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, plan: Plan) -> Self | None:
        """Return a plan's curve, over all of its rounds; ``None``: it makes no claim."""
        points = _points(plan.to_bytes()) if plan.privacy.noised else ()
        return cls(points) if points else None


@lru_cache(maxsize=32)
def _points(data: bytes) -> tuple[tuple[int, str], ...]:
    # SciPy under the accountants takes longer to import than all else here.
    from privacy.dp import accountants
    from privacy.dp.events import round_event
    from privacy.report import rounded_up

    plan = Plan.from_bytes(data)
    event = round_event(plan)
    if event is None:
        return ()
    bands, rounds = len(plan.privacy.bands), plan.recipe.rounds
    curve = accountants.spend_curve(event, plan.charges, accountants.plan_delta(plan))
    return tuple((min(rounds, charges * bands), rounded_up(epsilon)) for charges, epsilon in curve)
