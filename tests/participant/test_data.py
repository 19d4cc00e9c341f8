"""Datasets are read whole, in their owner's formats, and refused by file and row, never by content."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from participant.training.data import Columns, hash_dataset, inspect_dataset, read_table
from participant.training.rows.pictures import pixels
from privacy.errors import LocalError

TEXTS = ["pain, at night", 'says "calm"', "fine"]
LABELS = ["a", "b", "a"]
PEOPLE = ["u1", "u2", "u1"]
COLUMNS = Columns("text", "label", "person")


def write_csv(path: Path) -> Path:
    file = path / "rows.csv"
    file.write_text('text,label,person\n"pain, at night",a,u1\n"says ""calm""",b,u2\nfine,a,u1\n')
    return file


def write_jsonl(path: Path) -> Path:
    file = path / "rows.jsonl"
    rows = [dict(zip(("text", "label", "person"), row, strict=True)) for row in zip(TEXTS, LABELS, PEOPLE, strict=True)]
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return file


def write_parquet(path: Path) -> Path:
    file = path / "rows.parquet"
    parquet.write_table(pa.table({"text": TEXTS, "label": LABELS, "person": PEOPLE}), file)
    return file


def write_npz(path: Path) -> Path:
    file = path / "rows.npz"
    np.savez(file, text=np.array(TEXTS), label=np.array(LABELS), person=np.array(PEOPLE))
    return file


def write_saved(path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    text = datasets.Value("string")
    features = datasets.Features({"text": text, "label": datasets.ClassLabel(names=["a", "b"]), "person": text})
    numbers = [{"a": 0, "b": 1}[label] for label in LABELS]
    found = datasets.Dataset.from_dict({"text": TEXTS, "label": numbers, "person": PEOPLE}, features=features)
    found.save_to_disk(str(path / "saved"))
    return path / "saved"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "npz": write_npz,
    "datasets": write_saved,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    table = read_table(WRITERS[kind](tmp_path), COLUMNS)
    assert [str(text) for text in table.inputs] == TEXTS
    assert list(table.labels) == LABELS
    assert list(table.users or ()) == PEOPLE


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_described_by_its_public_sizes(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    facts = inspect_dataset(path, input_column="text", label_column="label", user_column="person")
    assert (facts.format, facts.rows, facts.users, facts.units) == (kind, 3, 2, 2)
    assert facts.columns == ("label", "person", "text")
    assert facts.labels == ("a", "b")
    assert inspect_dataset(path).units == 3


def image_bytes(value: int, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (4, 3), value if mode == "L" else (value, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def test_a_directory_of_images_takes_its_labels_from_its_sub_directories(tmp_path: Path) -> None:
    for label, value in (("cat", 10), ("dog", 200)):
        (tmp_path / "pets" / label).mkdir(parents=True)
        (tmp_path / "pets" / label / "one.png").write_bytes(image_bytes(value))
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not an image")
    table = read_table(tmp_path / "pets", Columns("image", "label"))
    assert list(table.labels) == ["cat", "dog"]
    assert [pixels(one, 1, "row").mean() for one in table.inputs] == [10, 200]
    assert inspect_dataset(tmp_path / "pets").format == "imagefolder"


def test_a_repr_of_rows_shows_none_of_them(tmp_path: Path) -> None:
    assert "calm" not in repr(read_table(write_csv(tmp_path), COLUMNS))


# What breaks a dataset: file name, its bytes, the code and the words that name the place.
BROKEN: dict[str, tuple[str, bytes, str, str]] = {
    "a line with too many columns": ("x.csv", b"text,label,person\na,b,c\na,b,c,d\n", "E-DATA-PARSE", "x.csv row 2"),
    "a line with too few columns": ("x.csv", b"text,label,person\na,b\n", "E-DATA-PARSE", "x.csv row 1"),
    "a quote that never closes": ("x.csv", b'text,label,person\n"a,b,c\n', "E-DATA-PARSE", "x.csv line"),
    "bytes that are no text": ("x.csv", b"text,label,person\n\xff\xfe,b,c\n", "E-DATA-PARSE", "x.csv line"),
    "no rows": ("x.csv", b"text,label,person\n", "E-DATA-PARSE", "no rows"),
    "another column": ("x.csv", b"words,label,person\na,b,c\n", "E-DATA-PARSE", "no column text"),
    "an empty user": ("x.csv", b"text,label,person\na,b,u\na,b,\n", "E-DATA-USER", "x.csv row 2"),
    "an empty label": ("x.csv", b"text,label,person\na,,u\n", "E-DATA-PARSE", "x.csv row 1"),
    "a line that is no JSON": ("x.jsonl", b'{"text": "a", "label": "b", "person": 1}\n{"text"\n', "E-DATA-PARSE", "2"),
    "a line that is no object": ("x.jsonl", b"[1]\n", "E-DATA-PARSE", "row 1: not an object"),
    "JSON nested without end": ("x.jsonl", b"[" * 100_000 + b"\n", "E-DATA-PARSE", "row 1"),
    "a null input": ("x.jsonl", b'{"text": null, "label": "b", "person": 1}\n', "E-DATA-PARSE", "row 1"),
    "a float for a label": ("x.jsonl", b'{"text": "a", "label": 0.5, "person": 1}\n', "E-DATA-PARSE", "row 1"),
    "no user at all": ("x.jsonl", b'{"text": "a", "label": "b"}\n', "E-DATA-USER", "row 1"),
    "a parquet file that is none": ("x.parquet", b"PAR1 not really PAR1", "E-DATA-PARSE", "x.parquet"),
    "an npz file that is none": ("x.npz", b"no zip", "E-DATA-PARSE", "x.npz"),
    "an unknown ending": ("x.xlsx", b"", "E-DATA-PARSE", "x.xlsx"),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_dataset_is_refused_with_file_and_row_for(sentence: str, tmp_path: Path) -> None:
    name, data, code, place = BROKEN[sentence]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LocalError, match=place) as info:
        read_table(tmp_path / name, COLUMNS)
    assert info.value.code == code
    with pytest.raises(LocalError):
        inspect_dataset(tmp_path / name, input_column="text", label_column="label", user_column="person")


def test_an_npz_file_with_pickled_objects_is_refused_unread(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "x.npz", text=np.array([Bomb()], dtype=object), label=np.array(["a"]))
    with pytest.raises(LocalError, match=r"x\.npz") as info:
        read_table(tmp_path / "x.npz", Columns("text", "label"))
    assert info.value.code == "E-DATA-PARSE"
    assert not (tmp_path / "exploded").exists()


def test_npz_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", text=np.array(["a", "b"]), label=np.array(["a"]))
    with pytest.raises(LocalError, match="different lengths"):
        read_table(tmp_path / "x.npz", Columns("text", "label"))


def test_a_refusal_never_quotes_the_data(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "Mrs Smith has cancer", "label": {"secret": 1}, "person": 1}\n')
    with pytest.raises(LocalError) as info:
        read_table(tmp_path / "x.jsonl", COLUMNS)
    assert "Smith" not in str(info.value)
    assert "secret" not in str(info.value)


IMAGES: dict[str, Any] = {
    "nested lists": [[1, 2], [3, 4]],
    "text of nested lists": "[[1, 2], [3, 4]]",
    "a grey array": np.array([[1, 2], [3, 4]], dtype=np.uint8),
    "an array with a channel": np.array([[[1], [2]], [[3], [4]]]),
}


@pytest.mark.parametrize("form", IMAGES)
def test_an_image_may_be(form: str) -> None:
    assert pixels(IMAGES[form], 1, "row")[:, :, 0].tolist() == [[1, 2], [3, 4]]
    assert pixels(IMAGES[form], 3, "row").shape == (2, 2, 3)


def test_an_image_may_be_a_file_s_bytes_as_hugging_face_keeps_them() -> None:
    assert pixels({"bytes": image_bytes(100, "RGB"), "path": None}, 3, "row")[0, 0].tolist() == [100, 0, 0]
    assert pixels(image_bytes(100, "RGB"), 1, "row")[0, 0, 0] == pytest.approx(29.9)


@pytest.mark.parametrize(
    "value", ["no image", b"no image", [[1, 2], [3]], [1, 2], [[float("nan")]], {"path": "/x"}, []]
)
def test_what_is_no_image_is_refused(value: Any) -> None:
    with pytest.raises(LocalError, match="row 3") as info:
        pixels(value, 1, "row 3")
    assert info.value.code == "E-DATA-PARSE"


def test_a_hash_names_the_content_of_files_and_directories(tmp_path: Path) -> None:
    first = write_csv(tmp_path)
    before = hash_dataset(first)
    assert hash_dataset(tmp_path) != before
    first.write_text(first.read_text() + "x,a,u9\n")
    assert hash_dataset(first) != before


def test_a_space_more_makes_no_second_person(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('text,label,person\na,1,anna\nb,1," anna "\nc,1,bert\n')
    assert inspect_dataset(tmp_path / "x.csv", user_column="person").users == 2
    assert read_table(tmp_path / "x.csv", Columns("text", "label", "person")).users == ["anna", "anna", "bert"]
