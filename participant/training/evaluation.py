"""Measuring a released adapter on public data: the evaluator's work, without masks, noise or budgets.

Guarantees: the same adapter, base and data give the same counts; the data's hash says what was measured on.
Leaves to others: who evaluates when (``participant.runs.evaluator``), signing (``privacy.evaluation``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.configurations import whole_modules
from participant.training.adapters.device import find_device
from participant.training.data import Columns, hash_dataset
from participant.training.examples import Examples, load_examples
from participant.training.models import load_base
from participant.training.trainer import Weights
from privacy.draft import Recipe
from privacy.task_parts import require_classification

BATCH = 128  # examples at once; it changes no count


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """How many of how many examples an adapter gets right, and the SHA-256 of that data."""

    correct: int
    examples: int
    data_sha256: bytes


@dataclass(frozen=True, slots=True)
class AdapterEvaluator:
    """A base with its adapter, and public examples: loaded once, for all rounds of a run."""

    adapted: AdaptedModel
    examples: Examples
    data_sha256: bytes

    @classmethod
    def load(
        cls,
        recipe: Recipe,
        *,
        model: Path,
        dataset: Path,
        columns: Columns,
        initial_adapter: Path,
        device: str = "cpu",
        threads: int = 1,
        weights: Weights = "own",
    ) -> AdapterEvaluator:
        """Load everything.

        Args:
            recipe: of the plan.
            model: folder of the base.
            dataset: file or directory of the public data.
            columns: of the dataset.
            initial_adapter: the plan's safetensors file.
            device: as ``participant.toml`` has it.
            threads: of torch.
            weights: how the frozen base lies in memory.

        Raises:
            LocalError: ``E-MODEL-*``, ``E-ADAPTER-HASH``, ``E-DATA-*`` or ``E-DEVICE``.
        """
        torch.set_num_threads(threads)
        place = find_device(device)
        initial = read_initial(initial_adapter, recipe.adapter)
        task = require_classification(recipe.task)
        whole = whole_modules(recipe.adapter)
        base = load_base(model, recipe.base, task, head_modules=whole, seed=recipe.adapter.seed, weights=weights)
        adapted = AdaptedModel.attach(base.model, recipe, initial, place)
        examples = load_examples(dataset, columns, task, base).to(place)
        return cls(adapted, examples, bytes.fromhex(hash_dataset(dataset)))

    def measure(self, adapter: NDArray[np.float32]) -> EvaluationResult:
        """Return how many examples the model gets right with a global adapter, shape (state entries,)."""
        self.adapted.load(adapter)
        correct, count = 0, len(self.examples)
        with torch.no_grad():
            for start in range(0, count, BATCH):
                batch = self.examples.take(np.arange(start, min(start + BATCH, count)))
                guesses = self.adapted.logits(batch.inputs).argmax(dim=1)
                correct += int((guesses == batch.labels).sum())
        return EvaluationResult(correct, count, self.data_sha256)
