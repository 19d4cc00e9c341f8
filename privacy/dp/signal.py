"""What whole numbers cost: the share of the signal-to-noise ratio that a plan's grid and words take.

Guarantees: a function of public numbers alone, the same for whoever computes it.
Leaves to others: choosing the grid by it (``calibration``), showing it (``coordinator.views``).
Source: docs/privacy-accounting.md section 4; what a clamp must leave alone was measured (docs/adr/0037).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from privacy.dp.clipping import clip_radius
from privacy.draft import Recipe, rate_of
from privacy.measure_parts import grid_step
from privacy.plan import Plan
from privacy.plan_parts import Encoding, Member, Privacy, PrivacySpec

ROUNDING: Final = 1 / 12  # variance that rounding to whole numbers adds
CLAMP_DEVIATIONS: Final = 16  # of a batch's sum whose records have nothing to do with each other
SCALED_UPLOADS: Final = frozenset(
    {"differences", "gather"}
)  # an entry is what a learning rate times a gradient adds up to


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a mechanism is chosen for; all of it is public.

    ``units`` are those of the largest dataset, ``weights`` the sum of the roster's, and ``slowest`` is the smallest
    learning rate of an entry of a difference, 0 where entries are no differences.
    """

    rounds: int
    entries: int
    n: int
    f: int
    min_survivors: int
    units: int
    weights: int
    slowest: float = 0.0
    trained: int = 0  # entries of what trains in a step, where that is longer than what is summed
    measures: bool = False  # counts, which are summed exactly: each unit adds to the same entries

    @property
    def clipped(self) -> int:
        """Entries of the vector that is clipped."""
        return max(self.entries, self.trained)

    @classmethod
    def of(cls, recipe: Recipe, roster: Sequence[Member], *, f: int, min_survivors: int) -> Self:
        """Return the setting of a recipe with a roster."""
        rates = [rate_of(recipe.training, stream) for turn in recipe.turns for stream in turn.trains]
        return cls(
            rounds=recipe.rounds,
            entries=recipe.entries,
            n=len(roster),
            f=f,
            min_survivors=min_survivors,
            units=max(member.units for member in roster),
            weights=sum(member.weight for member in roster),
            slowest=min(rates) if recipe.upload.kind in SCALED_UPLOADS else 0.0,
            trained=recipe.clipped_entries,
            measures=recipe.measured is not None,
        )

    def batch(self, privacy: PrivacySpec) -> float:
        """Return how many units of privacy the largest batch is expected to have."""
        return 1.0 if privacy.unit == "participant" else max(1.0, float(privacy.sampling_rate) * self.units)


def least_clamp(privacy: Privacy, setting: Setting) -> float:
    """Return the clamp that a batch's sum in a distributed mode hardly ever reaches.

    Each record has a norm of at most D. Aligned in one entry a batch would reach its size times D; spread over all
    entries and independent of each other, its root of entries-th part has the standard deviation sqrt(batch/d) D.
    Counts are aligned, and none of them may be clamped, whichever units are sampled.
    """
    if setting.measures:
        return float(privacy.sensitivity * setting.units)
    batch = setting.batch(privacy)
    return privacy.sensitivity * min(batch, CLAMP_DEVIATIONS * math.sqrt(batch / setting.entries))


def share_lost(privacy: Privacy, encoding: Encoding, setting: Setting) -> float:
    """Return by how much less signal stands above the noise than with real numbers, 0 to 1; 0.0 in mode ``none``.

    Counted are the clip radius below D, the lemma's 9, and the rounding of rows and, in mode ``local`` where it can be
    compared with their noise, of differences.
    """
    if not privacy.noised:
        return 0.0
    variance, drawn = 2.0**privacy.variance_exponent, privacy.honest_noise * 2.0**privacy.variance_exponent
    radius = clip_radius(privacy.sensitivity, setting.clipped)
    if setting.measures:
        radius = grid_step(radius, float(privacy.clip_norm)) * float(privacy.clip_norm)
    rounded = setting.batch(privacy) * sum(band * band for band in privacy.bands) * ROUNDING / variance
    if privacy.mode == "local" and not setting.measures and (noise := noise_of_difference(privacy, setting)):
        rounded += ROUNDING * 4.0**-encoding.scale_exponent / noise**2
    return 1 - radius / privacy.sensitivity * math.sqrt((drawn - 9) / drawn / (1 + rounded))


def noise_of_difference(privacy: Privacy, setting: Setting) -> float:
    """Return the least standard deviation of the noise in an entry of a ``local`` difference; 0.0 if not known."""
    unit = float(privacy.clip_norm) / clip_radius(privacy.sensitivity, setting.clipped)
    step = setting.slowest * unit * privacy.sigma / (float(privacy.sampling_rate) * setting.units)
    return step * math.sqrt(privacy.local_steps)


def lost_by(plan: Plan) -> float:
    """Return the :func:`share_lost` of a plan."""
    setting = Setting.of(plan.recipe, plan.roster, f=plan.f, min_survivors=plan.min_survivors)
    return share_lost(plan.privacy, plan.encoding, setting)
