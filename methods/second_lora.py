"""A second LoRA that stays with its participant, beside the shared one: what is made of both for its owner.

Guarantees: factors that stand side by side are one LoRA, of the sum of their ranks and the same scale.
Leaves to others: training it (``participant.training.adapters.switched``).
Source: docs/methods.md.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from methods.method import Fusion, Published
from methods.selectors import HOME_NAME, Selector
from methods.vectors import READS, WRITES, Vector, split
from privacy.adapter_options import LoraOptions
from privacy.adapter_parts import Adapter, Role
from privacy.draft import Recipe

HOME_READS, HOME_WRITES = f".lora_A.{HOME_NAME}.weight", f".lora_B.{HOME_NAME}.weight"

ROLES: Final = {
    Selector.LORA_A: Role.SHARED,
    Selector.LORA_B: Role.SHARED,
    Selector.HOME_A: Role.PERSONAL,
    Selector.HOME_B: Role.PERSONAL,
    Selector.HEAD: Role.SHARED,
}


def fused(released: Published, mine: Published, weights: Fusion) -> Published:
    """Return one LoRA that adds a multiple of the shared one to a multiple of one's own.

    Args:
        released: tensors of the shared adapter.
        mine: tensors of the second one.
        weights: of both.
    """
    shared, own = weights
    found = dict(released)
    for key, value in mine.items():
        if key.endswith(HOME_READS):
            reads = key.removesuffix(HOME_READS) + READS
            found[reads] = np.concatenate([released[reads], value], axis=0)
        elif key.endswith(HOME_WRITES):
            writes = key.removesuffix(HOME_WRITES) + WRITES
            found[writes] = np.concatenate([shared * released[writes], own * value], axis=1).astype(np.float32)
    return found


def weighed(recipe: Recipe, vector: Vector, weights: Fusion) -> Vector:
    """Return a state, and what stays at home behind it, whose two LoRAs are multiplied by their weights."""
    scaled = vector.copy()
    for key, value in split(recipe, scaled).items():  # views of the vector
        if key.endswith(HOME_WRITES):
            np.multiply(value, weights[1], out=value)
        elif key.endswith(WRITES):
            np.multiply(value, weights[0], out=value)
    return scaled


def of_both_ranks(adapter: Adapter) -> dict[str, Any]:
    """Return rank and alpha of what :func:`fused` gives: their ratio, by which PEFT scales, stays."""
    if not isinstance(adapter.options, LoraOptions):
        return {}
    return {"r": 2 * adapter.options.rank, "lora_alpha": 2 * float(adapter.options.alpha)}
