"""FedEx-LoRA: the mean of the factors is corrected by a residual that goes into the base, so that the mean is exact.

Guarantees: after each round the adapted weights are those of the exact mean of the products, and the factors keep
their rank and their basis. By how much the adapted weights move is part of the state, computed from sums
alone. What leaves is one LoRA of the factors beside the whole of what the base has moved, of its full rank, so that
PEFT loads it on the base as it was.
Source: Singhal et al., "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models",
ACL 2025, arXiv:2410.09432.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method, Published
from methods.optimizer import OptimizerState, Wide
from methods.products import BASE, best_factors, modules, stepped, taken_apart
from methods.selectors import Selector
from methods.vectors import READS, WRITES, split
from privacy.adapter_options import LoraOptions
from privacy.adapter_parts import Adapter, Role
from privacy.draft import Recipe
from privacy.errors import LocalError


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state whose factors are the means, and whose base has what the mean product has beside theirs.

    Args:
        recipe: names the tensors.
        state: of the previous round.
        direction: means of the products' differences, of the factors' and of the head's.
    """
    moved, (start, end) = taken_apart(recipe, direction), stepped(recipe, state, direction)
    before, after = split(recipe, start), split(recipe, end)  # views of the vectors
    for reads, writes in modules(recipe):
        product = before[writes] @ before[reads] + float(recipe.optimizer.learning_rate) * moved[writes]
        after[reads.removesuffix(READS) + BASE] += scale(recipe.adapter) * (product - after[writes] @ after[reads])
    vector = end.astype(np.float32)
    return replace(state, round=state.round + 1, iterate=vector, average=vector)


def scale(adapter: Adapter) -> float:
    """Return the factor by which PEFT multiplies the product of a plan's factors."""
    if not isinstance(adapter.options, LoraOptions):
        raise LocalError("E-BUG", f"options of {adapter.options.peft_type} came to FedEx-LoRA")
    return float(adapter.options.alpha) / adapter.options.rank


def of_full_rank(adapter: Adapter, tensors: Published, _initial: Mapping[str, NDArray[Any]]) -> Published:
    """Return the factors with those of what the base moved by below and beside them."""
    published = {key: value for key, value in tensors.items() if not key.endswith(BASE)}
    extra = _full_rank(adapter)
    for key in [key for key in tensors if key.endswith(READS)]:
        layer = key.removesuffix(READS)
        reads, writes = best_factors(tensors[layer + BASE].astype(np.float64) / scale(adapter), extra)
        published[key] = np.concatenate([tensors[key], reads.astype(np.float32)], axis=0)
        published[layer + WRITES] = np.concatenate([tensors[layer + WRITES], writes.astype(np.float32)], axis=1)
    return published


def published_rank(adapter: Adapter) -> dict[str, Any]:
    """Return rank and alpha of what is published; PEFT scales it as it scales the plan's."""
    rank = adapter.rank + _full_rank(adapter)
    return {"r": rank, "lora_alpha": scale(adapter) * rank}


def _full_rank(adapter: Adapter) -> int:
    """Return the largest rank that a move of some adapted weight can have."""
    return max((min(tensor.shape) for tensor in adapter.tensors if tensor.key.endswith(BASE)), default=0)


FEDEX_LORA: Final = Method(
    name="fedex-lora",
    title="FedEx-LoRA",
    category="reparameterised",
    source="Singhal et al., ACL 2025, arXiv:2410.09432",
    peft_type="LORA",
    base_moves=True,
    roles={
        Selector.LORA_A: Role.SHARED,
        Selector.LORA_B: Role.SHARED,
        Selector.BASE: Role.DERIVED,
        Selector.HEAD: Role.SHARED,
    },
    streams={
        ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}),
        "base": frozenset({Selector.BASE}),
        **HEAD,
    },
    upload="products",
    factors_beside=True,
    advance=advance,
    exact_step=False,
    moves_basis=True,
    plain_mean=True,
    publish=of_full_rank,
    published_options=published_rank,
    summed="the product B A of each module, both LoRA factors, and the head",
    size="d k + r (d + k)",
    afterwards="the mean of each factor; what the mean of the products has beside theirs goes into the base's weights",
    refused={
        "distributed": "a product is not linear in one step's gradient of the factors, so a sum of gradients has none; "
        "there FedIT's step is exact"
    },
    notes="The adapted weights of the base travel down every round. For small modules, or without noise.",
)
