"""Datasets as their owner keeps them: rows with an input, a label and, if declared, a user.

Guarantees: nothing in a file is run (no pickles); every refusal names the file and the row, never what is in it; with
a user column every row has a user. Reading needs no torch.
Leaves to others: tensors (``participant.training.examples``), which dataset serves which plan (``participant.config``).

Formats, by what the path is:

- ``.csv`` with a header line, ``.jsonl`` with an object a line;
- ``.parquet``;
- ``.npz`` with one array per column, rows first (``numpy.savez(path, image=..., label=...)``; no objects);
- a directory that Hugging Face ``datasets`` saved (``save_to_disk``);
- a directory of images in one sub-directory per label: the label is the sub-directory's name.

An image is nested lists or an array of pixels (height, width) or (height, width, channels), a file's bytes, or, in
directories, a file. A label is text or an integer; plans name labels as text.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privacy.errors import LocalError
from privacy.task_parts import Classification

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
CSV_FIELD_BYTES: Final = 2**24
_CHUNK: Final = 2**20

Row = dict[str, Any]


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
    rows = 0
    labels: set[str] = set()
    users: set[str] = set()
    columns: tuple[str, ...] = ()
    for where, row in _rows(path):
        rows += 1
        columns = columns or tuple(sorted(row))
        if input_column is not None:
            _cell(row, input_column, where)
        if label_column is not None:
            labels.add(_label(_cell(row, label_column, where), label_column, where))
        if user_column is not None:
            users.add(_user(row, user_column, where))
    if not rows:
        raise LocalError("E-DATA-PARSE", f"{path.name}: no rows")
    return DatasetFacts(_format(path), rows, len(users), columns, tuple(sorted(labels)), hash_dataset(path))


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
    inputs: list[Any] = []
    labels: list[str | None] = []
    users: list[str] = []
    for where, row in _rows(path):
        if strict or not labels:
            _require_columns(row, (columns.input, columns.label), where)
        try:
            found = _cell(row, columns.input, where), _label(_cell(row, columns.label, where), columns.label, where)
        except LocalError:
            if strict:
                raise
            inputs.append(None)
            labels.append(None)
        else:
            inputs.append(found[0])
            labels.append(found[1])
        if columns.user is not None:
            users.append(_user(row, columns.user, where))
    if not labels:
        raise LocalError("E-DATA-PARSE", f"{path.name}: no rows")
    return Table(path.name, inputs, labels, None if columns.user is None else users)


def hash_dataset(path: Path) -> str:
    """Return SHA-256 (hex) over the names and contents of a dataset's files."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        inner = hashlib.sha256()
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                inner.update(chunk)
        digest.update(len(name.encode()).to_bytes(4, "big") + name.encode() + inner.digest())
    return digest.hexdigest()


def pixels(value: Any, channels: int, where: str) -> NDArray[np.float32]:
    """Return an image as float32 of shape (height, width, channels), pixel values as they are.

    Grey is repeated for three channels; colour becomes grey (ITU-R 601 luma) for one.

    Raises:
        LocalError: ``E-DATA-PARSE``, it is no image.
    """
    try:
        array = np.asarray(_decoded(value), dtype=np.float32)
    except (ValueError, TypeError, OSError, SyntaxError):  # what Pillow raises for a damaged file
        raise LocalError("E-DATA-PARSE", f"{where}: not an image") from None
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in {1, 3, 4} or not array.size or not np.isfinite(array).all():
        raise LocalError("E-DATA-PARSE", f"{where}: an image has shape (height, width) or (height, width, channels)")
    array = array[:, :, :3] if array.shape[2] == 4 else array
    if array.shape[2] == channels:
        return array
    if channels == 1:
        return array @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    return np.repeat(array, channels, axis=2)


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):  # how Hugging Face datasets keep an image: its file's bytes
        value = value.get("bytes")
    if isinstance(value, bytes):
        from PIL import Image

        with Image.open(io.BytesIO(value)) as image:
            return np.asarray(image.convert("L" if image.mode in {"1", "L"} else "RGB"))
    if isinstance(value, str):
        return json.loads(value)
    return value


def _format(path: Path) -> str:
    if path.is_dir():
        return "datasets" if (path / "state.json").is_file() else "imagefolder"
    known = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".npz": "npz"}
    kind = known.get(path.suffix.lower())
    if not path.exists():
        raise LocalError("E-DATA-PARSE", f"{path}: no such file or directory")
    if kind is None:
        raise LocalError("E-DATA-PARSE", f"{path.name}: not one of {', '.join(known)} or a directory")
    return kind


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield each row with the words that name it in an error."""
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
        "csv": _csv_rows,
        "jsonl": _jsonl_rows,
        "parquet": _parquet_rows,
        "npz": _npz_rows,
        "datasets": _saved_rows,
        "imagefolder": _folder_rows,
    }
    return readers[_format(path)](path)


def _csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(CSV_FIELD_BYTES)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for number, row in enumerate(reader, start=1):
                where = f"{path.name} row {number}"
                if None in row or None in row.values():
                    raise LocalError("E-DATA-PARSE", f"{where}: {len(reader.fieldnames or ())} columns expected")
                yield where, dict(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise LocalError("E-DATA-PARSE", f"{path.name} line {reader.line_num}: {_kind(error)}") from None


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name} row {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise LocalError("E-DATA-PARSE", f"{where}: not JSON") from None
            if not isinstance(row, dict):
                raise LocalError("E-DATA-PARSE", f"{where}: not an object")
            yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise LocalError("E-DATA-PARSE", f"{path.name} after row {number}: {_kind(error)}") from None


def _npz_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        raise LocalError("E-DATA-PARSE", f"{path.name}: not an npz of plain arrays, cut or damaged") from None
    lengths = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1:
        raise LocalError("E-DATA-PARSE", f"{path.name}: its arrays are of different lengths")
    for number in range(lengths.pop()):
        yield f"{path.name} row {number + 1}", {name: array[number] for name, array in arrays.items()}


def _saved_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Read what ``datasets.Dataset.save_to_disk`` wrote: Arrow streams, and names of class labels."""
    import pyarrow as pa

    number = 0
    try:
        files = [entry["filename"] for entry in json.loads((path / "state.json").read_bytes())["_data_files"]]
        names = _class_names(path)
        for file in files:
            with pa.memory_map(str(path / Path(file).name)) as source:
                for batch in pa.ipc.open_stream(source):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path.name} row {number}", _named(row, names)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise LocalError("E-DATA-PARSE", f"{path.name} after row {number}: {_kind(error)}") from None


def _class_names(path: Path) -> dict[str, list[str]]:
    features = json.loads((path / "dataset_info.json").read_bytes())["features"]
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _named(row: Row, names: dict[str, list[str]]) -> Row:
    return {key: names[key][value] if key in names and value is not None else value for key, value in row.items()}


def _folder_rows(path: Path) -> Iterator[tuple[str, Row]]:
    for label in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        for file in sorted(label.iterdir()):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                yield f"{path.name}/{label.name}/{file.name}", {"image": file.read_bytes(), "label": label.name}


def _require_columns(row: Row, columns: Sequence[str], where: str) -> None:
    for column in columns:
        if column not in row:
            raise LocalError("E-DATA-PARSE", f"{where}: no column {column}; there are {', '.join(sorted(row))}")


def _cell(row: Row, column: str, where: str) -> Any:
    _require_columns(row, (column,), where)
    if row[column] is None:
        raise LocalError("E-DATA-PARSE", f"{where}: column {column} is empty")
    return row[column]


def _label(value: Any, column: str, where: str) -> str:
    if isinstance(value, str | int | np.integer | np.str_) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise LocalError("E-DATA-PARSE", f"{where}: column {column} is neither text nor an integer")


def _user(row: Row, column: str, where: str) -> str:
    value = row.get(column)
    if isinstance(value, str | int | np.integer | np.str_) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()  # a space more does not make two people of one
    raise LocalError("E-DATA-USER", f"{where}: column {column} is empty, missing, or neither text nor an integer")


def _kind(error: Exception) -> str:
    """What an error means; its own message could quote the data."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    if isinstance(error, csv.Error):
        return "not CSV: quotes do not pair up, or a cell is too long"
    return f"cut or damaged ({type(error).__name__})"
