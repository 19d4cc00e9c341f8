"""A draft bound to a roster without a coordinator: for simulations in one process.

Guarantees: thresholds, noise and ring follow from roster and f by the rules that ``run create`` keeps, so a simulated
plan claims what a real one would.
Leaves to others: drafts (``authoring.draft``), enrolled members and their sizes (``coordinator.runs.creation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from privacy.dp.calibration import calibrate
from privacy.dp.signal import Setting
from privacy.draft import Draft
from privacy.plan import Plan, default_survivors, threshold
from privacy.plan_parts import Evaluation, Graph, Member

_RUN_ID: Final = "00" * 16


def bind(draft: Draft, roster: Sequence[Member], *, federation: str, f: int, entry_bits: int | None = None) -> Plan:
    """Return the calibrated plan of a draft over a complete graph, unsigned and never to be run by daemons.

    Args:
        draft: as ``plan build`` writes it.
        roster: in the order of their ids.
        federation: a name; nobody is enrolled in it.
        f: colluding participants that the plan tolerates.
        entry_bits: of an entry of a sum; ``None`` for as few as cost little.

    Raises:
        LocalError: ``E-PLAN-NOISE`` or ``E-PLAN-RING``.
    """
    n, recipe = len(roster), draft.recipe
    survivors = default_survivors(n, f)
    setting = Setting.of(recipe, roster, f=f, min_survivors=survivors)
    privacy, encoding = calibrate(draft.privacy, setting, entry_bits=entry_bits)
    return Plan(
        suite=draft.suite,
        federation=federation,
        operator=federation,
        run_id=_RUN_ID,
        created_at=0,
        expires_at=1,
        recipe=recipe,
        privacy=privacy,
        encoding=encoding,
        evaluation=Evaluation(data=draft.evaluation_data, every=draft.evaluate_every),
        roster=tuple(roster),
        f=f,
        shamir_threshold=threshold(n, f),
        quorum=threshold(n, f),
        min_survivors=survivors,
        graph=Graph(),
    )
