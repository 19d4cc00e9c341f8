"""Between named tensors and the flat vectors of a run: the state that travels down, and a turn's place in it.

Guarantees: a vector is float32, stream by stream in the order of the state, tensors in the order of the manifest,
row-major; :func:`joined` and :func:`split` are each other's inverse.
Leaves to others: ring words (``privacy.secagg.layout``).
Source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy.adapter_parts import Role, StateStream, Tensor, Turn
from privacy.draft import Recipe
from privacy.errors import LocalError

READS, WRITES = ".lora_A.weight", ".lora_B.weight"  # ends of the keys of a LoRA's factors

Vector = NDArray[np.float32]
Floats = TypeVar("Floats", np.float32, np.float64)


def state_tensors(recipe: Recipe) -> tuple[Tensor, ...]:
    """Return the tensors that travel down, in the order of the vector."""
    return _of_streams(recipe, [stream.name for stream in recipe.state])


def trained_streams(recipe: Recipe, turn: Turn) -> tuple[StateStream, ...]:
    """Return the streams of the state that train in a turn, in the order of the vector."""
    return tuple(stream for stream in recipe.state if stream.name in turn.trains)


def trained_tensors(recipe: Recipe, turn: Turn) -> tuple[Tensor, ...]:
    """Return the tensors that train in a turn and are shared, in the order of the vector."""
    return _of_streams(recipe, [stream.name for stream in trained_streams(recipe, turn)])


# --- what stays at home ---


def home_tensors(recipe: Recipe) -> tuple[Tensor, ...]:
    """Return the tensors of the model that stay with their participant, in the order of the vector."""
    return _of_streams(recipe, [Role.PERSONAL.value])


def local_tensors(recipe: Recipe, turn: Turn) -> tuple[Tensor, ...]:
    """Return all tensors that train in a turn: those that are shared, then those that stay at home."""
    return (*trained_tensors(recipe, turn), *(home_tensors(recipe) if Role.PERSONAL.value in turn.trains else ()))


def local_streams(recipe: Recipe, turn: Turn) -> tuple[StateStream, ...]:
    """Return all streams that train in a turn, ``personal`` last."""
    length = sum(tensor.entries for tensor in home_tensors(recipe))
    home = (StateStream(name=Role.PERSONAL.value, length=length),) if Role.PERSONAL.value in turn.trains else ()
    return (*trained_streams(recipe, turn), *home)


def local_places(recipe: Recipe, turn: Turn) -> NDArray[np.int64]:
    """Return where in the state, followed by what stays at home, the entries lie that train in a turn."""
    home = sum(tensor.entries for tensor in local_tensors(recipe, turn) if tensor.stream == Role.PERSONAL.value)
    return np.concatenate([places(recipe, turn), recipe.state_entries + np.arange(home)])


def _of_streams(recipe: Recipe, streams: Sequence[str]) -> tuple[Tensor, ...]:
    return tuple(tensor for stream in streams for tensor in recipe.adapter.tensors if tensor.stream == stream)


def places(recipe: Recipe, turn: Turn) -> NDArray[np.int64]:
    """Return where in the state the entries lie that train in a turn, shape (entries of the turn,)."""
    start, ranges = 0, [np.empty(0, dtype=np.int64)]
    for stream in recipe.state:
        if stream.name in turn.trains:
            ranges.append(np.arange(start, start + stream.length))
        start += stream.length
    return np.concatenate(ranges)


def split(recipe: Recipe, vector: NDArray[Floats]) -> dict[str, NDArray[Floats]]:
    """Return the tensors of a state by key, and those that stay at home if they follow it.

    Raises:
        ValueError: the vector is neither of shape (state entries,) nor longer by what stays at home.
    """
    home: tuple[Tensor, ...] = home_tensors(recipe)
    lengths: tuple[int, int] = (recipe.state_entries, recipe.state_entries + sum(tensor.entries for tensor in home))
    if vector.ndim != 1 or vector.size not in lengths:
        raise ValueError(f"a vector of shape {vector.shape} is not of {recipe.state_entries} entries")
    tensors: dict[str, NDArray[Floats]] = {}
    start = 0
    for tensor in (*state_tensors(recipe), *(home if vector.size == lengths[1] else ())):
        tensors[tensor.key] = vector[start : start + tensor.entries].reshape(tensor.shape)
        start += tensor.entries
    return tensors


def joined(recipe: Recipe, tensors: Mapping[str, NDArray[Any]]) -> Vector:
    """Return the state, shape (state entries,), of named tensors; the inverse of :func:`split`.

    Raises:
        LocalError: ``E-PLAN-RULE``, a tensor is missing or of another shape.
    """
    return _flat(state_tensors(recipe), tensors)


def joined_home(recipe: Recipe, tensors: Mapping[str, NDArray[Any]]) -> Vector:
    """Return what stays at home as one vector; as :func:`joined`."""
    return _flat(home_tensors(recipe), tensors)


def _flat(wanted: Sequence[Tensor], tensors: Mapping[str, NDArray[Any]]) -> Vector:
    parts = [np.empty(0, dtype=np.float32)]
    for tensor in wanted:
        value = tensors.get(tensor.key)
        if value is None or value.shape != tensor.shape:
            raise LocalError("E-PLAN-RULE", f"the adapter lacks {tensor.key} of shape {tensor.shape}")
        parts.append(value.astype(np.float32).reshape(-1))
    return np.concatenate(parts)
