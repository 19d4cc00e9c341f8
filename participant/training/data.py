"""Datasets as their owner keeps them: rows with an input, mostly a label and, if declared, a user.

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
directories, a file. A label is text or a whole number; plans name labels as text. Of other tasks it is a number, a list
of labels, or a text; messages of a chat are a list of objects, or the same as JSON.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from audit.training_record import unusable_words
from participant.training.rows.cells import (
    Unreadable,
    cell,
    composed,
    label_of,
    parts_of,
    require_columns,
    user_of,
)
from participant.training.rows.formats import FOLDER_LABEL, LEFT_BEHIND, format_of, read_rows
from participant.training.rows.pictures import is_encoded, pixels, require_finite
from privacy.errors import LocalError, OnlysumError
from privacy.task_parts import (
    CausalLanguageModelling,
    ImageClassification,
    MaskedLanguageModelling,
    SentenceEmbedding,
    Task,
    TextClassification,
)

_CHUNK: Final = 2**20
MOST_LABELS: Final = 10_000  # different ones in a column of classes


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a dataset are the input, the label and the user.

    Attributes:
        input: a picture, a text, a prompt, messages, words.
        label: what is asked for; ``None`` where the input itself is.
        user: who a row is about.
        pair: a second text.
        classes: whether a label is one class; otherwise it is read as it is.
        renamed: the plan's label by the owner's own spelling of it.
    """

    input: str
    label: str | None
    user: str | None = None
    pair: str | None = None
    classes: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Those that every row must have, beside the user's."""
        return tuple(name for name in (self.input, self.label, self.pair) if name is not None)

    def as_compared(self) -> Columns:
        """Return the same with names as they are compared."""
        label, user, pair = (None if name is None else composed(name) for name in (self.label, self.user, self.pair))
        return replace(self, input=composed(self.input), label=label, user=user, pair=pair)


def task_columns(
    task: Task,
    *,
    input_column: str | None = None,
    label_column: str | None = None,
    user_column: str | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Columns:
    """Return the columns for a task: the owner's names where given, the plan's otherwise."""
    pair = task.pair_column if isinstance(task, SentenceEmbedding) else None
    return Columns(
        input_column or task.input_column,
        _label_column(task, label_column),
        user_column,
        pair,
        isinstance(task, ImageClassification | TextClassification),
        renamed or {},
    )


def _label_column(task: Task, own: str | None) -> str | None:
    match task:
        case CausalLanguageModelling():
            return own or task.completion_column if task.form == "completion" else None
        case MaskedLanguageModelling():
            return None
        case _:
            return own or task.label_column


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


class UnusableRows:
    """Rows that cannot be used, found one by one, and why the first of them cannot.

    Attributes:
        numbers: of the rows, from 0.
    """

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._first: tuple[int, str, str] | None = None  # row, code, words

    def note(self, row: int, where: str, error: Exception) -> None:
        """Note a row; of an error that is not ours only the type is kept, as its words may be the data's."""
        code, words = "E-DATA-MISMATCH", f"{where}: {type(error).__name__}"
        if isinstance(error, OnlysumError):
            code, words = error.code, error.detail
        self.numbers.add(row)
        if self._first is None or row < self._first[0]:
            self._first = row, code, words

    @property
    def cause(self) -> str:
        """Why the first of them cannot be used, with the words that name it; empty if there is none."""
        return "" if self._first is None else self._first[2]

    def require_none(self, rows: int) -> None:
        """Refuse them.

        Raises:
            LocalError: with the code and the words of the first.
        """
        if self._first is not None:
            raise LocalError(self._first[1], unusable_words(len(self.numbers), rows, self.cause))


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a dataset, column by column; its repr shows none of them."""

    source: str
    places: Sequence[str]  # the words that name each row in a refusal
    inputs: Sequence[Any]  # None where a row was let through without one
    labels: Sequence[Any]  # likewise; text of a class, what its cell holds of another label, None without labels
    users: Sequence[str] | None
    pairs: Sequence[Any] = ()  # second texts
    renamed: Mapping[str, str] = field(default_factory=dict)
    unusable: UnusableRows = field(default_factory=UnusableRows)  # those that were let through

    def __repr__(self) -> str:
        return f"Table({self.source}, {len(self.labels)} rows)"


def inspect_dataset(
    path: Path,
    *,
    input_column: str | None = None,
    label_column: str | None = None,
    user_column: str | None = None,
    classes: bool = True,
) -> DatasetFacts:
    """Read a whole dataset and say what it is.

    Args:
        path: file or directory.
        input_column: checked to be there in every row; None leaves it to plans.
        label_column: likewise.
        user_column: who a row is about; None where rows are about different people.
        classes: whether the label column holds classes, or lists of them, that are to be listed.

    Raises:
        LocalError: ``E-DATA-PARSE`` or ``E-DATA-USER``, naming file and row.
    """
    input_column, label_column, user_column = (
        None if name is None else composed(name) for name in (input_column, label_column, user_column)
    )
    if label_column is None and format_of(path) == "imagefolder":
        label_column = FOLDER_LABEL
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
            labels |= _labels_in(row, label_column, where) if classes else set()
            cell(row, label_column, where)
            if len(labels) > MOST_LABELS:
                detail = (
                    f"column {label_column} holds more than {MOST_LABELS:,} labels; --values says it has no classes"
                )
                raise LocalError("E-DATA-PARSE", f"{path.name}: {detail}")
        else:
            _check_classes(row, where)
        if user_column is not None:
            users.add(user_of(row, user_column, where))
    if not rows:
        raise _no_rows(path)
    return DatasetFacts(format_of(path), rows, len(users), columns, tuple(sorted(labels)), hash_dataset(path))


def _check_input(row: Mapping[str, Any], column: str | None, others: Collection[str | None], where: str) -> None:
    """Refuse a row without its input, and an image that no plan can read, whatever column may be the input."""
    if column is not None:
        cell(row, column, where)
    for name in sorted(row.keys() - others) if column is None else (column,):
        place = where if name == "image" else f"{where}: column {name}"
        if is_encoded(row[name]):
            pixels(row[name], 3, place)
        else:
            require_finite(row[name], place)


def _labels_in(row: Mapping[str, Any], column: str, where: str) -> set[str]:
    """Return the label of a row, or those of a list in it."""
    value = cell(row, column, where)
    if isinstance(value, list | tuple | np.ndarray):
        return {label_of({column: entry}, column, where) for entry in value}
    return set(parts_of(label_of(row, column, where)))


def _check_classes(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row without a class where the label column is left to plans: any column of classes may be the label."""
    for name, value in row.items():
        if isinstance(value, Unreadable) and value.is_class:
            cell(row, name, where)


def _no_rows(path: Path) -> LocalError:
    hint = "; images lie in one folder per label, directly below it" if path.is_dir() else ""
    return LocalError("E-DATA-PARSE", f"{path.name}: no rows{hint}")


def read_table(path: Path, columns: Columns, *, strict: bool = True, listed: bool | None = None) -> Table:
    """Return the rows of a dataset.

    Args:
        path: file or directory.
        columns: which ones are read.
        strict: whether rows without input or label are refused. If not, they are there with ``None``, unless it is
            the first that lacks a column: by it the dataset's columns are known.
        listed: whether that refusal names the columns that are there, as a file without a header names data; by
            default where it is strict.

    Raises:
        LocalError: ``E-DATA-PARSE`` or ``E-DATA-USER``, naming file and row.
    """
    columns = columns.as_compared()
    places: list[str] = []
    cells: list[_Cells] = []
    users: list[str] = []
    unusable = UnusableRows()
    for where, row in read_rows(path, {*columns.wanted, *([columns.user] if columns.user else [])}):
        if not places:
            require_columns(row, columns.wanted, where, listed=strict if listed is None else listed)
        try:
            cells.append(_cells(row, columns, where))
        except LocalError as error:
            unusable.note(len(places), where, error)
            cells.append((None, None, None))
        places.append(where)
        if columns.user is not None:
            users.append(user_of(row, columns.user, where))
    if not places:
        raise _no_rows(path)
    if strict:
        unusable.require_none(len(places))
    inputs, labels, pairs = zip(*cells, strict=True)
    return Table(path.name, places, inputs, labels, users if columns.user else None, pairs, columns.renamed, unusable)


_Cells = tuple[Any, Any, Any]  # input, label and second text


def _cells(row: Mapping[str, Any], columns: Columns, where: str) -> _Cells:
    label: Any = None
    if columns.label is not None:
        label = (label_of if columns.classes else cell)(row, columns.label, where)
    return cell(row, columns.input, where), label, None if columns.pair is None else cell(row, columns.pair, where)


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
