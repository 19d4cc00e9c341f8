"""Sums of gradients over a logical batch, in micro-batches of one fixed shape.

Guarantees: every forward pass has the plan's micro-batch size, filled up with empty examples, so that kernels never
depend on how many examples there are; in the clipped sum one unit of privacy adds one integer row of norm at most D.
A row that the plan cannot use is an empty example: it takes a slot and adds nothing. An empty batch gives zeros.
Clipping happens where the gradients are; only the sum leaves the device.
Leaves to others: sampling and noise (``participant.training.torch_trainer``), the clip (``privacy.dp.torch_clipping``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from methods.count_sketch import Tables
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.switched import left_out
from participant.training.examples import Examples
from privacy.dp.torch_clipping import clipped_sum

EMPTY_SLOT = -1  # a slot of a micro-batch without an example

Rows = NDArray[np.int64]


class Clip(TypedDict):
    """The clip's arguments: D and C of the plan."""

    sensitivity: int
    clip_norm: float


@dataclass(frozen=True, slots=True)
class GradientSums:
    """Sums over rows of a dataset.

    Attributes:
        engine: computes gradients.
        examples: the dataset.
        micro_batch: examples a forward pass, from the plan.
        home_slots: whether each row has a fixed slot in its micro-batch (row modulo micro-batch): needed where the
            bits of an example's gradient differ from slot to slot.
        columns: which entries of a gradient are looked at, the same of every example; ``None``: all.
        held: which of these entries this participant trains, the others are zero before the clip; ``None``: all.
        skipped: layers that are left out of the model.
        sketch: of each gradient, which is clipped in its place; ``None``: none.
    """

    engine: GradientEngine
    examples: Examples
    micro_batch: int
    fixed_slots: bool = False
    columns: NDArray[np.int64] | None = None
    held: NDArray[np.bool_] | None = None
    skipped: tuple[nn.Module, ...] = ()
    sketch: Tables | None = None

    @property
    def entries(self) -> int:
        """Length of the vector."""
        if self.sketch is not None:
            rows, length = self.sketch.buckets.shape
            return int(rows * self.sketch.width + self.engine.adapted.entries - length)
        return self.engine.adapted.entries if self.columns is None else self.columns.size

    def plain(self, rows: Rows) -> NDArray[np.float64]:
        """Return the summed gradient of these rows, shape (entries,): no clip, no privacy."""
        total = np.zeros(self.entries)
        for slots in self._micro_batches(rows):
            with left_out(self.skipped):
                summed = self.engine.summed(self.examples.take(slots), slots != EMPTY_SLOT)
            total += summed if self.columns is None else summed[self.columns]
        if self.held is not None:
            total *= self.held
        return total

    def clipped(self, rows: Rows, **clip: Unpack[Clip]) -> NDArray[np.int64]:
        """Return the sum of the rows' clipped integer gradients, shape (entries,): each row is a unit of privacy."""
        total = np.zeros(self.entries, dtype=np.int64)
        for slots in self._micro_batches(rows):
            total += clipped_sum(self._gradients(slots), **clip).cpu().numpy()
        return total

    def clipped_means(self, users: Sequence[Rows], **clip: Unpack[Clip]) -> NDArray[np.int64]:
        """Return the sum of one clipped integer row a user, shape (entries,): of the mean gradient of the user's rows.

        Users share micro-batches where a gradient has the same bits in every slot; otherwise each has its own.
        """
        total = np.zeros(self.entries, dtype=np.int64)
        for some in [[user] for user in users] if self.fixed_slots else [users]:
            for mean in self._means(some):
                total += clipped_sum(mean[None], **clip).cpu().numpy()
        return total

    def _means(self, users: Sequence[Rows]) -> Iterator[torch.Tensor]:
        """Yield the mean gradient, float64, of each user with a row that fits: added up row by row in any company."""
        gradients = (row.double() for slots in self._micro_batches(joined(users)) for row in self._gradients(slots))
        for rows in users:
            if fit := int(np.isin(rows, self.examples.unusable, invert=True).sum()):
                yield reduce(torch.add, islice(gradients, fit)) / fit

    def without_loss(self, rows: Rows) -> int:
        """Return how many of these rows have a loss that is infinite, or not a number; for their owner's eyes."""
        count = 0
        for slots in self._micro_batches(rows):
            with torch.no_grad(), left_out(self.skipped):
                losses = self.engine.losses(self.examples.take(slots))
            count += int((~torch.isfinite(losses.cpu().float()).numpy() & (slots != EMPTY_SLOT)).sum())
        return count

    def time_micro_batch(self, **clip: Unpack[Clip]) -> None:
        """Run one micro-batch of empty examples, to time it."""
        nobody = np.full(self.micro_batch, EMPTY_SLOT, dtype=np.int64)
        clipped_sum(self.engine.rows(self.examples.take(nobody)), **clip).cpu()

    def time_plain(self) -> None:
        """Run one micro-batch of empty examples as :meth:`plain` does, to time it."""
        self.engine.summed(self.examples.take(np.full(self.micro_batch, EMPTY_SLOT, dtype=np.int64)))

    def _gradients(self, slots: Rows) -> torch.Tensor:
        """Return one gradient per row for the slots that hold an example."""
        counted = np.flatnonzero(slots != EMPTY_SLOT)
        with left_out(self.skipped):
            found = self.engine.rows(self.examples.take(slots))
        if self.columns is not None:
            found = found[:, torch.from_numpy(self.columns).to(found.device)]
        if self.held is not None:
            found = found * torch.from_numpy(self.held).to(found.device)
        if self.sketch is not None:
            found = sketched_rows(found, self.sketch)
        if found.device.type == "mps":  # has no float64
            found = found.cpu()
        return found if counted.size == slots.size else found[torch.from_numpy(counted).to(found.device)]

    def _micro_batches(self, rows: Rows) -> Iterator[Rows]:
        """Yield the rows in micro-batches, each of shape (micro_batch,), empty slots as -1."""
        return micro_batches(rows, self.micro_batch, self.examples, fixed_slots=self.fixed_slots)


def micro_batches(rows: Rows, size: int, examples: Examples, *, fixed_slots: bool) -> Iterator[Rows]:
    """Yield rows in micro-batches, each of shape (size,), empty slots and rows that do not fit as -1."""
    slots = rows % size if fixed_slots else np.arange(rows.size) % size
    turns = _turns(slots) if fixed_slots else np.arange(rows.size) // size
    for turn in range(int(turns.max(initial=-1)) + 1):
        batch = np.full(size, EMPTY_SLOT, dtype=np.int64)
        batch[slots[turns == turn]] = rows[turns == turn]
        batch[np.isin(batch, examples.unusable)] = EMPTY_SLOT
        yield batch


def sketched_rows(gradients: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Return the sketch of each gradient's first entries, row by row, and the others as they are."""
    length, device = tables.buckets.shape[1], gradients.device
    parts = []
    for buckets, signs in zip(tables.buckets, tables.signs, strict=True):
        row = torch.zeros(len(gradients), tables.width, device=device)
        signed = gradients[:, :length] * torch.from_numpy(signs.astype(np.float32)).to(device)
        parts.append(row.index_add_(1, torch.from_numpy(buckets).to(device), signed))
    sketch = torch.cat(parts, dim=1) / len(parts) ** 0.5
    return torch.cat([sketch, gradients[:, length:]], dim=1)


def joined(units: Sequence[Rows]) -> Rows:
    """Return the rows of some units of privacy, one after the other."""
    return np.concatenate([np.empty(0, dtype=np.int64), *units])


def _turns(slots: Rows) -> Rows:
    """Return how many earlier entries name the same slot."""
    turns = np.zeros(slots.size, dtype=np.int64)
    for slot in np.unique(slots):
        same = np.flatnonzero(slots == slot)
        turns[same] = np.arange(same.size)
    return turns
