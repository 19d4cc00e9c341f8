"""Datasets as their owner keeps them: rows with an input, a label and, if declared, a user.

Guarantees: nothing in a file is run (no pickles); every refusal names the file and the row, never what is in it; with
a user column every row has a user. Reading needs no torch.
Leaves to others: parsing (``rows``), tensors (``participant.training.examples``), which
dataset serves which plan (``participant.config``).

Formats, by what the path is:

- ``.csv`` with a header line, ``.jsonl`` with an object a line;
- ``.parquet``;
- ``.npz`` with one array per column, rows first (``numpy.savez(path, image=..., label=...)``; no objects);
- a directory that Hugging Face ``datasets`` saved (``save_to_disk``);
- a directory of images in one sub-directory per label: the label is the sub-directory's name.

An image is nested lists or an array of pixels (height, width) or (height, width, channels), a file's bytes, or, in
directories, a file. A label is text or a whole number; plans name labels as text.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from participant.training.rows.cells import Unreadable, cell, composed, label_of, require_columns, user_of
from participant.training.rows.formats import format_of, read_rows
from participant.training.rows.pictures import is_encoded, pixels
from privacy.errors import LocalError
from privacy.task_parts import Classification

_CHUNK: Final = 2**20
LEFT_BEHIND: Final = frozenset({"Thumbs.db", "desktop.ini"})  # by file managers of Windows, which hide them


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a dataset are the input, the label and the user."""

    input: str
    label: str
    user: str | None = None


def task_columns(
    task: Classification,
    *,
    input_column: str | None = None,
    label_column: str | None = None,
    user_column: str | None = None,
) -> Columns:
    """Return the columns for a task: the owner's names where given, the plan's otherwise."""
    return Columns(input_column or task.input_column, label_column or task.label_column, user_column)


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What ``dataset add`` notes about a dataset."""

    format: str
    rows: int
    users: int  # 0 without a user column
    columns: tuple[str, ...]
    labels: tuple[str, ...]  # sorted; none if the label column is left to plans
    sha256: str  # of its files; private: anything published shows it only as an HMAC

    @property
    def units(self) -> int:
        """The public number of units of privacy: users if a user column is declared, rows otherwise."""
        return self.users or self.rows


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a dataset, column by column; its repr shows none of them."""

    source: str
    places: Sequence[str]  # the words that name each row in a refusal
    inputs: Sequence[Any]  # None where a row was let through without one
    labels: Sequence[str | None]  # likewise
    users: Sequence[str] | None

    def __repr__(self) -> str:
        return f"Table({self.source}, {len(self.labels)} rows)"


def inspect_dataset(
    path: Path, *, input_column: str | None = None, label_column: str | None = None, user_column: str | None = None
) -> DatasetFacts:
    """Read a whole dataset and say what it is.

    Args:
        path: file or directory.
        input_column: checked to be there in every row; None leaves it to plans.
        label_column: likewise.
        user_column: who a row is about; None where rows are about different people.

    Raises:
        LocalError: ``E-DATA-PARSE`` or ``E-DATA-USER``, naming file and row.
    """
    input_column, label_column, user_column = (
        None if name is None else composed(name) for name in (input_column, label_column, user_column)
    )
    named = {name for name in (input_column, label_column, user_column) if name is not None}
    wanted = None if input_column is None or label_column is None else named
    rows = 0
    labels: set[str] = set()
    users: set[str] = set()
    columns: tuple[str, ...] = ()
    for where, row in read_rows(path, wanted):
        rows += 1
        columns = columns or tuple(sorted(row))
        _check_input(row, input_column, {label_column, user_column}, where)
        if label_column is not None:
            labels.add(label_of(row, label_column, where))
        else:
            _check_classes(row, where)
        if user_column is not None:
            users.add(user_of(row, user_column, where))
    if not rows:
        raise _no_rows(path)
    return DatasetFacts(format_of(path), rows, len(users), columns, tuple(sorted(labels)), hash_dataset(path))


def _check_input(row: Mapping[str, Any], column: str | None, others: Collection[str | None], where: str) -> None:
    """Refuse a row without its input, and an encoded image that does not decode, whatever column may be the input."""
    if column is not None:
        cell(row, column, where)
    for name in sorted(row.keys() - others) if column is None else (column,):
        if is_encoded(row[name]):
            pixels(row[name], 3, where if name == "image" else f"{where}: column {name}")


def _check_classes(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row without a class where the label column is left to plans: any column of classes may be the label."""
    for name, value in row.items():
        if isinstance(value, Unreadable) and value.is_class:
            cell(row, name, where)


def _no_rows(path: Path) -> LocalError:
    hint = "; images lie in one folder per label, directly below it" if path.is_dir() else ""
    return LocalError("E-DATA-PARSE", f"{path.name}: no rows{hint}")


def read_table(path: Path, columns: Columns, *, strict: bool = True) -> Table:
    """Return the rows of a dataset.

    Args:
        path: file or directory.
        columns: which ones are read.
        strict: whether a row without input or label is refused. If not, it is there with ``None``, unless it is the
            first, by whose columns the dataset is known.

    Raises:
        LocalError: ``E-DATA-PARSE`` or ``E-DATA-USER``, naming file and row.
    """
    columns = Columns(
        composed(columns.input), composed(columns.label), None if columns.user is None else composed(columns.user)
    )
    wanted = {name for name in (columns.input, columns.label, columns.user) if name is not None}
    places: list[str] = []
    inputs: list[Any] = []
    labels: list[str | None] = []
    users: list[str] = []
    for where, row in read_rows(path, wanted):
        if strict or not labels:
            require_columns(row, (columns.input, columns.label), where, listed=strict)
        try:
            value, label = cell(row, columns.input, where), label_of(row, columns.label, where)
        except LocalError:
            if strict:
                raise
            value, label = None, None
        places.append(where)
        inputs.append(value)
        labels.append(label)
        if columns.user is not None:
            users.append(user_of(row, columns.user, where))
    if not labels:
        raise _no_rows(path)
    return Table(path.name, places, inputs, labels, None if columns.user is None else users)


def hash_dataset(path: Path) -> str:
    """Return SHA-256 (hex) over the names and contents of a dataset's files."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        parts = file.relative_to(path).parts
        if any(part.startswith(".") for part in parts) or (path.is_dir() and file.name in LEFT_BEHIND):
            continue  # no part of the dataset: see ``rows.formats.visible``
        name = os.fsencode("/".join(parts))
        inner = hashlib.sha256()
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                inner.update(chunk)
        digest.update(len(name).to_bytes(4, "big") + name + inner.digest())
    return digest.hexdigest()
