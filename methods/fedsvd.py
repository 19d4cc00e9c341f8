"""FedSVD: B trains, and after each round the coordinator turns the product of both factors into its singular vectors.

Guarantees: only what was summed is used, so that privacy stays as it was; the product B A is kept, and with it every
answer of the model; the rows of A are orthonormal, so that noise on B is not made larger by A, and A follows what was
learnt. A first moment is turned with B; what works entry by entry on a history (second moments, an average of iterates)
would mix two bases and is refused.
Source: Lee et al., "FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA", arXiv:2505.12805.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from methods.method import HEAD, Method
from methods.optimizer import OptimizerState, Wide, step
from methods.selectors import Selector, select
from methods.vectors import READS, WRITES, joined, split
from privacy.adapter_parts import Role
from privacy.draft import Recipe


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after the optimizer's step on B, turned."""
    return turned(recipe, step(recipe, state, direction))


def turned(recipe: Recipe, state: OptimizerState) -> OptimizerState:
    """Return the state with each module's factors in the basis of the singular vectors of their product."""
    tensors = {key: value.astype(np.float64) for key, value in split(recipe, state.iterate).items()}
    momentum = {key: value.astype(np.float64) for key, value in split(recipe, state.momentum).items()}
    for reads, old in list(tensors.items()):
        if select(reads, recipe.adapter.options, recipe.adapter.head_modules) is Selector.LORA_A:
            writes = reads.removesuffix(READS) + WRITES
            tensors[reads], tensors[writes] = singular_factors(old, tensors[writes])
            momentum[writes] = momentum[writes] @ (old @ tensors[reads].T)
    iterate = joined(recipe, tensors)
    return replace(state, iterate=iterate, average=iterate, momentum=joined(recipe, momentum))


def singular_factors(reads: Wide, writes: Wide) -> tuple[Wide, Wide]:
    """Return A' with orthonormal rows and B' with B' A' = B A, largest singular value first.

    Args:
        reads: A, shape (rank, inputs).
        writes: B, shape (outputs, rank).
    """
    left, small_left = np.linalg.qr(writes)
    right, small_right = np.linalg.qr(reads.T)
    turn_left, values, turn_right = np.linalg.svd(small_left @ small_right.T, full_matrices=False)
    new_reads, new_writes = turn_right @ right.T, left @ (turn_left * values)
    largest = np.abs(new_reads).argmax(axis=1)
    signs = np.sign(new_reads[np.arange(len(new_reads)), largest])  # singular vectors have no sign of their own
    missing = len(reads) - len(new_reads)  # a rank above the module's width
    return np.pad(signs[:, None] * new_reads, ((0, missing), (0, 0))), np.pad(
        new_writes * signs, ((0, 0), (0, missing))
    )


FEDSVD: Final = Method(
    name="fedsvd",
    title="FedSVD",
    category="reparameterised",
    source="Lee et al., arXiv:2505.12805",
    peft_type="LORA",
    start="orthonormal",
    roles={Selector.LORA_A: Role.DERIVED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={"a": frozenset({Selector.LORA_A}), "b": frozenset({Selector.LORA_B}), **HEAD},
    summed="the LoRA factor B, and the head",
    size="r d",
    afterwards="the mean of B, which is exact because A is common; then A becomes the right singular vectors of B A, "
    "and B what keeps the product",
    advance=advance,
    exact_step=False,
    moves_basis=True,
    notes="Both factors travel down every round, B alone goes up. Optimizers mean and sgd, without an average.",
)
