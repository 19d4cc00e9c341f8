"""FedKSeed: whole modules of the base move along a few public random directions; one number for each is summed.

The weights are W0 + Z a. The columns of Z are of hashed signs, the same for everybody, so nobody sends or keeps them;
a, one number for each, is all that trains. Its gradient are the loss's derivatives along the directions, which forward
passes give: no activations are kept for a backward pass.

Guarantees: each example's derivatives are taken at the step's own start and are clipped together (modes ``local`` and
``distributed``); in ``distributed-participant`` the vector of scalars is clipped whole. As published, with
a seed of each participant's own choice at every step and bare loss differences, nothing is clipped, and so it is not
had under differential privacy.
Source: Qin et al., "Federated Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost under 18
Kilobytes", ICML 2024, arXiv:2312.06353; exact derivatives in place of differences, and all directions at every step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method, Published
from methods.selectors import SEEDS_KEY, Selector
from methods.vectors import Vector
from privacy import canonical
from privacy.adapter_options import SeedsOptions
from privacy.adapter_parts import Adapter, Role
from privacy.errors import LocalError

DIRECTION_LABEL: Final = b"onlysum/1/direction of a seed"


def direction(adapter: Adapter, number: int, key: str, shape: tuple[int, ...]) -> Vector:
    """Return the part of a public direction that lies in a tensor: signs over the root of the number of directions.

    So a step along all of them is, on average over the signs, a step along the gradient.

    Args:
        adapter: of the plan.
        number: of the direction, from 0.
        key: of the tensor.
        shape: of the tensor.
    """
    count = math.prod(shape)
    seed = canonical.encode({"seed": adapter.seed, "direction": number, "tensor": key})
    values = hashlib.shake_256(DIRECTION_LABEL + seed).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(values, dtype=np.uint8), count=count).reshape(shape)
    length = np.float32(1 / math.sqrt(directions(adapter)))
    return np.where(bits, -length, length)


def directions(adapter: Adapter) -> int:
    """Return how many directions there are."""
    if not isinstance(adapter.options, SeedsOptions):
        raise LocalError("E-BUG", f"options of {adapter.options.peft_type} came to FedKSeed")
    return adapter.options.directions


def moved_by(adapter: Adapter, seeds: Vector, key: str, shape: tuple[int, ...]) -> Vector:
    """Return by how much a tensor moves with the seeds' scalars: one direction after the other, so none is kept."""
    total = np.zeros(shape, dtype=np.float32)
    for number, scalar in enumerate(seeds):
        if scalar:
            total += scalar * direction(adapter, number, key, shape)
    return total


def replayed(adapter: Adapter, tensors: Published, _initial: Mapping[str, NDArray[Any]]) -> Published:
    """Return the modules as they are after all moves, in place of the scalars."""
    seeds = tensors[SEEDS_KEY]
    frozen = {tensor.key for tensor in adapter.tensors if tensor.stream == Role.FROZEN}
    return {
        key: value + moved_by(adapter, seeds, key, value.shape) if key in frozen else value
        for key, value in tensors.items()
        if key != SEEDS_KEY
    }


FEDKSEED: Final = Method(
    name="fedkseed",
    title="FedKSeed with clipped derivatives",
    category="selective",
    source="Qin et al., ICML 2024, arXiv:2312.06353",
    peft_type="SEEDS",
    roles={Selector.SEEDS: Role.SHARED, Selector.WHOLE: Role.FROZEN, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.SEEDS}), **HEAD},
    publish=replayed,
    summed="one scalar for each public direction, and the head",
    size="one number for each direction, whatever the modules",
    afterwards="the mean of the scalars; whoever uses the adapter replays the directions",
    notes="Every step takes a forward pass for each direction, and none backwards. Take a few hundred to 4096 "
    "directions, and name the modules that shall move. What is released has these modules whole.",
)
