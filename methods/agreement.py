"""Whether two states are the same model but for rounding: for steps that matrix libraries take, whose bits differ.

Guarantees: what agrees gives every adapted weight the same value, to a relative 1e-4, and its factors are those of the
other state up to a rotation of their basis, as singular vectors of nearly equal values are between two libraries.
Leaves to others: for which methods this is asked (``Method.exact_step``).
Source: docs/protocol.md section 5.8.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from methods.optimizer import Wide
from methods.vectors import READS, WRITES, Vector, split
from privacy.draft import Recipe

TOLERANCE: Final = 1e-4  # float32 has 6e-8; a decomposition of large matrices loses some digits of it


def agree(recipe: Recipe, own: Vector, offered: Vector) -> bool:
    """Return whether an offered state is one's own but for rounding and the basis of low-rank factors.

    Args:
        recipe: names the tensors.
        own: shape (state entries,).
        offered: of the same shape.
    """
    if own.shape != offered.shape or not np.isfinite(offered).all():
        return False
    mine, theirs = (
        {key: value.astype(np.float64) for key, value in split(recipe, state).items()} for state in (own, offered)
    )
    for key, value in mine.items():
        reads = key.removesuffix(WRITES) + READS
        if key.endswith(WRITES) and reads in mine:
            if not _same_factors((mine[reads], value), (theirs[reads], theirs[key])):
                return False
        elif not (key.endswith(READS) and key.removesuffix(READS) + WRITES in mine) and not _close(value, theirs[key]):
            return False
    return True


def _same_factors(mine: tuple[Wide, Wide], theirs: tuple[Wide, Wide]) -> bool:
    """Return whether two pairs A, B have one product and one size each, so that only their basis may differ."""
    sizes = [np.array([np.linalg.norm(factor) for factor in pair]) for pair in (mine, theirs)]
    spectra = [np.asarray(np.linalg.svd(pair[0], compute_uv=False), dtype=np.float64) for pair in (mine, theirs)]
    room = TOLERANCE * float(sizes[0].prod())  # where a product cancels, the size of its factors counts
    gap = float(np.linalg.norm(mine[1] @ mine[0] - theirs[1] @ theirs[0]))
    return gap <= room and _close(sizes[0], sizes[1]) and _close(spectra[0], spectra[1])


def _close(mine: Wide, theirs: Wide) -> bool:
    largest = float(np.abs(mine).max(initial=0))
    return bool(np.allclose(theirs, mine, rtol=TOLERANCE, atol=TOLERANCE * largest))
