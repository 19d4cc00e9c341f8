"""Data that a parser would take for something else without a word: taken as it is meant, or refused by file and row."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from participant.training.data import Columns, hash_dataset, inspect_dataset, read_table
from participant.training.rows.pictures import MAX_PIXELS, pixels
from privacy.errors import LocalError

PICTURES = Columns("image", "label")
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(LocalError) as info:
        inspect_dataset(path, **columns)  # type: ignore[arg-type]
    assert info.value.code in {"E-DATA-PARSE", "E-DATA-USER"}
    return info.value.detail


def saved(path: Path, numbers: list[int | None], names: list[str]) -> Path:
    """Write what ``datasets.Dataset.save_to_disk`` writes: a stream, its state and its features."""
    path.mkdir(parents=True)
    table = pa.table(
        {"text": [f"text {place}" for place in range(len(numbers))], "label": pa.array(numbers, pa.int64())}
    )
    with pa.OSFile(str(path / "data.arrow"), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    features = {"text": {"_type": "Value"}, "label": {"_type": "ClassLabel", "names": names}}
    (path / "dataset_info.json").write_text(json.dumps({"features": features}))
    return path


@pytest.mark.parametrize("number", [-1, 2])
@pytest.mark.parametrize("columns", [{}, {"label_column": "label"}])
def test_a_class_number_that_is_no_class_is_refused_with_its_row(
    number: int, columns: dict[str, str], tmp_path: Path
) -> None:
    path = saved(tmp_path / "reviews", [0, 1, number], ["bad", "good"])
    assert refusal(path, **columns).startswith("reviews row 3: column label holds a class number outside 0 to 1")
    assert list(read_table(path, Columns("text", "label"), strict=False).labels) == ["bad", "good", None]


def test_a_folder_of_splits_is_refused_with_the_split_to_give(tmp_path: Path) -> None:
    for split in ("test", "train"):
        saved(tmp_path / "reviews" / split, [0], ["bad", "good"])
    (tmp_path / "reviews" / "dataset_dict.json").write_text("{}")
    assert refusal(tmp_path / "reviews") == "reviews holds splits; give one split: reviews/train"
    assert inspect_dataset(tmp_path / "reviews" / "train").rows == 1


def test_a_selection_of_rows_is_not_taken_for_all_of_them(tmp_path: Path) -> None:
    path = saved(tmp_path / "reviews", [0, 1], ["bad", "good"])
    state = {"_data_files": [{"filename": "data.arrow"}], "_indices_data_files": [{"filename": "chosen.arrow"}]}
    (path / "state.json").write_text(json.dumps(state))
    assert "its rows are a selection" in refusal(path)


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", **options)
    return file.getvalue()


def folder(path: Path, **files: bytes) -> Path:
    """Write a folder of images; ``cat__one`` becomes ``cat/one.png``."""
    for name, data in files.items():
        file = path.joinpath(*name.split("__")).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


PLAIN = png(Image.new("L", (4, 3), 7))


def test_a_folder_of_image_splits_is_refused_with_the_split_to_give(tmp_path: Path) -> None:
    pets = folder(tmp_path / "pets", train__cat__one=PLAIN, test__cat__one=PLAIN)
    assert refusal(pets) == "pets holds splits; give one split: pets/train"
    assert inspect_dataset(pets / "train", label_column="label").labels == ("cat",)


def test_images_that_have_no_place_are_refused_by_name(tmp_path: Path) -> None:
    assert "pets/cat/more: a folder of images within a label's" in refusal(
        folder(tmp_path / "pets", cat__one=PLAIN, cat__more__two=PLAIN)
    )
    assert "beside/one.png: an image beside the folders" in refusal(
        folder(tmp_path / "beside", one=PLAIN, cat__two=PLAIN)
    )


def test_hidden_files_are_neither_rows_nor_labels_nor_changes(tmp_path: Path) -> None:
    pets = folder(tmp_path / "pets", cat__one=PLAIN)
    before = hash_dataset(pets)
    (pets / "cat" / "._one.png").write_bytes(b"what a file manager left")
    folder(pets, **{".ipynb_checkpoints__one": PLAIN})
    (pets / "cat" / "Thumbs.db").write_bytes(b"what another one left")
    facts = inspect_dataset(pets, label_column="label")
    assert (facts.rows, facts.labels, facts.sha256) == (1, ("cat",), before)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_grey_keeps_its_values(mode: str) -> None:
    ramp = np.linspace(0, 65535, 16).reshape(4, 4)
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = Image.fromarray(ramp.astype(kinds[mode]))
    assert image.mode == mode
    file = io.BytesIO()
    image.save(file, format="TIFF")
    assert np.array_equal(pixels(file.getvalue(), 1, "row 1")[:, :, 0], ramp.astype(kinds[mode]).astype(np.float32))


def deep_png(kind: int, channels: int) -> bytes:
    """Return a PNG of 16 bits a channel, which Pillow does not write; kind is its colour type."""
    rows = np.full((4, 4, channels), 15_000, ">u2")
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["colour", "grey and alpha", "all four"])
def test_deep_colour_is_refused_and_not_cut_to_eight_bits(kind: int, channels: int) -> None:
    assert pixels(deep_png(0, 1), 1, "a.png").max() == 15_000
    with pytest.raises(LocalError, match=r"a.png: colour of 16 bits cannot be kept"):
        pixels(deep_png(kind, channels), 3, "a.png")


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_several_pictures_in_one_file_are_refused_and_not_cut_to_the_first(kind: str) -> None:
    file = io.BytesIO()
    pages = [Image.new("L", (4, 3), 60 * number) for number in range(1, 4)]
    pages[0].save(file, format=kind, save_all=True, append_images=pages[1:])
    with pytest.raises(LocalError, match="scan: holds 3 pictures; save the one that is meant"):
        pixels(file.getvalue(), 1, "scan")


def test_few_bits_of_colour_are_a_picture() -> None:
    row = struct.pack("<4H", *[0x7C00] * 4)  # 5 bits of red
    header = struct.pack("<2sIHHI", b"BM", 54 + 4 * len(row), 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 0, 4 * len(row), 0, 0, 0, 0)
    assert pixels(header + info + 4 * row, 3, "a.bmp")[0, 0].tolist() == [255, 0, 0]


def test_a_camera_s_picture_with_its_preview_is_one_picture() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (7, 7, 7)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (2, 2))])
    assert pixels(file.getvalue(), 3, "photo.jpg").shape == (3, 4, 3)


def test_a_photo_is_turned_as_it_is_seen() -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # seen after a turn to the right
    assert np.array_equal(pixels(png(image, exif=exif), 1, "row 1")[:, :, 0], np.rot90(np.asarray(image), -1))


def huge_png(side: int) -> bytes:
    """Return a picture of a few kilobytes that claims to be ``side`` pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 14_000, 60_000])
def test_a_picture_too_large_to_decode_is_refused_by_name_with_the_limit(side: int, tmp_path: Path) -> None:
    pets = folder(tmp_path / "pets", cat__scan=huge_png(side))
    assert refusal(pets) == f"pets/cat/scan.png: an image of more than {MAX_PIXELS:,} pixels; make it smaller"


@pytest.mark.parametrize("data", [PLAIN[:40], b"<html>not found</html>"])
def test_a_damaged_picture_is_refused_by_name_when_it_is_added(data: bytes, tmp_path: Path) -> None:
    assert refusal(folder(tmp_path / "pets", cat__cut=data)) == "pets/cat/cut.png: not an image"


def test_a_file_name_that_is_no_utf_8_can_be_shown(tmp_path: Path) -> None:
    pets = folder(tmp_path / "pets", cat__one=PLAIN)
    (pets / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    assert refusal(pets).encode().isascii()


# Two ways to write the same names, and the names that are meant.
SAME: dict[str, tuple[list[Any], list[str]]] = {
    "whole numbers as floats": ([17.0, 3.0], ["17", "3"]),
    "whole numbers": ([17, 3], ["17", "3"]),
    "text of floats": (["17.0", "3.00"], ["17", "3"]),
    "text of floats without a fraction": (["17.", "-3."], ["17", "-3"]),
    "a plus sign": (["+17", "3"], ["17", "3"]),
    "large numbers as R writes them": (["1e+05", "1.5e+06"], ["100000", "1500000"]),
    "text that only looks like a number": (["1e5", "1.5e+00"], ["1e5", "1.5e+00"]),
    "spaces": (["17 ", "\u00a03"], ["17", "3"]),
    "composed letters": ([COMPOSED, "a"], [COMPOSED, "a"]),
    "decomposed letters": ([DECOMPOSED, "a"], [COMPOSED, "a"]),
    "leading zeros, which are part of a name": (["007", "7"], ["007", "7"]),
    "fractions in text": (["1.50", "2.5"], ["1.50", "2.5"]),
}


def as_csv(path: Path, values: list[Any]) -> Path:
    path.with_suffix(".csv").write_text("text,label,person\n" + "".join(f"x,{value},{value}\n" for value in values))
    return path.with_suffix(".csv")


def as_jsonl(path: Path, values: list[Any]) -> Path:
    lines = [json.dumps({"text": "x", "label": value, "person": value}) for value in values]
    path.with_suffix(".jsonl").write_text("\n".join(lines))
    return path.with_suffix(".jsonl")


def as_parquet(path: Path, values: list[Any]) -> Path:
    parquet.write_table(pa.table({"text": ["x"] * len(values), "label": values, "person": values}), path)
    return path.rename(path.with_suffix(".parquet"))


def as_npz(path: Path, values: list[Any]) -> Path:
    np.savez(path, text=np.array(["x"] * len(values)), label=np.array(values), person=np.array(values))
    return path.with_suffix(".npz")


WRITERS: list[Callable[[Path, list[Any]], Path]] = [as_csv, as_jsonl, as_parquet, as_npz]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("sentence", SAME)
def test_a_name_is_the_same_in_every_format_written_with(
    sentence: str, write: Callable[[Path, list[Any]], Path], tmp_path: Path
) -> None:
    values, names = SAME[sentence]
    table = read_table(write(tmp_path / "rows", values), Columns("text", "label", "person"))
    assert list(table.labels) == names
    assert list(table.users or ()) == names


@pytest.mark.parametrize("value", [0.5, float("nan"), 2.0**53, True])
def test_what_is_no_name_is_refused_as_label_and_as_user(value: object, tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "rows", [value])
    assert "column label is neither text nor an integer" in refusal(path, label_column="label")
    assert "column person is empty, missing, or neither" in refusal(path, user_column="person")


UNSEEN = {
    "a zero-width space": "\u200b",
    "a soft hyphen": "\u00ad",
    "a mark of direction": "\u202e",
    "half a pair": "\ud800",
    "a Hangul filler": "\u3164",
    "an empty Braille cell": "\u2800",
    "a grapheme joiner": "\u034f",
    "a variation selector": "\ufe0f",
    "a joiner that joins nothing": "\u200d",
}


@pytest.mark.parametrize("sentence", UNSEEN)
def test_a_character_that_cannot_be_seen_makes_no_second_label_or_person(sentence: str, tmp_path: Path) -> None:
    character = UNSEEN[sentence]
    path = as_jsonl(tmp_path / "rows", ["anna", f"an{character}na"])
    for role in ("label", "person"):
        says = refusal(path, **{"label_column" if role == "label" else "user_column": role})
        assert says == f"rows.jsonl row 2: column {role} holds a character that cannot be seen, U+{ord(character):04X}"
    assert inspect_dataset(path, label_column="text").rows == 2
    named = written(tmp_path / "x.jsonl", json.dumps({f"te{character}xt": "fine", "label": "1"}))
    assert f"the name of column 1 has a character that cannot be seen, U+{ord(character):04X}" in refusal(named)


def test_scripts_that_need_joiners_are_names(tmp_path: Path) -> None:
    joined = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # Persian, with a zero-width non-joiner
    assert inspect_dataset(as_jsonl(tmp_path / "rows", [joined]), label_column="label").labels == (joined,)


def test_a_column_s_name_may_be_composed_or_not(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"text,{DECOMPOSED}\nfine,1\n")
    assert inspect_dataset(tmp_path / "x.csv", label_column=COMPOSED).labels == ("1",)
    assert list(read_table(tmp_path / "x.csv", Columns("text", DECOMPOSED)).labels) == ["1"]


TWICE: dict[str, Callable[[Path], Path]] = {
    "csv": lambda path: written(path / "x.csv", "text,label,label\nfine,1,0\n"),
    "csv with a space": lambda path: written(path / "x.csv", "text,label,label \nfine,1,0\n"),
    "jsonl": lambda path: written(path / "x.jsonl", '{"text": "fine", "label": 1, "label": 0}\n'),
    "parquet": lambda path: twice(path / "x.parquet"),
}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def twice(path: Path) -> Path:
    parquet.write_table(
        pa.Table.from_arrays([pa.array(["fine"]), pa.array([1]), pa.array([0])], ["text", *["label"] * 2]), path
    )
    return path


@pytest.mark.parametrize("kind", TWICE)
def test_a_column_that_is_there_twice_is_refused_in(kind: str, tmp_path: Path) -> None:
    assert "column label is there twice" in refusal(TWICE[kind](tmp_path))


def test_keys_within_a_cell_are_no_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", '{"image": {"bytes": null, "path": "a"}, "label": [{"b": 1}]}\n')
    assert inspect_dataset(path).columns == ("image", "label")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_named(separator: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", f"\ufefftext{separator}label\nfine{separator}1\n")
    assert repr(separator) in refusal(path)


@pytest.mark.parametrize("header", ["id;text;note, long;label", "id;text,label", "text label", "text:label"])
def test_a_header_of_another_separator_is_no_single_column(header: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", f"{header}\n{header}\n")
    assert "columns are separated by commas" in refusal(path)


def test_a_picture_of_a_kind_that_is_not_read_is_refused_by_name_and_not_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(PLAIN)
    (folder / "notes.txt").write_text("no picture")
    assert inspect_dataset(tmp_path / "photos").rows == 1
    (folder / "2.HEIC").write_bytes(b"ftypheic")
    assert refusal(tmp_path / "photos").startswith("photos/cat/2.HEIC: files of this kind are not read")


def test_bytes_that_are_no_picture_are_refused_with_their_column_unless_another_is_the_input(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"text": ["a"], "label": [b"x"], "hash": [b"y"]}), path)
    assert refusal(path).startswith("x.parquet row 1: column ")
    assert (
        refusal(path, input_column="text", label_column="label")
        == "x.parquet row 1: column label is neither text nor an integer"
    )
    assert inspect_dataset(path, input_column="text", label_column="text").rows == 1


def odd_times(path: Path) -> Path:
    seen = pa.array([1_700_000_000_000_000_001, None], pa.timestamp("ns"))
    until = pa.array([2932897, 1], pa.date32())  # 10000-01-01, which Python cannot hold
    parquet.write_table(pa.table({"text": ["a", "b"], "label": ["x", "y"], "seen": seen, "until": until}), path)
    return path


def test_values_that_python_cannot_hold_matter_in_columns_that_are_used_alone(tmp_path: Path) -> None:
    path = odd_times(tmp_path / "x.parquet")
    assert inspect_dataset(path).columns == ("label", "seen", "text", "until")
    assert list(read_table(path, Columns("text", "label")).inputs) == ["a", "b"]
    assert refusal(path, label_column="until") == "x.parquet row 1: column until holds a value that cannot be read"
    assert list(read_table(path, Columns("text", "until"), strict=False).labels) == [None, None]


def test_a_file_without_a_header_names_its_first_row_to_its_owner_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "Mrs Smith,1\nMr Jones,0\n")
    assert refusal(path, label_column="label") == "x.csv row 1: no column label; there are 1, Mrs Smith"
    with pytest.raises(LocalError) as info:
        read_table(path, Columns("text", "label"), strict=False)
    assert info.value.detail == "x.csv row 1: no column text"


def with_notes_alone(pets: Path) -> None:
    (pets / "fox").mkdir()
    (pets / "fox" / "a.txt").touch()


INCOMPLETE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a label that is a link to nothing": (
        lambda pets: (pets / "fox").symlink_to("/nowhere"), "pets/fox: a link that leads nowhere"
    ),
    "an image that is a link to nothing": (
        lambda pets: (pets / "dog" / "2.png").symlink_to("/nowhere"), "pets/dog/2.png: a link that leads nowhere"
    ),
    "an empty folder of a label": (lambda pets: (pets / "fox").mkdir(), "pets/fox: a label's folder without an image"),
    "a folder of a label with notes alone": (
        with_notes_alone, "pets/fox: a label's folder without"
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", INCOMPLETE)
def test_no_label_and_no_image_of_folders_is_missing_in_silence(sentence: str, tmp_path: Path) -> None:
    change, says = INCOMPLETE[sentence]
    pets = folder(tmp_path / "pets", cat__1=PLAIN, dog__1=PLAIN)
    assert inspect_dataset(pets).rows == 2
    change(pets)
    assert refusal(pets).startswith(says)


def test_the_labels_of_folders_are_listed_without_being_named(tmp_path: Path) -> None:
    assert inspect_dataset(folder(tmp_path / "pets", cat__1=PLAIN, dog__1=PLAIN)).labels == ("cat", "dog")


INFINITE: dict[str, Callable[[Path], Path]] = {
    "an array": lambda path: npz(path / "x.npz", np.full((2, 3, 3), np.inf)),
    "an array of no numbers": lambda path: npz(path / "x.npz", np.full((2, 3, 3, 1), np.nan)),
    "lists": lambda path: written(path / "x.jsonl", '{"image": [[1, Infinity]], "label": 1}\n'),
    "JSON in a table": lambda path: written(path / "x.csv", 'image,label\n"[[1, 1e999]]",1\n'),
}


def npz(path: Path, images: np.ndarray) -> Path:
    np.savez(path, image=images, label=np.array(["a", "b"]))
    return path


@pytest.mark.parametrize("sentence", INFINITE)
@pytest.mark.parametrize("columns", [{}, {"input_column": "image", "label_column": "label"}])
def test_pixels_without_end_are_refused_as_such_when_a_dataset_is_added(
    sentence: str, columns: dict[str, str], tmp_path: Path
) -> None:
    says = refusal(INFINITE[sentence](tmp_path), **columns)
    assert "row 1: a pixel is infinite, or not a number" in says


def test_numbers_that_are_no_pixels_may_be_infinite(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.jsonl", '{"text": "a", "value": Infinity, "vector": [Infinity], "odd": [[1], [1, 2]]}\n'
    )
    assert inspect_dataset(path).rows == 1
