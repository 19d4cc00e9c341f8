"""What goes up: how far a round led, in the form in which a method sums it.

Guarantees: a function of plan, round and the states at start and end; its length is the plan's, whatever it says.
What stays at home has moved by what went up, clipped and rounded as that was, where the state is a sum of such moves.
Leaves to others: lengths (``layout``), noise, clip and ring (``participant.training``).
Source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods import count_sketch, fedalt, products, scaffold, sketches
from methods.coin import gathered
from methods.method import Method
from methods.optimizer import Wide
from methods.products import head_of
from methods.vectors import Vector, joined_home, places
from privacy.draft import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Local steps that are done; states are the global one, followed by the tensors that stay at home.

    Attributes:
        number: of the round.
        start: state before the steps.
        end: state after them.
        kept: what had stayed at home before the round.
        reach: by how much the steps move an entry whose gradient is 1 in each, shape (entries that train).
    """

    number: int
    start: Wide
    end: Wide = field(repr=False)
    kept: Vector = field(repr=False)
    reach: Wide


def encoded(method: Method, recipe: Recipe, steps: Steps) -> tuple[Wide, Vector]:
    """Return how far local steps led, in the form that goes up, shape (entries of the turn's sums,), and what stays.

    Args:
        method: of the recipe.
        recipe: of the plan.
        steps: that were taken.
    """
    start, end = steps.start, method.align(recipe, steps.start, steps.end)
    turn = recipe.turn(steps.number)
    trained, home = places(recipe, turn), steps.end[recipe.state_entries :].astype(np.float32)
    change = end - start
    match recipe.upload.kind:
        case "products":
            return products.differences(recipe, start, end, factors_beside=method.factors_beside), home
        case "sketch":
            sketch = sketches.differences(recipe, steps.number, start, end)
            return np.concatenate([sketch, change[head_of(recipe)]]), home
        case "count-sketch":
            return count_sketch.differences(recipe, change[trained]), home
        case "variates":
            moved = scaffold.variate_change(recipe, steps.start, change[trained], steps.reach)
            return np.concatenate([change[trained], moved]), (steps.kept + moved).astype(np.float32)
        case "own":
            return np.concatenate([fedalt.own_change(recipe, change), change[trained]]), home
        case _:
            return change[trained[gathered(recipe, steps.number)]], home


def kept_as_sent(recipe: Recipe, kept: Vector, stays: Vector, sent: NDArray[np.int64], one: float) -> Vector:
    """Return what stays at home, where the state is the mean of everybody's: as far as it went up, and no further.

    Args:
        recipe: of the plan.
        kept: what had stayed at home before the round.
        stays: what would stay if all that :func:`encoded` returned had gone up.
        sent: the integers that did go up, without their noise; shape (entries of the turn's sums,).
        one: what an integer step stands for.
    """
    match recipe.upload.kind:
        case "variates":
            return (kept + one * sent[sent.size // 2 :]).astype(np.float32)
        case "own":
            return fedalt.gone(recipe, kept, stays, sent * np.float64(one))
        case _:
            return stays


def kept_at_start(method: Method, recipe: Recipe, initial: Mapping[str, NDArray[Any]]) -> Vector:
    """Return what stays at home before anything was trained: the initial tensors, or zeros where it is none."""
    home = joined_home(recipe, initial)
    return home if home.size else np.zeros(method.kept(recipe), dtype=np.float32)
