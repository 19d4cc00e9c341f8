"""SCAFFOLD: control variates correct each local step for what a participant's data has beside the others'.

A variate is the mean gradient of a participant's last round. Its own, c_i, stays at home; the mean of all, c, is part
of the state. A step goes along g - c_i + c; afterwards c_i becomes c_i - c + (x - y)/(K rate), and its change goes up.

Guarantees: in mode ``local`` the variate is computed from steps that carry their noise, and is post-processing of them;
in ``distributed-participant`` its change is clipped and noised together with the step, so the release has one
sensitivity. A variate counts at home only if its change was in the sum, and changes by what was sent, clipped and
rounded; members that drop out change c by nothing: c stays the mean of everybody's, and of the noise in the sums.
Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
arXiv:1910.06378, Algorithm 1 with option II.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from methods.layout import ADAPTER_STREAM, VARIATES_STREAM
from methods.method import HEAD, Method
from methods.optimizer import OptimizerState, Wide, step
from methods.selectors import VARIATES, Selector
from methods.vectors import Vector
from privacy.adapter_parts import Role
from privacy.draft import HEAD_STREAM, Recipe


def variates_at_start(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a variate of zero for each tensor of an adapter."""
    return {VARIATES + key: np.zeros_like(value) for key, value in tensors.items()}


def variate_entries(recipe: Recipe) -> int:
    """Return how many entries variates have: as many as train."""
    return sum(stream.length for stream in recipe.state if stream.role is Role.SHARED)


def pull(recipe: Recipe, state: Wide, kept: Vector) -> Wide:
    """Return c - c_i, which is added to each gradient.

    Args:
        recipe: of the plan.
        state: at the round's start; c is its last stream.
        kept: c_i.
    """
    return state[recipe.state_entries - kept.size : recipe.state_entries] - kept


def variate_change(recipe: Recipe, start: Wide, change: Wide, reach: Wide) -> Wide:
    """Return by how much c_i changes.

    Args:
        recipe: of the plan.
        start: state at the round's start.
        change: y - x of everything that trains.
        reach: number of steps times the learning rate, for each entry.
    """
    common = start[recipe.state_entries - change.size : recipe.state_entries]
    return -common - change / reach


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after the optimizer's step and that of c.

    Args:
        recipe: of the plan.
        state: of the previous round.
        direction: the mean change of what trains, then that of the variates over the whole roster.
    """
    count = direction.size // 2
    after = step(recipe, state, direction[:count])
    where = slice(recipe.state_entries - count, recipe.state_entries)
    for vector in (after.iterate, after.average):
        vector[where] = (state.iterate[where].astype(np.float64) + direction[count:]).astype(np.float32)
    return after


SCAFFOLD: Final = Method(
    name="scaffold",
    title="SCAFFOLD",
    category="reparameterised",
    source="Karimireddy et al., ICML 2020, arXiv:1910.06378",
    peft_type="LORA",
    roles={
        Selector.LORA_A: Role.SHARED,
        Selector.LORA_B: Role.SHARED,
        Selector.HEAD: Role.SHARED,
        Selector.VARIATE: Role.DERIVED,
    },
    streams={
        ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}),
        HEAD_STREAM: HEAD[HEAD_STREAM],
        VARIATES_STREAM: frozenset({Selector.VARIATE}),
    },
    upload="variates",
    beside_model=variates_at_start,
    over_all=frozenset({VARIATES_STREAM}),
    kept=variate_entries,
    pull=pull,
    advance=advance,
    summed="both LoRA factors and the head, and the change of the control variate of each",
    size="2 r (d + k)",
    afterwards="the mean of each factor; the common variate moves by the variates' mean change over the whole roster",
    refused={
        "distributed": "a round is one step from where all start, and there a variate changes nothing; method fedit is "
        "the same"
    },
    notes="Each participant's own variate stays at home, as large as the adapter. For many local steps on unlike data.",
)
