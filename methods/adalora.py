"""AdaLoRA: the update of a layer is P L Q with a diagonal L, and the coordinator shares a shrinking rank out to layers.

Guarantees: importance is the size of each diagonal entry in the state that was released anyway, and the pull of P and Q
towards orthogonality reads that state alone: both are post-processing of a sum, and cost no privacy. An entry that is
set to zero has a gradient still and may come back. (The paper's importance also reads gradients of single batches,
and its pull acts in each local step.)
Source: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023,
arXiv:2303.10512.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.optimizer import OptimizerState, Wide, step
from methods.selectors import Selector, select
from methods.vectors import Vector, joined, split
from privacy.adapter_options import AdaLoraOptions
from privacy.adapter_parts import Role
from privacy.draft import Recipe
from privacy.errors import LocalError

PULL: Final = 0.1  # share of the way to orthonormal that a factor goes in a round, at most
SHRINKS_UNTIL: Final = 0.7  # share of the rounds after which the budget is what the plan aims at


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after the optimizer's step, its factors pulled and its diagonals cut to the round's budget."""
    after = step(recipe, state, direction)
    iterate, average = (shaped(recipe, vector, after.round) for vector in (after.iterate, after.average))
    return replace(after, iterate=iterate, average=average)


def shaped(recipe: Recipe, vector: Vector, round_number: int) -> Vector:
    """Return a state with its factors pulled towards orthonormal ones, and its smallest diagonal entries at zero."""
    tensors = {key: value.astype(np.float64) for key, value in split(recipe, vector).items()}
    kinds = {key: select(key, recipe.adapter.options, recipe.adapter.head_modules) for key in tensors}
    for key, value in tensors.items():
        if kinds[key] is Selector.LORA_A:
            tensors[key] = pulled(value)
        elif kinds[key] is Selector.LORA_B:
            tensors[key] = pulled(value.T).T
    values = {key: value for key, value in tensors.items() if kinds[key] is Selector.DIAGONAL}
    sizes = np.abs(np.concatenate([value.reshape(-1) for value in values.values()]))
    kept = budget(recipe, round_number) * len(values)
    if kept < sizes.size:
        least = np.sort(sizes)[::-1][kept - 1]
        tensors |= {key: np.where(np.abs(value) >= least, value, 0) for key, value in values.items()}
    return joined(recipe, tensors)


def budget(recipe: Recipe, round_number: int) -> int:
    """Return the mean rank of a layer after a round: from the first to the target, along a cubic curve."""
    options = recipe.adapter.options
    if not isinstance(options, AdaLoraOptions):
        raise LocalError("E-BUG", f"options of {options.peft_type} came to AdaLoRA")
    left = max(0.0, 1 - round_number / max(1.0, SHRINKS_UNTIL * recipe.rounds))
    return options.target_rank + round((options.rank - options.target_rank) * left**3)


def pulled(rows: Wide) -> Wide:
    """Return rows that are nearer to orthonormal: a step along the gradient of |R R^T - 1|^2, never longer than R."""
    gradient = (rows @ rows.T - np.eye(len(rows))) @ rows
    return rows - PULL * gradient / max(1.0, float(np.linalg.norm(rows, 2)) ** 2)


ADALORA: Final = Method(
    name="adalora",
    title="AdaLoRA",
    category="reparameterised",
    source="Zhang et al., ICLR 2023, arXiv:2303.10512",
    peft_type="ADALORA",
    roles={
        Selector.LORA_A: Role.SHARED,
        Selector.LORA_B: Role.SHARED,
        Selector.DIAGONAL: Role.SHARED,
        Selector.HEAD: Role.SHARED,
    },
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B, Selector.DIAGONAL}), **HEAD},
    advance=advance,
    exact_step=False,
    summed="both factors, the diagonals, and the head",
    size="r (d + k + 1)",
    afterwards="the mean of each; then the smallest diagonal entries of all layers are set to zero, down to the "
    "round's budget, and the factors are pulled towards orthonormal ones",
    notes="rank is that of the first rounds, target_rank the mean over layers of the last.",
)
