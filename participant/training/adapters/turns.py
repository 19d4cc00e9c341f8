"""Turns: in each kind of round other tensors of one model train, and each has a gradient engine of its own.

Guarantees: in the turn at hand exactly its tensors have gradients; hooks of another turn's engine are off.
Leaves to others: which round takes which turn (``privacy.draft.Recipe``), what an engine computes (``gradients``).
"""

from __future__ import annotations

import numpy as np
import torch

import methods
from methods.method import Fusion, Home
from methods.second_lora import weighed
from methods.vectors import Vector
from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.directions import DirectionEngine
from participant.training.adapters.fast import FastEngine, PerExampleGradients, choose_engine
from participant.training.adapters.gradients import GradientEngine
from participant.training.examples import Examples
from participant.training.trainer import EngineName


class TurnEngines:
    """The engines of an adapted model.

    Args:
        adapted: the model.
        synthetic: synthetic examples, on which the fast engine shows that it knows every layer.
        engine: the owner's wish.
    """

    def __init__(self, adapted: AdaptedModel, synthetic: Examples, engine: EngineName) -> None:
        self.adapted = adapted
        self._synthetic = synthetic
        self._wish = engine
        self._fast: dict[int, FastEngine] = {}  # a fast engine hooks nothing outside of a call, so it can be kept
        self._entered: tuple[int, GradientEngine] | None = None

    @property
    def turns(self) -> range:
        """The numbers of the plan's turns."""
        return range(len(self.adapted.recipe.turns))

    def enter(self, turn: int) -> GradientEngine:
        """Let the tensors of a turn train, and return the engine that computes their gradients.

        Args:
            turn: its number in the plan, from 0.

        Raises:
            LocalError: ``E-SELF-CHECK``, no engine knows a layer.
        """
        if self._entered is not None and self._entered[0] == turn:
            return self._entered[1]
        if self._entered is not None:
            self._entered[1].close()
        adapted = self.adapted.in_turn(self.adapted.recipe.turns[turn])
        engine: GradientEngine
        if turn in self._fast:
            engine = self._fast[turn]
        else:
            engine = self._made(adapted)
            if isinstance(engine, FastEngine):
                self._fast[turn] = engine
        self._entered = turn, engine
        return engine

    def _made(self, adapted: AdaptedModel) -> GradientEngine:
        if not adapted.moved:
            return choose_engine(adapted, self._synthetic, engine=self._wish)
        head = adapted.trained[1:]
        return DirectionEngine(adapted, PerExampleGradients(adapted.model, head) if head else None)

    def at_home(self, home: Home = "") -> GradientEngine:
        """Let what stays at home train by itself, and return an engine for sums of its gradients.

        Args:
            home: how it is switched on; by default as the method says.
        """
        if self._entered is not None:
            self._entered[1].close()
        self._entered = None
        return FastEngine(self.adapted.at_home(home))

    def best_fusion(self, examples: Examples, vector: Vector) -> Fusion:
        """Return the weights of the shared LoRA and of one's own at which the loss over one's own rows is least.

        Args:
            examples: of the dataset.
            vector: a state, and what stays at home behind it.
        """
        engine, recipe = self.at_home("beside"), self.adapted.recipe
        rows = np.setdiff1d(np.arange(len(examples)), examples.unusable)
        batches = np.split(rows, np.arange(0, rows.size, recipe.training.micro_batch)[1:])

        def loss(weights: Fusion) -> float:
            engine.adapted.load(weighed(recipe, vector, weights))
            with torch.no_grad():
                return sum(float(engine.losses(examples.take(batch)).double().sum()) for batch in batches)

        return min(methods.get(recipe.adapter.method).fusions, key=loss)
