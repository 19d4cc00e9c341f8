"""What the coordinator does with the decoded mean of a round: one optimizer step, and an average of iterates.

Guarantees: post-processing of the sum alone, deterministic, with all state in :class:`OptimizerState`, so that a
restart continues bit for bit. Leaves to others: decoding the sum and its sign (``coordinator.runs.global_adapter``).
Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021), Algorithm 2, for ``adam`` and ``yogi``; the weight
of the average of iterates is min(e, (r+1)/(r+10)).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from methods.coin import gathered
from methods.vectors import Vector, places, trained_streams
from privacy.adapter_parts import Turn
from privacy.draft import Optimizer, Recipe, rate_of

Wide = NDArray[np.float64]
BLOCK: Final = 2**15  # entries in double precision at a time


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """Everything that one round hands to the next; each vector has the shape (state entries,), float32 as on disk.

    Args:
        iterate: the raw iterate, from which the next round starts.
        average: the exponential average of iterates, which is released; equal to ``iterate`` when averaging is off.
        momentum: first moment; zeros where the optimizer has none.
        second: second moment; zeros where the optimizer has none.
        decoded: where noise is correlated over rounds, the decoded sums of the rounds before, the newest first; each of
            the shape of a sum.
    """

    round: int
    iterate: Vector
    average: Vector
    momentum: Vector
    second: Vector
    decoded: tuple[Vector, ...] = ()

    @classmethod
    def start(cls, initial: Vector) -> OptimizerState:
        """Return the state before round 1."""
        zeros = np.zeros(initial.shape, initial.dtype)  # unlike zeros_like takes no memory until it is written
        return cls(round=0, iterate=initial, average=initial, momentum=zeros, second=zeros)


def learning_rates(recipe: Recipe, turn: Turn) -> Wide:
    """Return the learning rate of every entry that trains in a turn."""
    streams = trained_streams(recipe, turn)
    rates = [rate_of(recipe.optimizer, stream.name) for stream in streams]
    return np.repeat(np.array(rates), [stream.length for stream in streams])


def step(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after one more round; what did not train in it stays as it is, its moments included.

    Args:
        recipe: names the optimizer, the streams and the turns.
        state: of the previous round.
        direction: the mean difference, or minus the mean gradient: always towards lower loss; shape (entries of the
            round's turn,).
    """
    optimizer, turn = recipe.optimizer, recipe.turn(state.round + 1)
    summed = gathered(recipe, state.round + 1)
    trained = places(recipe, turn)[summed]
    momentum, second = state.momentum.astype(np.float64), state.second.astype(np.float64)
    if state.round == 0 and optimizer.name in {"adam", "yogi"}:
        second[:] = float(optimizer.epsilon) ** 2  # Algorithm 2 starts at v_{-1} >= tau^2
    momentum[trained], second[trained], move = _moments(optimizer, momentum[trained], second[trained], direction)
    iterate = state.iterate.astype(np.float64)
    iterate[trained] += learning_rates(recipe, turn)[summed] * move
    average = _average(optimizer, state, iterate)
    return OptimizerState(
        round=state.round + 1,
        iterate=iterate.astype(np.float32),
        average=average.astype(np.float32),
        momentum=momentum.astype(np.float32),
        second=second.astype(np.float32),
    )


def step_by_blocks(recipe: Recipe, state: OptimizerState, directions: Iterable[tuple[int, Wide]]) -> OptimizerState:
    """Return what :func:`step` does, bit for bit, with no more than one block of it in double precision at a time.

    Args:
        recipe: sums differences: a turn's entries are those of its streams, in the order of the state.
        state: of the previous round; what the optimizer does not change is in both.
        directions: where a block begins among the turn's entries, and its part of the direction: all of them in order,
            each within one stream.
    """
    optimizer, first_round = recipe.optimizer, state.round == 0
    adaptive, e = optimizer.name in {"adam", "yogi"}, float(optimizer.average)
    weight, start_of_second = min(e, (state.round + 1) / (state.round + 10)), float(optimizer.epsilon) ** 2
    iterate = state.iterate.copy()
    average = iterate
    if e:  # also of what does not train: it follows an iterate that stands still
        average = np.empty_like(iterate)
        for at in range(0, iterate.size, BLOCK):
            last, still = (vector[at : at + BLOCK].astype(np.float64) for vector in (state.average, state.iterate))
            average[at : at + BLOCK] = weight * last + (1 - weight) * still
    momentum = state.momentum if optimizer.name == "mean" else state.momentum.copy()
    second = state.second.copy() if adaptive else state.second
    if adaptive and first_round:
        second[:] = start_of_second
    for place, direction, rate in _placed(recipe, recipe.turn(state.round + 1), directions):
        before = second[place].astype(np.float64)
        if adaptive and first_round:
            before[:] = start_of_second  # not rounded
        first, after, move = _moments(optimizer, momentum[place].astype(np.float64), before, direction)
        wide = state.iterate[place] + rate * move
        iterate[place] = wide
        if optimizer.name != "mean":
            momentum[place] = first
        if adaptive:
            second[place] = after
        if e:
            average[place] = weight * state.average[place].astype(np.float64) + (1 - weight) * wide
    return OptimizerState(round=state.round + 1, iterate=iterate, average=average, momentum=momentum, second=second)


def _placed(recipe: Recipe, turn: Turn, directions: Iterable[tuple[int, Wide]]) -> Iterator[tuple[slice, Wide, float]]:
    """Yield where in the state each block of a direction lies, the block, and its learning rate."""
    place = end = 0  # of the streams so far, in the state and among the turn's entries
    blocks = iter(directions)
    for stream in recipe.state:
        if stream.name in turn.trains:
            rate, entry, end = rate_of(recipe.optimizer, stream.name), end, end + stream.length
            while entry < end:
                start, direction = next(blocks)
                if start != entry or start + direction.size > end:
                    raise ValueError(f"the block at {start} does not follow the one that ends at {entry}")
                at = place + start - (end - stream.length)
                yield slice(at, at + direction.size), direction, rate
                entry += direction.size
        place += stream.length


def _moments(optimizer: Optimizer, first: Wide, second: Wide, direction: Wide) -> tuple[Wide, Wide, Wide]:
    beta, beta2, tau = float(optimizer.momentum), float(optimizer.second_momentum), float(optimizer.epsilon)
    match optimizer.name:
        case "mean":
            return first, second, direction
        case "none":
            return first, second, np.zeros_like(direction)
        case "sgd":
            first = beta * first + direction
            return first, second, first
        case "adam" | "yogi":
            first = beta * first + (1 - beta) * direction
            squared = direction * direction
            if optimizer.name == "adam":
                second = beta2 * second + (1 - beta2) * squared
            else:
                second = second - (1 - beta2) * squared * np.sign(second - squared)
            return first, second, first / (np.sqrt(second) + tau)
        case _:
            assert_never(optimizer.name)


def _average(optimizer: Optimizer, state: OptimizerState, iterate: Wide) -> Wide:
    e = float(optimizer.average)
    if e == 0:
        return iterate
    weight = min(e, (state.round + 1) / (state.round + 10))
    return weight * state.average.astype(np.float64) + (1 - weight) * iterate
