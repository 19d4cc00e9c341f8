"""Rows become tensors: what a base model reads, and the class it should answer.

Guarantees: every example has one fixed shape (images resized to the base's size, text padded to the plan's length), so
that no example's bits depend on its company in a batch; refusals name rows, never their content. What is refused to
the eyes of an owner is let through for a round, as an empty example: there a refusal would tell of the data.
Leaves to others: reading files (``participant.training.data``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.data import Columns, Table, read_table
from participant.training.models import Base
from participant.training.rows.cells import name_text
from participant.training.rows.pictures import pixels
from privacy.errors import LocalError
from privacy.task_parts import Classification, ImageClassification

IMAGES: Final = "pixel_values"
TOKENS: Final = "input_ids"
TOKEN_MASK: Final = "attention_mask"  # noqa: S105  the name of a model's input

SYNTHETIC_SEED: Final = 20_240_229  # public

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of one fixed shape, on one device; the repr shows none of them.

    Attributes:
        inputs: the model's arguments by name, each with the examples first.
        labels: classes, int64, shape (count,).
        users: for each example the number of its user, from 0; None without a user column.
        unfit: rows that the plan cannot use, ascending; they count as empty.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    users: NDArray[np.int64] | None = None
    unusable: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

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
        return replace(self, inputs=moved, labels=self.labels.to(device))


def load_examples(path: Path, columns: Columns, task: Classification, base: Base, *, strict: bool = True) -> Examples:
    """Read a dataset for a task.

    Args:
        path: file or directory.
        columns: of the dataset.
        task: of the plan.
        base: gives images their size and text its tokens.
        strict: whether the first row that the plan cannot use is refused; otherwise such rows are unfit.

    Raises:
        LocalError: ``E-DATA-PARSE``, ``E-DATA-USER`` or ``E-DATA-MISMATCH``.
    """
    table = read_table(path, columns, strict=strict)
    reading = _Reading(table, strict)
    labels = reading.rows(lambda row, where: _class(table.labels[row], task, where), otherwise=0)
    if isinstance(task, ImageClassification):
        images = torch.zeros(len(labels), base.channels, *base.image_size)
        reading.rows(lambda row, where: images[row].copy_(_image(table.inputs[row], task, base, where)), otherwise=None)
        inputs = {IMAGES: images}
    else:
        texts = reading.rows(lambda row, where: _text(table.inputs[row], where), otherwise="")
        inputs = tokenised(base.tokenizer, texts, task.max_length)
    unusable = np.array(sorted(reading.unusable), dtype=np.int64)
    return Examples(inputs, torch.tensor(labels, dtype=torch.int64), _user_numbers(table), unusable)


def synthetic_examples(base: Base, task: Classification, count: int) -> Examples:
    """Return synthetic examples of the very shape of a task's real ones: the same every time, and nobody's data.

    Text has all lengths from the shortest to the longest, so that padding and its absence are both met.
    """
    random = np.random.default_rng(SYNTHETIC_SEED)
    labels = torch.from_numpy(random.integers(len(task.labels), size=count))
    if isinstance(task, ImageClassification):
        images = random.normal(size=(count, base.channels, *base.image_size)).astype(np.float32)
        return Examples({IMAGES: torch.from_numpy(images)}, labels)
    ids = random.integers(base.tokenizer_size, size=(count, task.max_length))
    lengths = np.linspace(task.max_length, 1, count).astype(np.int64)
    mask = (np.arange(task.max_length) < lengths[:, None]).astype(np.int64)
    tokens = np.where(mask == 1, ids, base.pad)
    return Examples({TOKENS: torch.from_numpy(tokens), TOKEN_MASK: torch.from_numpy(mask)}, labels)


def _blank(values: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    values[empty] = 0  # indexing made a copy
    return values


class _Reading:
    """Reads a table row by row, and notes which rows are unfit."""

    def __init__(self, table: Table, strict: bool) -> None:
        self._table = table
        self._strict = strict
        self.unusable: set[int] = set()

    def rows(self, read: Callable[[int, str], Value], *, otherwise: Value) -> list[Value]:
        """Return what each row is read as, or something else where that fails."""
        values = []
        for row, where in enumerate(self._table.places):
            try:
                values.append(read(row, where))
            except Exception:  # whatever a row brings about: nothing about it may show
                if self._strict:
                    raise
                self.unusable.add(row)
                values.append(otherwise)
        return values


def _class(label: str | None, task: Classification, where: str) -> int:
    names = [name_text(name) for name in task.labels]  # both sides alike: composed, and no 1.0 beside 1
    if label is None or label not in names:
        raise LocalError("E-DATA-MISMATCH", f"{where}: its label is not among the plan's")
    return names.index(label)


def _user_numbers(table: Table) -> NDArray[np.int64] | None:
    if table.users is None:
        return None
    return np.unique(np.asarray(table.users), return_inverse=True)[1].astype(np.int64)


def _image(value: Any, task: ImageClassification, base: Base, where: str) -> torch.Tensor:
    scale, mean, std = float(task.image_scale), float(task.image_mean), float(task.image_std)
    array = pixels(value, base.channels, where)
    image = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    return (_resized(image, base.image_size) / scale - mean) / std


def _resized(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if image.shape[1:] == size:
        return image
    stretched = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)
    return stretched[0]


def _text(value: Any, where: str) -> str:
    try:
        if isinstance(value, str):
            value.encode()  # half a surrogate pair is no text to a tokenizer
            return value
    except UnicodeEncodeError:
        pass
    raise LocalError("E-DATA-MISMATCH", f"{where}: its input is not text")


def tokenised(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, torch.Tensor]:
    """Return token ids and attention mask, each of shape (count, length), int64."""
    found = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, return_token_type_ids=False
    )
    return {name: torch.tensor(found[name], dtype=torch.int64) for name in (TOKENS, TOKEN_MASK)}
