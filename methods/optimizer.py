"""What the coordinator does with the decoded mean of a round: one optimizer step, and an average of iterates.

Guarantees: post-processing of the sum alone, deterministic, with all state in :class:`OptimizerState`, so that a
restart continues bit for bit. Leaves to others: decoding the sum and its sign (``coordinator.runs.global_adapter``).
Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021), Algorithm 2, for ``adam`` and ``yogi``; the weight
of the average of iterates is min(e, (r+1)/(r+10)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from methods.coin import gathered
from methods.vectors import Vector, places, trained_streams
from privacy.adapter_parts import Turn
from privacy.draft import Optimizer, Recipe, rate_of

Wide = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """Everything that one round hands to the next; each vector has the shape (state entries,), float32 as on disk.

    Args:
        iterate: the raw iterate, from which the next round starts.
        average: the exponential average of iterates, which is released; equal to ``iterate`` when averaging is off.
        momentum: first moment; zeros where the optimizer has none.
        second: second moment; zeros where the optimizer has none.
    """

    round: int
    iterate: Vector
    average: Vector
    momentum: Vector
    second: Vector

    @classmethod
    def start(cls, initial: Vector) -> OptimizerState:
        """Return the state before round 1."""
        zeros = np.zeros_like(initial)
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


def _moments(optimizer: Optimizer, first: Wide, second: Wide, direction: Wide) -> tuple[Wide, Wide, Wide]:
    beta, beta2, tau = float(optimizer.momentum), float(optimizer.second_momentum), float(optimizer.epsilon)
    match optimizer.name:
        case "mean":
            return first, second, direction
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
