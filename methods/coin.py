"""The public coin of a round: which entries, ranks or layers a common random mask lets train.

Guarantees: a function of the recipe and the round alone, the same for everybody on every machine: the order of hash
values decides, not a library's generator. It depends on nobody's data, so that the choice costs no privacy.
Leaves to others: how many entries go up (``method``).
Source: FIPS 202 (SHAKE256); docs/methods.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from methods.vectors import READS, trained_streams
from privacy import canonical
from privacy.adapter_parts import Gather, StateStream, Tensor
from privacy.draft import HEAD_STREAM, Recipe
from privacy.errors import LocalError

Places = NDArray[np.int64]

MASK_LABEL: Final = b"onlysum/1/common mask"
SIGNS_LABEL: Final = b"onlysum/1/signs of a sketch"
BUCKETS_LABEL: Final = b"onlysum/1/buckets of a sketch"
_COIN: Final = np.dtype("<u8")  # one hash value per entry


def gathered(recipe: Recipe, round_number: int) -> Places:
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
        whole = counts[stream.name] == stream.length
        lucky = np.arange(stream.length) if whole else _lucky(recipe, recipe.upload, round_number, stream)
        chosen.append(start + lucky)
        start += stream.length
    return np.concatenate(chosen)


def chosen_layers(recipe: Recipe, round_number: int) -> frozenset[int]:
    """Return the layers that train in a round, where the mask is of layers."""
    if not isinstance(recipe.upload, Gather) or recipe.upload.of != "layers":
        raise LocalError("E-BUG", "a mask of layers was asked for where there is none")
    layers = layers_of(recipe.adapter.tensors)
    order = _draw(recipe, recipe.upload, round_number, "layers", len(layers))
    return frozenset(layers[place] for place in order[: recipe.upload.entries])


def signs(recipe: Recipe, round_number: int, what: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a public matrix of 1 and -1, as likely the one as the other."""
    count = math.prod(shape)
    values = np.frombuffer(_hash(SIGNS_LABEL, recipe, round_number, what, -(-count // 8)), dtype=np.uint8)
    bits = np.unpackbits(values, count=count).reshape(shape)
    return np.where(bits, -1.0, 1.0)


def buckets(recipe: Recipe, what: str, count: int, width: int) -> Places:
    """Return a public bucket below a width for each of so many entries, the same in every round."""
    values = np.frombuffer(_hash(BUCKETS_LABEL, recipe, 0, what, count * _COIN.itemsize), dtype=_COIN)
    return (values % np.uint64(width)).astype(np.int64)


def layer_of(key: str) -> int | None:
    """Return the number of the layer that a tensor belongs to, by its key; ``None``: of no layer."""
    return next((int(part) for part in key.split(".") if part.isdigit()), None)


def layers_of(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the numbers of the layers that an adapter's tensors belong to, ascending."""
    found = {layer_of(tensor.key) for tensor in tensors if tensor.stream != HEAD_STREAM}
    return tuple(sorted(layer for layer in found if layer is not None))


def _lucky(recipe: Recipe, mask: Gather, round_number: int, stream: StateStream) -> Places:
    """Return the places of a stream that a mask lets through, sorted."""
    if mask.of == "entries":
        return np.sort(_draw(recipe, mask, round_number, stream.name, stream.length)[: mask.entries])
    parts = []
    layers = chosen_layers(recipe, round_number) if mask.of == "layers" else frozenset()
    for tensor in recipe.adapter.tensors:
        if tensor.stream != stream.name:
            continue
        part = np.zeros(tensor.shape, dtype=np.bool_)
        if mask.of == "layers":
            part[...] = layer_of(tensor.key) in layers
        else:
            by_rank = part if tensor.key.endswith(READS) else part.T  # a view: a row per rank
            by_rank[_draw(recipe, mask, round_number, tensor.key, len(by_rank))[: mask.entries]] = True
        parts.append(part.reshape(-1))
    return np.flatnonzero(np.concatenate(parts))


def _draw(recipe: Recipe, mask: Gather, round_number: int, stream: str, length: int) -> Places:
    """Return so many places in the order of their hash values."""
    values = _hash(MASK_LABEL, recipe, 0 if mask.lasting else round_number, stream, length * _COIN.itemsize)
    return np.argsort(np.frombuffer(values, dtype=_COIN), kind="stable")


def _hash(label: bytes, recipe: Recipe, round_number: int, what: str, count: int) -> bytes:
    seed = canonical.encode({"recipe": canonical_hash(recipe), "round": round_number, "stream": what})
    return hashlib.shake_256(label + seed).digest(count)


def canonical_hash(recipe: Recipe) -> str:
    """Return the SHA-256 (hex) of a recipe's canonical form."""
    return hashlib.sha256(canonical.encode(recipe.model_dump(mode="json"))).hexdigest()
