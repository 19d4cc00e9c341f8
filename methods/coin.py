"""The public coin of a round: which entries a common random mask lets train.

Guarantees: a function of the recipe and the round alone, the same for everybody on every machine: the order of hash
values decides, not a library's generator. It depends on nobody's data, so that the choice costs no privacy.
Leaves to others: how many entries go up (``method``).
Source: FIPS 202 (SHAKE256); docs/methods.md.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from methods.vectors import trained_streams
from privacy import canonical
from privacy.draft import Recipe

MASK_LABEL: Final = b"onlysum/1/common mask"
_COIN: Final = np.dtype("<u8")  # one hash value per entry


def gathered(recipe: Recipe, round_number: int) -> NDArray[np.int64]:
    """Return which of a turn's trained entries go up in a round, sorted; all of them where there is no mask.

    Args:
        recipe: says how many of each stream.
        round_number: from 1.

    Returns:
        Places among the entries that train in the round's turn.
    """
    turn, start, chosen = recipe.turn(round_number), 0, []
    if recipe.upload.kind != "gather":
        return np.arange(sum(stream.length for stream in trained_streams(recipe, turn)))
    counts = {stream.name: stream.length for stream in turn.sums}
    for stream in trained_streams(recipe, turn):
        count = counts[stream.name]
        lucky = np.arange(stream.length) if count == stream.length else _draw(recipe, round_number, stream.name)[:count]
        chosen.append(start + np.sort(lucky))
        start += stream.length
    return np.concatenate(chosen)


def _draw(recipe: Recipe, round_number: int, stream: str) -> NDArray[np.int64]:
    """Return the places of a stream in the order of their hash values."""
    length = next(part.length for part in recipe.state if part.name == stream)
    seed = canonical.encode({"recipe": canonical_hash(recipe), "round": round_number, "stream": stream})
    values = hashlib.shake_256(MASK_LABEL + seed).digest(length * _COIN.itemsize)
    return np.argsort(np.frombuffer(values, dtype=_COIN), kind="stable")


def canonical_hash(recipe: Recipe) -> str:
    """Return the SHA-256 (hex) of a recipe's canonical form."""
    return hashlib.sha256(canonical.encode(recipe.model_dump(mode="json"))).hexdigest()
