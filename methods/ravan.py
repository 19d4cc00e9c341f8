"""RAVAN: several small cores train side by side, each between frozen factors of its own and with a scale of its own.

A participant trains cores H and scales s; what goes up is how far their products s H went, with every s at 1 again, so
that the mean is exactly the mean of the adapters. The sum of so many heads has a higher rank than one core of as many
numbers.

Guarantees: the factors are singular vectors of the base's own weights, of the initial adapter, so all heads' factors
are orthogonal to each other. In mode ``distributed`` a round is one step of cores and scales as they are: no mean of
products is taken, and the product that is released has both.
Source: Raje et al., "Ravan: Multi-Head Low-Rank Adaptation for Federated Fine-Tuning", arXiv:2506.05568.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from methods.fed_sb import OUT, WHOLE
from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method, Published
from methods.optimizer import Wide
from methods.selectors import Selector
from methods.vectors import split
from privacy.adapter_parts import Adapter, Role
from privacy.draft import Recipe

CORES, SCALES = ".lora_B.cores.weight", ".lora_B.cores.scale"


def folded(recipe: Recipe, _start: Wide, end: Wide) -> Wide:
    """Return a state whose cores are multiplied by their scales, and whose scales are 1.

    Args:
        recipe: names the tensors.
        _start: state at the round's start.
        end: shape (state entries,).
    """
    state = end.copy()
    tensors = split(recipe, state)  # views of the vector
    for key, scales in tensors.items():
        if key.endswith(SCALES):
            tensors[key.removesuffix(SCALES) + CORES][...] *= scales[:, None, None]
            scales[...] = 1
    return state


def multiplied_out(_adapter: Adapter, tensors: Published, _initial: Mapping[str, NDArray[Any]]) -> Published:
    """Return a plain LoRA: its B is the outer factor times all cores, block by block."""
    published = {key: value for key, value in tensors.items() if not key.endswith((CORES, SCALES, OUT))}
    for key, cores in tensors.items():
        if key.endswith(CORES):
            layer = key.removesuffix(CORES)
            parts = np.split(tensors[layer + OUT], len(cores), axis=1)
            scaled = cores * tensors[layer + SCALES][:, None, None]
            blocks = [part @ core for part, core in zip(parts, scaled, strict=True)]
            published[layer + WHOLE] = np.concatenate(blocks, axis=1).astype(np.float32)
    return published


RAVAN: Final = Method(
    name="ravan",
    title="RAVAN",
    category="reparameterised",
    source="Raje et al., arXiv:2506.05568",
    peft_type="LORA_HEADS",
    start="principal",
    roles={
        Selector.CORE: Role.SHARED,
        Selector.SCALE: Role.SHARED,
        Selector.LORA_A: Role.FROZEN,
        Selector.LORA_B: Role.FROZEN,
        Selector.HEAD: Role.SHARED,
    },
    streams={ADAPTER_STREAM: frozenset({Selector.CORE, Selector.SCALE}), **HEAD},
    align=folded,
    publish=multiplied_out,
    summed="the cores times their scales, and the head",
    size="h (r^2 + 1) for h heads",
    afterwards="the mean of the scaled cores, which is exact because all factors are common",
    notes="heads times rank must be at most the width of a target module. Everybody trains all heads.",
)
