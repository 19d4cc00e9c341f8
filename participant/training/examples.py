"""Rows become tensors: what a base model reads, and what its answers are compared with.

Guarantees: every example has one fixed shape (images resized to the base's size, text padded to the plan's length), so
that no example's bits depend on its company in a batch; refusals name rows, never their content. What is refused to
the eyes of an owner is let through for a round, as an empty example: there a refusal would tell of the data.
Leaves to others: reading files (``participant.training.data``), the kinds of tasks (``participant.training.tasks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.data import Columns, Table, read_table
from participant.training.models import Base
from participant.training.tasks.kinds import work_of
from participant.training.tasks.work import IMAGES, TOKEN_MASK, TOKENS, Reading
from privacy.task_parts import Task

__all__ = ["IMAGES", "TOKENS", "TOKEN_MASK", "Examples", "load_examples", "synthetic_examples"]

SYNTHETIC_SEED: Final = 20_240_229  # public


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of one fixed shape, on one device; the repr shows none of them.

    Attributes:
        inputs: the model's arguments by name, each with the examples first.
        labels: what the answers are compared with, the examples first; its form is the task's.
        users: for each example the number of its user, from 0; None without a user column.
        unusable: rows that the plan cannot use, ascending; they count as empty.
        cause: why the first of them cannot be used; for the owner's eyes.
        remarks: what the owner should know of the rows; nothing of what is in them.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    users: NDArray[np.int64] | None = None
    unusable: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    cause: str = ""
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Examples({len(self)})"

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """Return the examples at these rows, in this order; row -1 is an empty example (zeros, class 0)."""
        index = torch.from_numpy(np.maximum(rows, 0)).to(self.labels.device)
        empty = torch.from_numpy(rows < 0).to(self.labels.device)
        inputs = {name: _blank(values[index], empty) for name, values in self.inputs.items()}
        for name, values in inputs.items():
            if name.endswith(TOKEN_MASK):
                values[empty, 0] = 1  # attention to nothing at all is not a number
        return Examples(inputs, _blank(self.labels[index], empty))

    def to(self, device: torch.device) -> Examples:
        """Return the examples on a device."""
        moved = {name: values.to(device) for name, values in self.inputs.items()}
        return replace(self, inputs=moved, labels=self.labels.to(device))


def load_examples(path: Path, columns: Columns, task: Task, base: Base, *, strict: bool = True) -> Examples:
    """Read a dataset for a task.

    Args:
        path: file or directory.
        columns: of the dataset.
        task: of the plan.
        base: gives images their size and text its tokens.
        strict: whether rows that the plan cannot use are refused, with their number and the first one's cause.

    Raises:
        LocalError: ``E-DATA-PARSE``, ``E-DATA-USER`` or ``E-DATA-MISMATCH``.
    """
    table = read_table(path, columns, strict=False, listed=strict)
    reading = Reading(table)
    inputs, labels = work_of(task).read(reading, base)
    if strict:
        reading.unusable.require_none(len(table.places))
    unusable = np.array(sorted(reading.unusable.numbers), dtype=np.int64)
    return Examples(inputs, labels, _user_numbers(table), unusable, reading.unusable.cause, reading.remarks())


def synthetic_examples(base: Base, task: Task, count: int) -> Examples:
    """Return synthetic examples of the very shape of a task's real ones: the same every time, and nobody's data."""
    inputs, labels = work_of(task).synthetic(base, np.random.default_rng(SYNTHETIC_SEED), count)
    return Examples(inputs, labels)


def _blank(values: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    values[empty] = 0  # indexing made a copy
    return values


def _user_numbers(table: Table) -> NDArray[np.int64] | None:
    if table.users is None:
        return None
    return np.unique(np.asarray(table.users), return_inverse=True)[1].astype(np.int64)
