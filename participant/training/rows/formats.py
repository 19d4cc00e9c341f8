"""Formats of datasets: each becomes rows, with the words that name a row in a refusal.

Guarantees: nothing in a file is run; of columnar files only the columns asked for become values; what a file leaves
ambiguous (a column twice, splits beside each other, a separator that is no comma) is refused, never guessed.
Leaves to others: what a cell must be (``cells``, ``pictures``).
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from participant.training.rows.cells import Unreadable, composed, third_party
from privacy.errors import LocalError
from privacy.printable import first_unprintable

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
# What may lie beside pictures; anything else is refused: half of a folder would be missing in silence.
BESIDE_IMAGES: Final = frozenset(
    {".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".html", ".yaml", ".yml", ".pdf"}
)
LEFT_BEHIND: Final = frozenset({"Thumbs.db", "desktop.ini"})  # by file managers of Windows, which hide them
NAMES_BESIDE_IMAGES: Final = LEFT_BEHIND | {"README", "LICENSE", "LICENCE", "COPYING"}
FOLDER_LABEL: Final = "label"  # the column that folders' names are in
CSV_FIELD_BYTES: Final = 2**24
OTHER_SEPARATORS: Final = (";", "\t", "|")

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
Names = Collection[str] | None  # the columns that are wanted; None: all

NOT_READ: Final = Unreadable("was not read")


def format_of(path: Path) -> str:
    """Return the format of a dataset, by what its path is.

    Raises:
        LocalError: ``E-DATA-PARSE``.
    """
    if path.is_dir():
        _refuse_splits(path)
        return "datasets" if (path / "state.json").is_file() else "imagefolder"
    known = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".npz": "npz"}
    kind = known.get(path.suffix.lower())
    if not path.exists():
        raise LocalError("E-DATA-PARSE", f"{path}: no such file or directory")
    if kind is None:
        raise LocalError("E-DATA-PARSE", f"{path.name}: not one of {', '.join(known)} or a directory")
    return kind


def read_rows(path: Path, wanted: Names = None) -> Rows:
    """Yield each row with the words that name it in an error.

    Args:
        path: file or directory.
        wanted: the columns whose values are needed; those of others may be ``NOT_READ``.

    Raises:
        LocalError: ``E-DATA-PARSE``.
    """
    readers: dict[str, Callable[[Path, Names], Rows]] = {
        "csv": _csv_rows,
        "jsonl": _jsonl_rows,
        "parquet": _parquet_rows,
        "npz": _npz_rows,
        "datasets": _saved_rows,
        "imagefolder": _folder_rows,
    }
    return readers[format_of(path)](path, wanted)


def visible(paths: Iterable[Path]) -> list[Path]:
    """Return what is not hidden, sorted: editors and file managers leave hidden copies beside files."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _columns(names: Iterable[str], file: str) -> list[str]:
    """Return the names of columns as they are compared; one that stands twice, or cannot be seen whole, is refused."""
    columns = [composed(name) for name in names]
    for number, name in enumerate(columns, start=1):
        if character := first_unprintable(name):
            detail = f"the name of column {number} has a character that cannot be seen, {character}"
            raise LocalError("E-DATA-PARSE", f"{file}: {detail}")
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise LocalError("E-DATA-PARSE", f"{file}: column {twice[0]} is there twice")
    return columns


def _csv_rows(path: Path, _wanted: Names) -> Rows:
    csv.field_size_limit(CSV_FIELD_BYTES)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = _csv_columns(next(reader, []), path.name)
            number = 0
            for cells in reader:
                if not cells:
                    continue
                number += 1
                where = f"{path.name} row {number}"
                if len(cells) != len(columns):
                    raise LocalError("E-DATA-PARSE", f"{where}: {len(columns)} columns expected")
                yield where, dict(zip(columns, cells, strict=True))
        except UnicodeDecodeError:
            where = f"{path.name} line {_undecodable_line(path)}"
            raise LocalError("E-DATA-PARSE", f"{where}: not UTF-8 text") from None
        except csv.Error:
            detail = "not CSV: quotes do not pair up, or a cell is too long"
            raise LocalError("E-DATA-PARSE", f"{path.name} line {reader.line_num}: {detail}") from None


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _csv_columns(header: list[str], file: str) -> list[str]:
    if header and header[0].lower().startswith("sep="):
        raise LocalError("E-DATA-PARSE", f"{file}: its first line is for spreadsheets, not names of columns; remove it")
    for separator in OTHER_SEPARATORS:
        if header and sum(name.count(separator) for name in header) >= max(1, len(header) - 1):
            detail = f"names of columns hold {separator!r}; columns are separated by commas"
            raise LocalError("E-DATA-PARSE", f"{file}: {detail}")
    if len(header) == 1:
        raise LocalError("E-DATA-PARSE", f"{file}: one column alone; columns are separated by commas")
    return _columns(header, file)


def _jsonl_rows(path: Path, _wanted: Names) -> Rows:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name} row {number}"
            try:
                pairs = json.loads(line, object_pairs_hook=_Pairs)
                values = [_plain(value) for _, value in pairs] if isinstance(pairs, _Pairs) else []
            except (ValueError, RecursionError):
                raise LocalError("E-DATA-PARSE", f"{where}: not JSON, or nested too deep") from None
            if not isinstance(pairs, _Pairs):
                raise LocalError("E-DATA-PARSE", f"{where}: not an object")
            columns = _columns((name for name, _ in pairs), where)
            yield where, dict(zip(columns, values, strict=True))


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON as it stands, so that a key that is there twice shows."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(inner) for key, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _parquet_rows(path: Path, wanted: Names) -> Rows:
    from pyarrow import parquet

    with third_party(path.name):
        file = parquet.ParquetFile(path)
    with file:
        names = _column_names(file.schema_arrow, path.name)
        with third_party(path.name):
            about = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            labels = _class_names(about.get("info", {}).get("features") or {})
        read = [raw for raw, column in names.items() if wanted is None or column in wanted]
        yield from _with_classes(_numbered(path, file.iter_batches(columns=read), names, wanted), labels)


def _saved_rows(path: Path, wanted: Names) -> Rows:
    """Read what ``datasets.Dataset.save_to_disk`` wrote: Arrow streams, and names of class labels."""
    with third_party(path.name):
        state = json.loads((path / "state.json").read_bytes())
        files = [path / Path(entry["filename"]).name for entry in state["_data_files"]]
        labels = _class_names(json.loads((path / "dataset_info.json").read_bytes())["features"])
    if state.get("_indices_data_files"):
        raise LocalError("E-DATA-PARSE", f"{path.name}: its rows are a selection; save it after flatten_indices()")
    streams = iter(_streams(files, path.name))
    with third_party(path.name):
        first = next(streams, None)
    if first is None:
        return
    names = _column_names(first.schema, path.name)
    yield from _with_classes(_numbered(path, chain([first], streams), names, wanted), labels)


def _streams(files: list[Path], name: str) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for file in files:
        with third_party(f"{name}/{file.name}"):
            source = pa.memory_map(str(file))
        with source:
            yield from pa.ipc.open_stream(source)


def _with_classes(rows: Rows, labels: dict[str, list[str]]) -> Rows:
    for where, row in rows:
        yield where, {key: _named(value, labels[key]) if key in labels else value for key, value in row.items()}


def _class_names(features: dict[str, Any]) -> dict[str, list[str]]:
    """Return the names of classes by column, as Hugging Face datasets describe their features."""
    found = {composed(name): _names_in(feature) for name, feature in features.items()}
    return {name: names for name, names in found.items() if names is not None}


def _names_in(feature: Any) -> list[str] | None:
    """Return the names of classes that a feature's numbers are, or those in its lists, stand for."""
    if isinstance(feature, list):  # how older versions write a list
        return _names_in(feature[0]) if len(feature) == 1 else None
    if not isinstance(feature, dict):
        return None
    return list(feature["names"]) if feature.get("_type") == "ClassLabel" else _names_in(feature.get("feature"))


def _named(value: Any, names: list[str]) -> Any:
    """Return the name of a class, or those in a list; -1, which stands for no label, is no class from the end."""
    if isinstance(value, list):
        named = [_named(entry, names) for entry in value]
        return next((entry for entry in named if isinstance(entry, Unreadable)), named)
    if isinstance(value, int) and not 0 <= value < len(names):
        reason = f"holds a class number outside 0 to {len(names) - 1}; leave rows without a label out"
        return Unreadable(reason, is_class=True)
    return names[value] if isinstance(value, int) else value


def _column_names(schema: pa.Schema, file: str) -> dict[str, str]:
    """Return the columns: names in the file, and as they are compared."""
    return dict(zip(schema.names, _columns(schema.names, file), strict=True))


def _numbered(path: Path, batches: Iterable[pa.RecordBatch], names: dict[str, str], wanted: Names) -> Rows:
    number, parts = 0, iter(batches)
    while True:
        with third_party(f"{path.name} after row {number}"):
            batch = next(parts, None)
            if batch is None:
                return
            cells = {
                column: _values(batch.column(raw))
                for raw, column in names.items()
                if wanted is None or column in wanted
            }
        for place in range(batch.num_rows):
            number += 1
            row = {column: cells[column][place] if column in cells else NOT_READ for column in names.values()}
            yield f"{path.name} row {number}", row


def _values(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except Exception:  # noqa: BLE001  a value that Python cannot hold; the error would quote it
        values = [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except Exception:  # noqa: BLE001  see above
        return Unreadable("holds a value that cannot be read")


def _npz_rows(path: Path, wanted: Names) -> Rows:
    with (
        third_party(path.name, what="not an npz of plain arrays, cut or damaged"),
        np.load(path, allow_pickle=False) as file,
    ):
        names = dict(zip(file.files, _columns(file.files, path.name), strict=True))
        arrays = {name: file[raw] for raw, name in names.items() if wanted is None or name in wanted}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise LocalError("E-DATA-PARSE", f"{path.name}: {name} in it is no array; leave it out")
        others = dict.fromkeys(names.values() - arrays.keys(), NOT_READ)
    lengths = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(lengths) > 1:
        raise LocalError("E-DATA-PARSE", f"{path.name}: its arrays are of different lengths")
    for number in range(lengths.pop() if lengths else 0):
        yield f"{path.name} row {number + 1}", {**others, **{name: array[number] for name, array in arrays.items()}}


# --- folders of images ---


def _folder_rows(path: Path, _wanted: Names) -> Rows:
    for entry in visible(path.iterdir()):
        _require_target(entry, path)
        if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES:
            raise LocalError(
                "E-DATA-PARSE", f"{_shown(entry, path)}: an image beside the folders of labels has no label"
            )
        _require_known(entry, path)
        if entry.is_dir():
            images = 0
            for row in _images(path, entry):
                images += 1
                yield row
            if not images:
                detail = "a label's folder without an image; remove it, or add what is missing"
                raise LocalError("E-DATA-PARSE", f"{_shown(entry, path)}: {detail}")


def _require_target(entry: Path, path: Path) -> None:
    """Refuse a link that leads nowhere: left out, a label or an image would be missing in silence."""
    if entry.is_symlink() and not entry.exists():
        raise LocalError("E-DATA-PARSE", f"{_shown(entry, path)}: a link that leads nowhere; remove or mend it")


def _require_known(file: Path, path: Path) -> None:
    """Refuse a file that is neither a picture that is read nor one that people keep beside pictures."""
    known = file.suffix.lower() in IMAGE_SUFFIXES | BESIDE_IMAGES or file.name in NAMES_BESIDE_IMAGES
    if file.is_file() and not known:
        detail = "files of this kind are not read; make a picture a PNG, and remove what is none"
        raise LocalError("E-DATA-PARSE", f"{_shown(file, path)}: {detail}")


def _images(path: Path, label: Path) -> Rows:
    for file in visible(label.iterdir()):
        _require_target(file, path)
        if file.is_dir() and _visible_files(file):
            detail = "a folder of images within a label's; each label has one folder, directly below the dataset's"
            raise LocalError("E-DATA-PARSE", f"{_shown(file, path)}: {detail}")
        _require_known(file, path)
        if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES:
            yield _shown(file, path), {"image": file.read_bytes(), FOLDER_LABEL: _label(label, path)}


def _visible_files(folder: Path) -> bool:
    """Return whether a folder has files in it, however deep, that are not hidden."""
    return any(
        entry.is_file() or _visible_files(entry) for entry in visible(folder.iterdir()) if not entry.is_symlink()
    )


def _label(folder: Path, path: Path) -> str:
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise LocalError("E-DATA-PARSE", f"{_shown(folder, path)}: the label's name is not UTF-8") from None
    return folder.name


def _refuse_splits(path: Path) -> None:
    """Refuse a folder of several splits: which of them is meant is the owner's to say."""
    folders = [entry for entry in visible(path.iterdir()) if entry.is_dir()]
    if (path / "dataset_dict.json").is_file():
        splits = [folder for folder in folders if (folder / "state.json").is_file()]
    elif (path / "state.json").is_file():
        return
    else:
        splits = [folder for folder in folders if not _has_images(folder) and _has_label_folders(folder)]
        if len(splits) < sum(_has_images(folder) or folder in splits for folder in folders):
            return  # labels among them: the nested folder is named when it is reached
    if splits:
        train = next((split for split in splits if split.name.lower() == "train"), splits[0])
        raise LocalError("E-DATA-PARSE", f"{path.name} holds splits; give one split: {_shown(train, path)}")


def _has_label_folders(folder: Path) -> bool:
    return any(_has_images(entry) or (entry / "state.json").is_file() for entry in visible(folder.iterdir()))


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in visible(folder.iterdir()))


def _shown(file: Path, path: Path) -> str:
    """Return a file's place within its dataset, in characters that can be printed."""
    relative = file.relative_to(path).as_posix()
    return f"{path.name}/{relative}".encode(errors="backslashreplace").decode()
