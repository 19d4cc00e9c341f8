"""LoRA-FAIR: factors and products are summed, and the coordinator corrects the mean B so that B A is the mean product.

Guarantees: only sums are used. The correction is the least-squares one with a small penalty on its length, in closed
form where the paper descends along a similarity.
Source: Bian et al., "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement", ICCV 2025,
arXiv:2411.14961.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.optimizer import OptimizerState, Wide
from methods.products import modules, stepped, taken_apart
from methods.selectors import Selector
from methods.vectors import split
from privacy.adapter_parts import Role
from privacy.draft import Recipe

PENALTY: Final = 0.01  # on the correction's squared length, over the mean squared length of A's rows


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state whose A is the mean and whose B is the mean, corrected.

    Args:
        recipe: names the tensors.
        state: of the previous round.
        direction: means of the products' differences, of the factors' and of the head's.
    """
    moved, rate = taken_apart(recipe, direction), float(recipe.optimizer.learning_rate)
    start, end = stepped(recipe, state, direction)
    before, after = split(recipe, start), split(recipe, end)  # views of the vectors
    for reads, writes in modules(recipe):
        product = before[writes] @ before[reads] + rate * moved[writes]
        after[writes] += correction(product - after[writes] @ after[reads], after[reads])
    vector = end.astype(np.float32)
    return replace(state, round=state.round + 1, iterate=vector, average=vector)


def correction(missing: Wide, reads: Wide) -> Wide:
    """Return C that brings C A nearest to what is missing, with a small penalty on C.

    Args:
        missing: shape (outputs, inputs).
        reads: A, shape (rank, inputs).
    """
    squares = reads @ reads.T
    penalty = PENALTY * float(np.trace(squares)) / len(squares)
    if penalty == 0:
        return np.zeros((len(missing), len(reads)))  # nothing can be reached through rows of zeros
    transposed = np.linalg.solve(squares + penalty * np.eye(len(squares)), reads @ missing.T)
    return transposed.T.astype(np.float64)


LORA_FAIR: Final = Method(
    name="lora-fair",
    title="LoRA-FAIR",
    category="reparameterised",
    source="Bian et al., ICCV 2025, arXiv:2411.14961",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    upload="products",
    factors_beside=True,
    advance=advance,
    exact_step=False,
    moves_basis=True,
    plain_mean=True,
    summed="the product B A of each module, both LoRA factors, and the head",
    size="d k + r (d + k)",
    afterwards="the mean of A; the mean of B, corrected so that B A comes nearest to the exact mean of the products",
    refused={
        "distributed": "a product is not linear in one step's gradient of the factors, so a sum of gradients has none; "
        "there FedIT's step is exact"
    },
    notes="Sums more than FlexLoRA and keeps the factors' own basis. For small modules, or without noise.",
)
