"""Double linear sketches of products: two thin matrices in place of each module's B A, and their mean taken apart.

A module's mean product M of d outputs and k inputs is summed as M O and P M, with public matrices O of random signs, k
x c, and P, 2c x d. With Q an orthonormal basis of what M O spans, Q (P Q)^+ (P M) is M itself where M has at most c
singular values, and close to the best approximation of that rank otherwise. A few more columns of O take no part in
that: what is missing in them is the error of the rest.

Guarantees: sketches are linear, so the mean of the sketches is the sketch of the mean; no matrix of the size of a
module is made by a participant. The signs are hash values of plan and round, the same on every machine.
Leaves to others: which method sums them (``fedask``).
Source: Halko, Martinsson, Tropp, arXiv:0909.4061, for the error; Tropp, Yurtsever, Udell, Cevher, "Practical Sketching
Algorithms for Low-Rank Matrix Approximation", arXiv:1609.00048, for the one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from methods.coin import signs
from methods.optimizer import OptimizerState, Wide
from methods.products import best_factors, module_keys, modules, stepped_head
from methods.vectors import joined, split
from privacy.adapter_parts import Sketch, Tensor
from privacy.draft import Recipe
from privacy.errors import LocalError

ROWS_PER_COLUMN: Final = (
    2  # rows of P for each column of O, so that P Q is well conditioned (Tropp et al., section 4.5)
)
PROBES: Final = 4  # columns that show the error


def sketch_entries(tensors: Sequence[Tensor], columns: int) -> int:
    """Return how many entries the sketches of all products have."""
    shapes = {tensor.key: tensor.shape for tensor in tensors}
    return sum(
        (columns + PROBES) * shapes[writes][0] + ROWS_PER_COLUMN * columns * shapes[reads][1]
        for reads, writes in module_keys(shapes)
    )


def differences(recipe: Recipe, number: int, start: Wide, end: Wide) -> Wide:
    """Return the sketches of each module's product at the end minus those at the start; flat, M O then P M.

    Args:
        recipe: names the tensors.
        number: of the round.
        start: state at the round's start, shape (state entries,).
        end: state after the local steps, of the same shape.
    """
    before, after = (split(recipe, state) for state in (start, end))
    parts = []
    for reads, writes in modules(recipe):
        right, left = _matrices(recipe, number, writes, before[writes].shape[0], before[reads].shape[1])
        was, now = (_sketched(state[writes], state[reads], right, left) for state in (before, after))
        parts += [(new - old).reshape(-1) for old, new in zip(was, now, strict=True)]
    return np.concatenate(parts)


def recovered(recipe: Recipe, state: OptimizerState, direction: Wide) -> Iterator[tuple[str, str, Wide, float]]:
    """Yield for each module the keys of A and B, its mean product, and the relative error that the probes show.

    Args:
        recipe: names the tensors.
        state: of the previous round.
        direction: mean of :func:`differences`.
    """
    number, start = state.round + 1, 0
    rate = float(recipe.optimizer.learning_rate)
    tensors = {key: value.astype(np.float64) for key, value in split(recipe, state.iterate).items()}
    for reads, writes in modules(recipe):
        outputs, inputs = tensors[writes].shape[0], tensors[reads].shape[1]
        right, left = _matrices(recipe, number, writes, outputs, inputs)
        parts = []
        for was in _sketched(tensors[writes], tensors[reads], right, left):
            parts.append(was + rate * direction[start : start + was.size].reshape(was.shape))
            start += was.size
        product = _product(parts[0][:, :-PROBES], parts[1], left)
        probes = parts[0][:, -PROBES:]
        missing = np.linalg.norm(probes - product @ right[:, -PROBES:])
        yield reads, writes, product, float(missing / max(np.linalg.norm(probes), np.finfo(np.float64).tiny))


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state whose factors are the best of their rank for the mean product.

    Args:
        recipe: names the tensors.
        state: of the previous round.
        direction: mean of :func:`differences`, and of the head's.
    """
    tensors = {key: value.astype(np.float64) for key, value in split(recipe, state.iterate).items()}
    for reads, writes, product, _ in recovered(recipe, state, direction):
        tensors[reads], tensors[writes] = best_factors(product, len(tensors[reads]))
    vector = stepped_head(recipe, joined(recipe, tensors), direction)
    return replace(state, round=state.round + 1, iterate=vector, average=vector)


def error(recipe: Recipe, state: OptimizerState, direction: Wide) -> float:
    """Return the largest relative error of a module's mean product, in the Frobenius norm, as its probes show it.

    It is an estimate, with a relative deviation of about a third; noise counts as error.
    """
    return max(found for *_, found in recovered(recipe, state, direction))


def _sketched(writes: Wide, reads: Wide, right: Wide, left: Wide) -> tuple[Wide, Wide]:
    return writes @ (reads @ right), (left @ writes) @ reads


def _product(columns: Wide, rows: Wide, left: Wide) -> Wide:
    basis = np.linalg.svd(columns, full_matrices=False)[0]
    found, *_ = np.linalg.lstsq(left @ basis, rows, rcond=None)
    product: Wide = basis @ found
    return product


def _matrices(recipe: Recipe, number: int, key: str, outputs: int, inputs: int) -> tuple[Wide, Wide]:
    """Return the public matrices O, shape (inputs, columns and probes), and P, shape (rows, outputs), of a module."""
    if not isinstance(recipe.upload, Sketch):
        raise LocalError("E-BUG", "a sketch was asked for where the plan has none")
    columns = recipe.upload.columns
    right = signs(recipe, number, f"columns of {key}", (inputs, columns + PROBES)) / np.sqrt(inputs)
    return right, signs(recipe, number, f"rows of {key}", (ROWS_PER_COLUMN * columns, outputs)) / np.sqrt(outputs)
