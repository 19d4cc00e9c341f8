"""The checks of noise and sampler: of each figure, how unlikely it is if everything is as claimed.

Each check looks at many figures, the large ones and every single cell, and fails if the least likely of them is beyond
what so many would show by chance.

Guarantees: a healthy run fails one of these checks in at most one of a million audits (:data:`FALSE_ALARMS`), whatever
its size: each has a fourth of that, shared among its figures (Bonferroni), and each figure's chance is an upper bound.
Leaves to others: chances (``privacy.dp.chance``), figures (``noise``, ``sampler``), canaries (``audit``).
Source: docs/privacy-accounting.md section 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from simulation.empirical.evidence import Evidence, Family
from simulation.empirical.laboratory import Laboratory
from simulation.empirical.noise import amounts, dependences, shapes
from simulation.empirical.observation import Observation
from simulation.empirical.result import Check
from simulation.empirical.sampler import draws

FALSE_ALARMS: Final = 1e-6  # chance that a healthy run fails any of these checks
KINDS: Final = (("noise", amounts), ("shape", shapes), ("freshness", dependences), ("sampler", draws))
MOST_POWER: Final = 9999.0  # of ten, that is printed


def checks(laboratory: Laboratory, seen: Observation) -> tuple[Check, ...]:
    """Return the verdicts on the amount, the shape and the independence of noise, and on the sampler."""
    evidence = Evidence(laboratory, seen)
    return tuple(_judged(name, list(find(evidence)), FALSE_ALARMS / len(KINDS)) for name, find in KINDS)


def _judged(name: str, families: Sequence[Family], false_alarms: float) -> Check:
    """Return whether the least likely figure is one that so many show by chance."""
    figures = sum(family.nats.size for family in families)
    worst = max((family for family in families if family.nats.size), key=lambda family: float(family.nats.max()))
    index = np.unravel_index(int(worst.nats.argmax()), worst.nats.shape)
    nats = float(worst.nats[index]) - math.log(figures)
    passed = nats <= -math.log(false_alarms)
    return Check(
        name,
        passed,
        f"the least likely of {figures} figures: {worst.describe(*map(int, index))}; chance shows such a one in"
        f" {_one_in(nats)} (fails beyond 1 of {1 / false_alarms:,.0f})",
    )


def _one_in(nats: float) -> str:
    if nats <= math.log(2):
        return "most audits"
    power = nats / math.log(10)
    return f"1 of {math.exp(nats):,.0f} audits" if power < 7 else f"1 of 10^{min(power, MOST_POWER):.0f} audits"
