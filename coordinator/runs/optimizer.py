"""What the coordinator does with the decoded mean of a round: one optimizer step, and an average of iterates.

Guarantees: post-processing of the sum alone, deterministic, with all state in :class:`OptimizerState`, so that a
restart continues bit for bit. Leaves to others: decoding the sum and its sign (``coordinator.runs.global_adapter``).
Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021), Algorithm 2, for ``adam`` and ``yogi``; the weight of
the average of iterates is min(e, (r+1)/(r+10)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from privacy.draft import Optimizer, Recipe

HEAD_STREAM = "head"  # the stream that takes head_learning_rate

Vector = NDArray[np.float32]
Wide = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """Everything that one round hands to the next; each vector has the plan's entries, float32 as on disk.

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


def learning_rates(recipe: Recipe) -> Wide:
    """Return the learning rate of every entry: the head stream has its own."""
    optimizer = recipe.optimizer
    rates = (
        float(optimizer.head_learning_rate if stream.name == HEAD_STREAM else optimizer.learning_rate)
        for stream in recipe.layout
    )
    lengths = [stream.length for stream in recipe.layout]
    return np.repeat(np.fromiter(rates, dtype=np.float64), lengths)


def step(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after one more round.

    Args:
        recipe: names the optimizer and the streams.
        state: of the previous round.
        direction: the mean difference, or minus the mean gradient: always towards lower loss; shape (entries,).
    """
    optimizer = recipe.optimizer
    momentum, second, move = _moments(optimizer, state, direction)
    iterate = state.iterate.astype(np.float64) + learning_rates(recipe) * move
    average = _average(optimizer, state, iterate)
    return OptimizerState(
        round=state.round + 1,
        iterate=iterate.astype(np.float32),
        average=average.astype(np.float32),
        momentum=momentum.astype(np.float32),
        second=second.astype(np.float32),
    )


def _moments(optimizer: Optimizer, state: OptimizerState, direction: Wide) -> tuple[Wide, Wide, Wide]:
    first, second = state.momentum.astype(np.float64), state.second.astype(np.float64)
    beta, beta2, tau = float(optimizer.momentum), float(optimizer.second_momentum), float(optimizer.epsilon)
    match optimizer.name:
        case "mean":
            return first, second, direction
        case "sgd":
            first = beta * first + direction
            return first, second, first
        case "adam" | "yogi":
            if state.round == 0:
                second = np.full_like(second, tau * tau)  # Algorithm 2 starts at v_{-1} >= tau^2
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
