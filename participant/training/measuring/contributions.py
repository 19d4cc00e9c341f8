"""What rows and units of privacy add to the vector of a measurement.

Guarantees: a row adds at most 1 to the norm of each stream, whatever the model answers, and its share follows from its
own inputs, label and answer alone; a user adds the mean of its rows, added up in their order. A row that the plan
cannot use adds nothing.
Leaves to others: whole numbers (``privacy.dp.clipping``), sampling and noise (``trainer``), that answers do not depend
on company (``check``).
Source: docs/privacy-accounting.md section 12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.sums import EMPTY_SLOT, joined, micro_batches
from participant.training.examples import Examples
from participant.training.tasks.tallies import HALF
from participant.training.tasks.work import IGNORED
from privacy.dp.clipping import integer_rows
from privacy.draft import Recipe
from privacy.measure_parts import COUNT_STREAM, Measurement
from privacy.task_parts import MultiLabel, Task, single_labels

UNITS_AT_ONCE: Final = 256  # whose rows are in memory as the vector's entries

Rows = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contributions:
    """What is added for rows of some examples, with the adapter that is loaded.

    Attributes:
        adapted: the model.
        measured: of the plan.
        examples: whose rows are measured.
        micro_batch: examples a forward pass, from the plan.
        fixed_slots: whether each row has a fixed slot in its micro-batch.
    """

    adapted: AdaptedModel
    measured: Measurement
    examples: Examples
    micro_batch: int
    fixed_slots: bool = False

    def whole(self, units: Sequence[Rows], *, step: int, sensitivity: int) -> NDArray[np.int64]:
        """Return the sum of what units add, each in whole numbers of norm at most D, shape (entries,)."""
        total = np.zeros(self._recipe.entries, dtype=np.int64)
        for shares in self._of_units(units):
            total += integer_rows(shares, step=step, sensitivity=sensitivity).sum(axis=0)
        return total

    def plain(self, units: Sequence[Rows]) -> Shares:
        """Return the sum of what units add, shape (entries,): no privacy."""
        return sum((shares.sum(axis=0) for shares in self._of_units(units)), np.zeros(self._recipe.entries))

    def time_micro_batch(self) -> None:
        """Measure one micro-batch of empty examples, to time it."""
        self.of_slots(np.full(self.micro_batch, EMPTY_SLOT, dtype=np.int64))

    def of_slots(self, slots: Rows) -> Shares:
        """Return what the examples in the slots of a micro-batch add, shape (slots, entries); an empty one nothing."""
        batch, recipe = self.examples.take(slots), self._recipe
        answers = losses = None
        if self.measured.reads_answers:
            with torch.no_grad():
                answers = self.adapted.logits(batch.inputs)
                losses = self.adapted.work.losses(answers, batch.labels) if "loss" in self.measured.metrics else None
        streams = shares_of(recipe, answers, losses, batch.labels)
        streams[slots == EMPTY_SLOT] = 0.0
        return streams

    @property
    def _recipe(self) -> Recipe:
        return self.adapted.recipe

    def _of_units(self, units: Sequence[Rows]) -> Iterator[Shares]:
        """Yield what some units add at a time, shape (units, entries): the mean of a unit's rows that fit."""
        for start in range(0, len(units), UNITS_AT_ONCE):
            some = [rows[np.isin(rows, self.examples.unusable, invert=True)] for rows in units[start:][:UNITS_AT_ONCE]]
            yield self._means([rows for rows in some if rows.size])

    def _means(self, units: Sequence[Rows]) -> Shares:
        rows = joined(units)
        found = np.zeros((rows.size, self._recipe.entries))
        order = np.argsort(rows)
        for slots in micro_batches(rows, self.micro_batch, self.examples, fixed_slots=self.fixed_slots):
            there = slots != EMPTY_SLOT
            found[order[np.searchsorted(rows, slots[there], sorter=order)]] = self.of_slots(slots)[there]
        ends = np.cumsum([unit.size for unit in units], dtype=np.int64)
        means = [found[end - unit.size : end].sum(axis=0) / unit.size for unit, end in zip(units, ends, strict=True)]
        return np.array(means).reshape(len(units), self._recipe.entries)


def shares_of(
    recipe: Recipe, answers: torch.Tensor | None, losses: torch.Tensor | None, labels: torch.Tensor
) -> Shares:
    """Return what each example adds to all streams, shape (batch, entries).

    Args:
        recipe: measures.
        answers: of the model, as the task's loss takes them; ``None`` where no metric reads them.
        losses: each example's; ``None`` where they are not measured.
        labels: as the task's loss takes them.
    """
    measured, task = recipe.measured, recipe.task
    assert measured is not None  # the caller measures
    parts, known = list[Shares](), labels.cpu()
    for stream in recipe.turns[0].sums:
        if stream.name == COUNT_STREAM:
            parts.append(_asked(task, known).double().numpy()[:, None])
        elif stream.name == "accuracy" and answers is not None:
            parts.append(right_shares(task, answers, labels).double().cpu().numpy()[:, None])
        elif stream.name == "loss" and losses is not None:
            parts.append(_cut(losses, float(measured.loss_clip))[:, None])
        elif stream.name == "confusion" and answers is not None:
            guesses = answers.argmax(dim=-1).cpu()
            parts.append(_one_hot(known * len(single_labels(task)) + guesses, stream.length))
        else:
            parts.append(_one_hot(_bin_of(measured, known), stream.length))
    return np.concatenate(parts, axis=1)


def right_shares(task: Task, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the part of an example's own questions that is answered rightly, 0 to 1, shape (batch,)."""
    if isinstance(task, MultiLabel):
        return ((answers > HALF) == (labels > 0)).double().mean(dim=1)
    right = answers.argmax(dim=-1) == labels
    if right.dim() == 1:
        return right.double()
    asked = labels != IGNORED
    return (right & asked).sum(dim=1).double() / asked.sum(dim=1).clamp(min=1)


def _asked(task: Task, labels: torch.Tensor) -> torch.Tensor:
    """Return whether anything is asked of an example."""
    if labels.dim() == 1 or isinstance(task, MultiLabel):
        return torch.ones(len(labels), dtype=torch.bool)
    return (labels != IGNORED).any(dim=1)


def _cut(losses: torch.Tensor, clip: float) -> Shares:
    """Return each loss, cut off, as a share of the clip; what is no number counts as the clip."""
    found: Shares = losses.double().cpu().numpy()
    return np.clip(np.nan_to_num(found, nan=clip, posinf=clip, neginf=0.0), 0.0, clip) / clip


def _bin_of(measured: Measurement, labels: torch.Tensor) -> torch.Tensor:
    """Return the bin of each label or number."""
    if not measured.bins:
        return labels
    edges = np.array([float(edge) for edge in measured.bins], dtype=np.float32)  # as labels are: equal ones stay equal
    return torch.from_numpy(np.searchsorted(edges, labels.float().numpy(), side="right"))


def _one_hot(places: torch.Tensor, length: int) -> Shares:
    """Return a 1 at each example's place, shape (batch, length); one that is out of range adds nothing."""
    found = np.zeros((len(places), length))
    numbers = places.numpy().astype(np.int64)
    fits = (numbers >= 0) & (numbers < length)
    found[np.flatnonzero(fits), numbers[fits]] = 1.0
    return found
