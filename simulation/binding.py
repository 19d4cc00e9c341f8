"""A draft bound to a roster without a coordinator: for simulations in one process.

Guarantees: thresholds, graph, noise and ring follow by the very code of ``run create``, so a simulated plan claims what
a real one would.
Leaves to others: drafts (``authoring.draft``), enrolled members and their sizes (``coordinator.runs.creation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from coordinator.runs import creation
from coordinator.runs.thresholds import Requested
from privacy.draft import Draft
from privacy.plan import Plan, VerifiedPlan, signed_plan_bytes
from privacy.plan_parts import Member
from privacy.secagg.keys import SigningKey

_RUN_ID: Final = "00" * 16


def bind(
    draft: Draft, roster: Sequence[Member], *, federation: str, tolerance: Requested, entry_bits: int | None = None
) -> Plan:
    """Return the calibrated plan of a draft, unsigned and never to be run by daemons.

    Args:
        draft: as ``plan build`` writes it.
        roster: in the order of their ids.
        federation: a name; nobody is enrolled in it.
        tolerance: colluders and dropouts that the plan withstands, and on which graph.
        entry_bits: of an entry of a sum; ``None`` for as few as cost little.

    Raises:
        LocalError: ``E-RUN-TOLERANCE``, ``E-PLAN-NOISE`` or ``E-PLAN-RING``.
    """
    return creation.bind(
        draft,
        roster,
        tolerance,
        entry_bits=entry_bits,
        federation=federation,
        operator=federation,
        run_id=_RUN_ID,
        created_at=0,
        expires_at=1,
    )


def signed(plan: Plan, operator: SigningKey) -> VerifiedPlan:
    """Return the plan as participants have it, with its operator's signature verified."""
    data = plan.to_bytes()
    return VerifiedPlan.verify(data, operator.sign(signed_plan_bytes(data)), operator.public)
