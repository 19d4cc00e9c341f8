"""Rows become tensors: what a base model reads, and the class it should answer.

Guarantees: every example has one fixed shape (images resized to the base's size, text padded to the plan's length), so
that no example's bits depend on its company in a batch; refusals name rows, never their content.
Leaves to others: reading files (``participant.data``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from participant.data import Columns, Table, pixels, read_table
from participant.models import Base
from privacy.draft import Task
from privacy.errors import LocalError

IMAGES: Final = "pixel_values"
TOKENS: Final = "input_ids"
TOKEN_MASK: Final = "attention_mask"  # noqa: S105  the name of a model's input

SYNTHETIC_SEED: Final = 20_240_229  # public


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of one fixed shape, on one device; the repr shows none of them.

    Attributes:
        inputs: the model's arguments by name, each with the examples first.
        labels: classes, int64, shape (count,).
        users: for each example the number of its user, from 0; None without a user column.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    users: NDArray[np.int64] | None = None

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
        if TOKEN_MASK in inputs:
            inputs[TOKEN_MASK][empty, 0] = 1  # attention to nothing at all is not a number
        return Examples(inputs, _blank(self.labels[index], empty))

    def to(self, device: torch.device) -> Examples:
        """Return the examples on a device."""
        moved = {name: values.to(device) for name, values in self.inputs.items()}
        return Examples(moved, self.labels.to(device), self.users)


def load_examples(path: Path, columns: Columns, task: Task, base: Base) -> Examples:
    """Read a dataset for a task.

    Raises:
        LocalError: ``E-DATA-PARSE``, ``E-DATA-USER`` or ``E-DATA-MISMATCH``.
    """
    table = read_table(path, columns)
    labels = _classes(table, task)
    inputs = _images(table, task, base) if task.kind == "image-classification" else _tokens(table, task, base)
    return Examples(inputs, labels, _user_numbers(table))


def synthetic_examples(base: Base, task: Task, count: int) -> Examples:
    """Return made-up examples of the very shape of a task's real ones: the same every time, and nobody's data.

    Text has all lengths from the shortest to the longest, so that padding and its absence are both met.
    """
    random = np.random.default_rng(SYNTHETIC_SEED)
    labels = torch.from_numpy(random.integers(len(task.labels), size=count))
    if task.kind == "image-classification":
        images = random.normal(size=(count, base.channels, *base.image_size)).astype(np.float32)
        return Examples({IMAGES: torch.from_numpy(images)}, labels)
    ids = random.integers(base.tokenizer_size, size=(count, task.max_length))
    lengths = np.linspace(task.max_length, 1, count).astype(np.int64)
    mask = (np.arange(task.max_length) < lengths[:, None]).astype(np.int64)
    return Examples({TOKENS: torch.from_numpy(ids * mask), TOKEN_MASK: torch.from_numpy(mask)}, labels)


def _blank(values: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    values[empty] = 0  # indexing made a copy
    return values


def _classes(table: Table, task: Task) -> torch.Tensor:
    places = {name: place for place, name in enumerate(task.labels)}
    for number, label in enumerate(table.labels, start=1):
        if label not in places:
            raise LocalError("E-DATA-MISMATCH", f"{table.source} row {number}: its label is not among the plan's")
    return torch.tensor([places[label] for label in table.labels], dtype=torch.int64)


def _user_numbers(table: Table) -> NDArray[np.int64] | None:
    if table.users is None:
        return None
    return np.unique(np.asarray(table.users), return_inverse=True)[1].astype(np.int64)


def _images(table: Table, task: Task, base: Base) -> dict[str, torch.Tensor]:
    scale, mean, std = float(task.image_scale), float(task.image_mean), float(task.image_std)
    images = torch.empty(len(table.labels), base.channels, *base.image_size)
    for number, value in enumerate(table.inputs):
        array = pixels(value, base.channels, f"{table.source} row {number + 1}")
        image = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
        images[number] = (_resized(image, base.image_size) / scale - mean) / std
    return {IMAGES: images}


def _resized(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if image.shape[1:] == size:
        return image
    stretched = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)
    return stretched[0]


def _tokens(table: Table, task: Task, base: Base) -> dict[str, torch.Tensor]:
    for number, value in enumerate(table.inputs, start=1):
        if not isinstance(value, str):
            raise LocalError("E-DATA-MISMATCH", f"{table.source} row {number}: its input is not text")
    return tokenised(base.tokenizer, table.inputs, task.max_length)


def tokenised(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, torch.Tensor]:
    """Return token ids and attention mask, each of shape (count, length), int64."""
    found = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, return_token_type_ids=False
    )
    return {name: torch.tensor(found[name], dtype=torch.int64) for name in (TOKENS, TOKEN_MASK)}
