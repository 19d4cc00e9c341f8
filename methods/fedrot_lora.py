"""FedRot-LoRA: each participant rotates its factors to lie near those of the round's start, before they are averaged.

Guarantees: R A and B R^T have the product that A and B have, so that no participant's adapter changes; the reference
is public, so that nobody sees another's factors. The rotation reads steps that carry their noise (mode ``local``) or
what is clipped whole afterwards (``distributed-participant``).
Source: Zhang et al., "FedRot-LoRA: Mitigating Rotational Misalignment in Federated LoRA", arXiv:2602.23638; Schoenemann
1966 for the rotation (orthogonal Procrustes).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.optimizer import Wide
from methods.products import modules
from methods.selectors import Selector
from methods.vectors import split
from privacy.adapter_parts import Role
from privacy.draft import Recipe


def aligned(recipe: Recipe, start: Wide, end: Wide) -> Wide:
    """Return the state with every module's factors rotated so that A is as near as can be to A at the round's start.

    Args:
        recipe: names the tensors.
        start: state at the round's start, shape (state entries,).
        end: state after the local steps, of the same shape.
    """
    rotated = end.copy()
    tensors, before = split(recipe, rotated), split(recipe, start)  # views: what is written there is in the vector
    for reads, writes in modules(recipe):
        overlap = before[reads] @ tensors[reads].T
        if not np.isfinite(overlap).all():
            continue  # steps that went astray have no rotation; a refusal here would tell of data
        left, _, right = np.linalg.svd(overlap)
        rotation = left @ right
        tensors[reads][:] = rotation @ tensors[reads]
        tensors[writes][:] = tensors[writes] @ rotation.T
    return rotated


FEDROT_LORA: Final = Method(
    name="fedrot-lora",
    title="FedRot-LoRA",
    category="reparameterised",
    source="Zhang et al., arXiv:2602.23638",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    align=aligned,
    summed="both LoRA factors, rotated towards those of the round's start, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor",
    refused={
        "distributed": "a gradient has no rotation of its own, and there all start a step from the same factors; "
        "method fedit is the same"
    },
    notes="The paper also aligns B in turns and softens the rotation by a weight; here A alone decides it.",
)
