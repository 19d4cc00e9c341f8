"""What goes up: how far a round led, in the form in which a method sums it.

Guarantees: a function of plan, round and the states at start and end; its length is the plan's, whatever it says.
Leaves to others: lengths (``layout``), noise, clip and ring (``participant.training``).
Source: docs/methods.md.
"""

from __future__ import annotations

import numpy as np

from methods import count_sketch, products, sketches
from methods.coin import gathered
from methods.method import Method
from methods.optimizer import Wide
from methods.products import head_of
from methods.vectors import places
from privacy.draft import Recipe


def encoded(method: Method, recipe: Recipe, number: int, start: Wide, end: Wide) -> Wide:
    """Return how far local steps led, in the form that goes up, shape (entries of the turn's sums,).

    Args:
        method: of the recipe.
        recipe: of the plan.
        number: of the round.
        start: state before the steps, shape (state entries,).
        end: state after them, of the same shape.
    """
    trained, end = places(recipe, recipe.turn(number)), method.align(recipe, start, end)
    match recipe.upload.kind:
        case "products":
            return products.differences(recipe, start, end, factors_beside=method.factors_beside)
        case "sketch":
            return np.concatenate([sketches.differences(recipe, number, start, end), (end - start)[head_of(recipe)]])
        case "count-sketch":
            return count_sketch.differences(recipe, (end - start)[trained])
        case _:
            return (end - start)[trained[gathered(recipe, number)]]
