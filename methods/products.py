"""Products of LoRA's factors: what goes up in place of the factors, and the factors that come out of their mean.

Guarantees: what is summed is each module's B A minus that of the round's start, so that its mean is the exact mean of
the products; the next factors are that product's best approximation of the plan's rank, A's rows orthonormal.
Leaves to others: when (``method``), the head, which is summed as differences and stepped on as in every method.
Source: Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources",
NeurIPS 2024, arXiv:2402.11505.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from methods.optimizer import OptimizerState, Wide, learning_rates
from methods.vectors import READS, WRITES, Vector, joined, places, split
from privacy.adapter_parts import Tensor
from privacy.draft import HEAD_STREAM, Recipe, rate_of

BASE = ".base_layer.weight"  # what lies under them


def product_entries(tensors: Sequence[Tensor]) -> int:
    """Return how many entries the products of an adapter's factors have."""
    shapes = {tensor.key: tensor.shape for tensor in tensors}
    return sum(shapes[reads][1] * shapes[writes][0] for reads, writes in module_keys(shapes))


def differences(recipe: Recipe, start: Wide, end: Wide, *, factors_beside: bool = False) -> Wide:
    """Return each module's product at the end minus that at the start, and the head's difference; flat.

    Args:
        recipe: names the tensors.
        start: state at the round's start, shape (state entries,).
        end: state after the local steps, of the same shape.
        factors_beside: whether the factors' differences stand between the two.
    """
    before, after = (split(recipe, state) for state in (start, end))
    products = [after[writes] @ after[reads] - before[writes] @ before[reads] for reads, writes in modules(recipe)]
    rest = (end - start)[places(recipe, recipe.turns[0]) if factors_beside else head_of(recipe)]
    return np.concatenate([*(product.reshape(-1) for product in products), rest])


def taken_apart(recipe: Recipe, direction: Wide) -> dict[str, Wide]:
    """Return the products' part of a direction by the key of each module's B, shape (outputs, inputs)."""
    shapes, products, start = {tensor.key: tensor.shape for tensor in recipe.adapter.tensors}, {}, 0
    for reads, writes in modules(recipe):
        shape = shapes[writes][0], shapes[reads][1]
        products[writes] = direction[start : start + shape[0] * shape[1]].reshape(shape)
        start += products[writes].size
    return products


def stepped(recipe: Recipe, state: OptimizerState, direction: Wide) -> tuple[Wide, Wide]:
    """Return a state before and after the steps of factors and head, where these go up beside the products.

    Args:
        recipe: names the streams.
        state: of the previous round.
        direction: means of :func:`differences` with the factors.
    """
    turn, start = recipe.turn(state.round + 1), state.iterate.astype(np.float64)
    moved, end = direction[product_entries(recipe.adapter.tensors) :], start.copy()
    end[places(recipe, turn)] += learning_rates(recipe, turn) * moved
    return start, end


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state whose factors are the best of their rank for the mean product.

    Args:
        recipe: names the tensors.
        state: of the previous round.
        direction: mean of :func:`differences`.
    """
    tensors = {key: value.astype(np.float64) for key, value in split(recipe, state.iterate).items()}
    rate, moved = float(recipe.optimizer.learning_rate), taken_apart(recipe, direction)
    for reads, writes in modules(recipe):
        product = tensors[writes] @ tensors[reads] + rate * moved[writes]
        tensors[reads], tensors[writes] = best_factors(product, len(tensors[reads]))
    vector = stepped_head(recipe, joined(recipe, tensors), direction)
    return replace(state, round=state.round + 1, iterate=vector, average=vector)


def stepped_head(recipe: Recipe, state: Vector, direction: Wide) -> Vector:
    """Return a state whose head has gone its step along the end of a direction."""
    iterate, head = state.astype(np.float64), head_of(recipe)
    iterate[head] += rate_of(recipe.optimizer, HEAD_STREAM) * direction[direction.size - iterate[head].size :]
    return iterate.astype(np.float32)


def best_factors(product: Wide, rank: int) -> tuple[Wide, Wide]:
    """Return A with orthonormal rows and B, of a rank, whose product is closest to a matrix.

    Args:
        product: shape (outputs, inputs).
        rank: of the factors; where the matrix has fewer singular vectors the others are zero.
    """
    left, values, right = np.linalg.svd(product, full_matrices=False)
    reads, writes = right[:rank], (left * values)[:, :rank]
    signs = np.sign(reads[np.arange(len(reads)), np.abs(reads).argmax(axis=1)])
    missing = rank - len(reads)
    return np.pad(signs[:, None] * reads, ((0, missing), (0, 0))), np.pad(writes * signs, ((0, 0), (0, missing)))


def module_keys(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the keys of A and B of each module among these, in their order."""
    return ((key, key.removesuffix(READS) + WRITES) for key in keys if key.endswith(READS))


def modules(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the keys of A and B of each module that a recipe adapts, in the order of the vector."""
    return module_keys(tensor.key for tensor in recipe.adapter.tensors)


def head_of(recipe: Recipe) -> slice:
    """Return where the head lies in the state: at its end, if there is one."""
    length = sum(stream.length for stream in recipe.state if stream.name == HEAD_STREAM)
    return slice(recipe.state_entries - length, None)
