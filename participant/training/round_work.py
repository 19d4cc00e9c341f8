"""What trains in a round, or in one of its local steps, and in which form it goes up.

Guarantees: which entries train follows from plan, round and roster alone, never from data.
Leaves to others: gradients (``adapters.sums``), noise, clip and order of the steps (``torch_trainer``), the choices
themselves (``methods.coin``, ``methods.ranks``, ``Method.in_step``).
Source: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

import methods
from methods import ranks
from methods.coin import chosen_layers, gathered, layer_of
from methods.count_sketch import Tables
from methods.uploads import encoded
from methods.vectors import places, state_tensors, trained_streams
from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.skipping import blocks_with
from participant.training.adapters.sums import GradientSums
from privacy.adapter_parts import Turn
from privacy.draft import Recipe, rate_of
from privacy.plan_parts import Member

Vector = NDArray[np.float32]
Wide = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RoundWork:
    """What trains in a round.

    Attributes:
        recipe: of the plan.
        number: of the round.
        turn: of the round.
        places: in the state, of the entries that train in the turn.
        columns: which of these move; all, or what a mask or a step lets.
        sums: sums of their gradients over the owner's data.
    """

    recipe: Recipe
    number: int
    turn: Turn
    places: Integers
    columns: Integers
    sums: GradientSums

    @classmethod
    def of_round(cls, recipe: Recipe, number: int, member: Member, sums: GradientSums) -> RoundWork:
        """Return what a member trains in a round: all of its turn, or what mask and rank let.

        Args:
            recipe: of the plan.
            number: of the round, from 1.
            member: of the roster.
            sums: of the round's turn.
        """
        turn = recipe.turn(number)
        if recipe.counts == "rank":
            sums = replace(sums, held=ranks.held(recipe, turn, member))
        if methods.get(recipe.adapter.method).skips_layers:
            sums = replace(sums, skipped=_left_out(sums.engine.adapted, chosen_layers(recipe, number)))
        every = places(recipe, turn)
        return cls(recipe, number, turn, every, np.arange(every.size), sums).of_columns(gathered(recipe, number))

    @property
    def learning_rates(self) -> Wide:
        """The local learning rate of every entry that trains in the turn."""
        streams = trained_streams(self.recipe, self.turn)
        rates = [rate_of(self.recipe.training, stream.name) for stream in streams]
        return np.repeat(np.array(rates), [stream.length for stream in streams])

    def uploaded(self, start: Vector, end: Wide) -> Wide:
        """Return how far local steps led, in the form that goes up, shape (entries of the turn's sums,).

        Args:
            start: state before them.
            end: state after them.
        """
        method = methods.get(self.recipe.adapter.method)
        return encoded(method, self.recipe, self.number, start.astype(np.float64), end)

    def as_summed(self) -> RoundWork:
        """Return the same round, each example's gradient in the form that is summed."""
        sketched = self.recipe.upload.kind == "count-sketch"
        return replace(self, sums=replace(self.sums, sketch=Tables.of(self.recipe))) if sketched else self

    def start(self, adapter: Vector) -> Vector:
        """Return the global adapter as far as this participant trains it: zero beyond its own rank."""
        if self.sums.held is None:
            return adapter
        own = adapter.copy()
        own[self.places] *= self.sums.held
        return own

    def in_step(self, step: int) -> RoundWork:
        """Return what trains in a local step, counted through the run from 0: all of it, or what has its turn."""
        columns = methods.get(self.recipe.adapter.method).in_step(self.recipe, self.turn, step)
        return self if columns is None else self.of_columns(columns)

    def of_columns(self, columns: Integers) -> RoundWork:
        """Return the same round with some of the entries that train."""
        some = columns.size < self.places.size
        return replace(self, columns=columns, sums=replace(self.sums, columns=columns if some else None))


def _left_out(adapted: AdaptedModel, chosen: Collection[int]) -> tuple[nn.Module, ...]:
    """Return the layers of a model whose adapters rest in a round."""
    tensors = zip(state_tensors(adapted.recipe), adapted.state, strict=True)
    resting = [one for tensor, one in tensors if layer_of(tensor.key) not in {None, *chosen}]
    return tuple(blocks_with(adapted.model, resting))
