"""What trains in a round, or in one of its local steps, and in which form it goes up.

Guarantees: which entries train follows from plan, round and roster alone, never from data.
Leaves to others: gradients (``adapters.sums``), noise, clip and order of the steps (``torch_trainer``), the choices
themselves (``methods.coin``, ``methods.ranks``, ``Method.in_step``).
Source: docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

import methods
from methods import ranks
from methods.coin import chosen_layers, gathered, layer_of
from methods.count_sketch import Tables
from methods.uploads import Steps, encoded
from methods.vectors import local_places, local_streams, places
from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.sums import GradientSums
from participant.training.adapters.switched import blocks_with
from privacy.adapter_parts import Role, Turn
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
        places: in the state, and what stays at home behind it, of the entries that train in the turn.
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
            sums = replace(sums, skipped=resting_layers(sums.engine.adapted, number))
        shared, every = places(recipe, turn), local_places(recipe, turn)
        work = cls(recipe, number, turn, every, np.arange(every.size), sums)
        return work.of_columns(np.concatenate([gathered(recipe, number), np.arange(shared.size, every.size)]))

    @property
    def learning_rates(self) -> Wide:
        """The local learning rate of every entry that trains in the turn."""
        streams = local_streams(self.recipe, self.turn)
        rates = [rate_of(self.recipe.training, stream.name) for stream in streams]
        return np.repeat(np.array(rates), [stream.length for stream in streams])

    def uploaded(self, start: Vector, end: Wide, kept: Vector, steps: int) -> tuple[Wide, Vector]:
        """Return how far local steps led, in the form that goes up, and what stays at home.

        Args:
            start: state before them, and what stays at home behind it.
            end: state after them.
            kept: what had stayed at home.
            steps: how many they were.
        """
        done = Steps(
            number=self.number,
            start=start.astype(np.float64),
            end=end,
            kept=kept,
            reach=steps * self.learning_rates,
        )
        return encoded(methods.get(self.recipe.adapter.method), self.recipe, done)

    def pull(self, start: Vector, kept: Vector) -> Wide:
        """Return what the method adds to each gradient, shape (entries that train,): no data is read for it."""
        pull = methods.get(self.recipe.adapter.method).pull
        return np.zeros(self.places.size) if pull is None else pull(self.recipe, start.astype(np.float64), kept)

    def as_summed(self) -> RoundWork:
        """Return the same round, each example's gradient in the form that is summed."""
        sketched = self.recipe.upload.kind == "count-sketch"
        return replace(self, sums=replace(self.sums, sketch=Tables.of(self.recipe))) if sketched else self

    def at_home(self, sums: GradientSums) -> RoundWork:
        """Return what trains at home by itself after this round's steps: a turn of what stays there.

        Args:
            sums: of its gradients.
        """
        first, count = self.recipe.state_entries, sums.engine.adapted.entries
        turn = self.turn.model_copy(update={"trains": (Role.PERSONAL.value,)})
        return RoundWork(self.recipe, self.number, turn, first + np.arange(count), np.arange(count), sums)

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


def resting_layers(adapted: AdaptedModel, number: int) -> tuple[nn.Module, ...]:
    """Return the layers of a model whose adapters rest in a round, where the mask is of layers."""
    chosen = chosen_layers(adapted.recipe, number)
    resting = [one for tensor, one in adapted.placed if layer_of(tensor.key) not in {None, *chosen}]
    return tuple(blocks_with(adapted.model, resting))
