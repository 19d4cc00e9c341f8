"""How finely privacy losses are discretised, and where no grid of doubles serves.

Guarantees: no plan can ask for more time or memory than a fixed bound; a figure never rests on digits that the
library's Fourier transforms do not have.
Leaves to others: the figures themselves (``accountants``).
Source: docs/privacy-accounting.md section 6.
"""

from __future__ import annotations

import math
from typing import Final

from privacy.dp import rdp
from privacy.dp.events import Step

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

Counted = tuple[tuple[Step, int], ...]


def bound_beyond_grids(counted: Counted, delta: float) -> float | None:
    """Return the Renyi bound where a grid would be too long, too coarse or drown in rounding, None where PLD serves."""
    about = rdp.least_of(counted, delta)
    widest = max(1 / (2 * multiplier**2) + 10 / multiplier for (_, multiplier), _ in counted)
    too_many_steps = _wanted(about, counted) < FINEST_GRID / 2
    drowned = rounding(counted) > ROUNDING_SHARE * delta
    if about > HOPELESS_EPSILON or widest / grid(counted, delta) > MOST_CELLS or too_many_steps or drowned:
        return about
    return None


def grid(counted: Counted, delta: float) -> float:
    """Return a grid by the size of epsilon and the number of steps, from a series of few values.

    Few values, so that bisection over the noise does not see the grid move.
    """
    about = rdp.least_of(counted, delta)
    coarsest = COARSEST_GRID * max(1.0, about / LARGE_EPSILON)
    within = min(coarsest, max(FINEST_GRID, _wanted(about, counted)))
    power = 10.0 ** math.floor(math.log10(within))
    return max(nice for nice in (1, 2, 5) if nice * power <= within * (1 + 1e-12)) * power


def log_tail(counted: Counted, delta: float) -> float:
    """Return the log of the mass that each step may lose to infinity: nothing beside delta, and a round number."""
    return min(LOG_TAIL, 10.0 * math.floor((math.log(delta * TAIL_SHARE) - math.log(_length(counted))) / 10))


def rounding(counted: Counted) -> float:
    """Return how much of delta the library's Fourier transforms may have lost: it grows with the number of steps.

    They have no error bound of their own, and without this a delta of 1e-12 after 1e5 steps is told 2% too low.
    """
    return STEP_ROUNDING * _length(counted)


def _length(counted: Counted) -> int:
    return sum(count for _, count in counted)


def _wanted(about: float, counted: Counted) -> float:
    return math.sqrt(GRID_ERROR * max(about, SMALLEST_EPSILON) / _length(counted))
