"""Measuring a released adapter on public data: the evaluator's work, without masks, noise or budgets.

Guarantees: the same adapter, base and data give the same figures; the data's hash says what was measured on.
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
from participant.training.adapters.prefix import KeptActivations, shortened_to_measure
from participant.training.data import Columns, hash_dataset
from participant.training.examples import Examples, load_examples
from participant.training.models import Base, load_base
from participant.training.trainer import Weights
from privacy.draft import Recipe
from privacy.evaluation import Metric


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An adapter's figures over some examples, sorted by name, and the SHA-256 of that data."""

    examples: int
    metrics: tuple[Metric, ...]
    data_sha256: bytes


@dataclass(frozen=True, slots=True)
class AdapterEvaluator:
    """A base with its adapter, and public examples: loaded once, for all rounds of a run."""

    adapted: AdaptedModel
    base: Base
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
        kept: KeptActivations | None = None,
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
            kept: activations of other evaluators of this process; only for simulations.

        Raises:
            LocalError: ``E-MODEL-*``, ``E-ADAPTER-HASH``, ``E-DATA-*`` or ``E-DEVICE``.
        """
        torch.set_num_threads(threads)
        place = find_device(device)
        initial = read_initial(initial_adapter, recipe.adapter)
        task, whole = recipe.task, whole_modules(recipe.adapter)
        base = load_base(model, recipe.base, task, head_modules=whole, seed=recipe.adapter.seed, weights=weights)
        adapted = AdaptedModel.attach(base.model, recipe, initial, place)
        examples = load_examples(dataset, columns, task, base).to(place)
        if adapted.work.cacheable:  # each round measures anew: what never changes is computed once
            examples = shortened_to_measure(adapted, examples, recipe.training.micro_batch, kept)
        return cls(adapted, base, examples, bytes.fromhex(hash_dataset(dataset)))

    def measure(self, adapter: NDArray[np.float32]) -> EvaluationResult:
        """Return the figures of the model with a global adapter, shape (state entries,)."""
        self.adapted.load(adapter)
        work, count, size = self.adapted.work, len(self.examples), self.adapted.recipe.training.micro_batch
        tally = work.tally()
        with torch.no_grad():
            for start in range(0, count, size):
                batch = self.examples.take(np.arange(start, min(start + size, count)))
                tally.add(self.adapted.logits(batch.inputs), batch.labels)
        counted = (Metric.of(name, value) for name, value in tally.metrics())
        written = work.generated(self.adapted.model, self.base, self.examples)
        metrics = tuple(sorted([*filter(None, counted), *written]))
        return EvaluationResult(count, metrics, self.data_sha256)
