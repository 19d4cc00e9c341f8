"""Data and bases as people keep them, of which a part would be left out, or read as something else, without a word."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from authoring.draft import build_draft, require_order
from participant.owner.registry import DatasetEntry, renamed_labels
from participant.training.bases.checks import check_room
from participant.training.data import inspect_dataset
from participant.training.models import load_checked
from participant.training.rows.cells import name_text
from participant.training.rows.pictures import TRANSPARENT, pixels
from participant.training.tasks.forms import messages_of
from participant.training.tasks.texts import tokenised
from participant.training.tasks.values import number_of
from privacy.errors import LocalError
from tests.worlds.task_world import task_world, word_tokenizer
from tests.worlds.torch_world import LABELS, image_base, recipe_text, text_base

pytestmark = pytest.mark.torch


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(LocalError) as info:
        inspect_dataset(path, **columns)  # type: ignore[arg-type]
    assert info.value.code == "E-DATA-PARSE"
    return info.value.detail


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


PLAIN = png(Image.new("L", (4, 3), 7))


# --- pictures ---


@pytest.mark.parametrize("name", ["2.pgm", "2.npy", "2.png.gz", "2.nii.gz", "2", "2021/jan/1.png"])
def test_what_would_be_left_out_of_a_folder_of_pictures_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "pets" / "cat"
    (folder / name).parent.mkdir(parents=True)
    (folder / "1.png").write_bytes(PLAIN)
    (folder / name).write_bytes(PLAIN)
    assert refusal(tmp_path / "pets").startswith(f"pets/cat/{name.partition('/')[0]}: ")


def test_texts_beside_pictures_and_hidden_folders_are_let_be(tmp_path: Path) -> None:
    folder = tmp_path / "pets" / "cat"
    (folder / ".cache").mkdir(parents=True)
    for name in ("1.png", "2.jfif", ".cache/3.png", "README", "notes.md"):
        (folder / name).write_bytes(PLAIN)
    assert inspect_dataset(tmp_path / "pets").rows == 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_picture_with_transparent_parts_is_refused_and_not_read_as_black(mode: str) -> None:
    drawn = Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    drawn.putpixel((1, 1), (0, 0, 0, 255))
    with pytest.raises(LocalError, match=TRANSPARENT):
        pixels(png(drawn.convert(mode)), 3, "row 1")
    opaque = png(Image.new("RGBA", (4, 3), (9, 9, 9, 255)))
    assert (pixels(opaque, 3, "row 1") == 9).all()


def test_channels_are_those_of_the_base_or_both_numbers_are_named() -> None:
    four = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert np.array_equal(pixels(four, 4, "row 1"), four)
    with pytest.raises(LocalError, match="it has 3 channels, and the base reads 4"):
        pixels(four[:, :, :3], 4, "row 1")
    with pytest.raises(LocalError, match=TRANSPARENT):
        pixels(four, 3, "row 1")


# --- tables ---


def test_numbers_of_classes_in_lists_become_their_names_also_in_parquet(tmp_path: Path) -> None:
    classes = {"_type": "ClassLabel", "names": ["2", "1"]}
    about = {"info": {"features": {"tags": {"feature": classes, "_type": "List"}, "label": classes}}}
    table = pa.table({"tags": [[0, 1], [1]], "label": [0, 1]})
    path = tmp_path / "rows.parquet"
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)
    assert inspect_dataset(path, label_column="label", input_column="tags").labels == ("1", "2")
    assert inspect_dataset(path, label_column="tags", input_column="label").labels == ("1", "2")
    parquet.write_table(pa.table({"text": ["a", "b"], "tags": [[0], [7]]}).replace_schema_metadata(
        {"huggingface": json.dumps(about)}), path)  # fmt: skip
    assert "row 2: column tags holds a class number outside 0 to 1" in refusal(path, label_column="tags")


@pytest.mark.parametrize("label", [[[1], [2, 3]], [[1, 2]], {"a": 1}, 10**5])
def test_a_label_of_any_shape_is_taken_or_refused_by_row(label: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a", "label": label}) + "\n")
    if isinstance(label, int):
        assert inspect_dataset(path, label_column="label").labels == ("100000",)
    else:
        assert refusal(path, label_column="label").startswith("rows.jsonl row 1: column label is neither")


def test_a_member_of_an_archive_that_is_no_array_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, text=np.array(["a"]), label=np.array(["b"]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "words")
    assert refusal(path) == "rows.npz: README.txt in it is no array; leave it out"


def test_a_number_of_thousands_of_digits_stays_the_text_that_it_is() -> None:
    assert name_text("1" * 6000 + ".0") == "1" * 6000 + ".0"
    assert name_text("1" * 20 + ".0") == "1" * 20


def test_json_that_is_nested_deeper_than_anything_reads_it_is_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": ' + "[" * 900 + "]" * 900 + "}\n")
    assert refusal(path) == "rows.jsonl row 1: not JSON, or nested too deep"


def test_a_line_for_spreadsheets_is_not_taken_for_the_names_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("sep=,\ntext,label\na,b\n")
    assert "its first line is for spreadsheets" in refusal(path)


@pytest.mark.parametrize("text", ["1_5", "1e30", "-1e19", "inf"])
def test_a_number_that_nobody_could_learn_or_that_python_alone_reads_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match=r"row 1: its label is not a number of at most 1e\+18"):
        number_of(text, "row 1")
    assert number_of("1.5", "row 1") == 1.5


def test_labels_are_renamed_by_the_text_that_they_are_compared_as() -> None:
    entry = DatasetEntry(
        name="rows", path="/rows", added_at=0, rows=3, labels=("caf\u00e9", "musik", "sport")
    )  # fmt: skip
    assert renamed_labels(entry, ["cafe\u0301=cafe", "musik=music"]) == {"caf\u00e9": "cafe", "musik": "music"}
    with pytest.raises(LocalError, match="no row has label opera"):
        renamed_labels(entry, ["opera=music"])


def test_several_labels_in_a_cell_are_each_noted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,musik|sport\nb,sport\n")
    assert inspect_dataset(path, label_column="label").labels == ("musik", "sport")


# --- texts and chats ---


def test_a_chat_that_the_assistant_opens_is_read_and_its_greeting_is_not_asked_for(tmp_path: Path) -> None:
    world = task_world(tmp_path, "chats")
    greeting, turns = {"role": "assistant", "content": "fine"}, json.loads(world.dataset.read_text().splitlines()[0])
    (column,) = [name for name, value in turns.items() if isinstance(value, list)]
    assert messages_of([greeting, *turns[column]], "row 1")[0] == greeting
    with pytest.raises(LocalError, match="no message after the first has the role assistant"):
        messages_of([greeting, {"role": "user", "content": "hm"}], "row 1")


def test_an_empty_text_attends_to_its_first_place_where_a_tokenizer_adds_nothing() -> None:
    tokenizer = word_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    base: Any = SimpleNamespace(tokenizer=tokenizer)
    reading: Any = SimpleNamespace(cut=set())
    assert tokenised(base, ["", "x"], 3, reading)["attention_mask"].tolist() == [[1, 0, 0], [1, 0, 0]]


# --- bases ---


def test_texts_are_cut_and_filled_up_at_the_end_whatever_the_folder_says(tmp_path: Path) -> None:
    folder = text_base(tmp_path / "base")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "padding_side": "left", "truncation_side": "left"})
    )
    (tmp_path / "recipe.toml").write_text(recipe_text("text"))
    task = build_draft(tmp_path / "recipe.toml", tmp_path / "draft", self_check=False).recipe.task
    base, _ = load_checked(folder, "base", task, seed=0)
    assert base.tokenizer is not None
    assert (base.tokenizer.padding_side, base.tokenizer.truncation_side) == ("right", "right")
    with pytest.raises(LocalError, match=r"task\.max_length 2: base adds 2 tokens to each text"):
        check_room("base", base.tokenizer, 2)
    check_room("base", base.tokenizer, 3)


@pytest.mark.parametrize(
    ("end", "words"),
    [(".weight", "in a block that config.json does not count"), (".lora_A.weight", "adapter's weights")],
)
def test_weights_that_would_be_left_out_of_a_base_are_refused_by_name(end: str, words: str, tmp_path: Path) -> None:
    base = image_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    first = next(key for key in sorted(tensors) if ".0." in key and key.endswith(".weight"))
    tensors[first.replace(".0.", ".9.").removesuffix(".weight") + end] = torch.zeros(2, 2)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "recipe.toml").write_text(recipe_text())
    with pytest.raises(LocalError) as info:
        build_draft(tmp_path / "recipe.toml", tmp_path / "draft", self_check=False)
    assert (info.value.code, words in info.value.detail, ".9." in info.value.detail) == ("E-MODEL-LOAD", True, True)


def test_another_head_in_the_checkpoint_is_no_surplus(tmp_path: Path) -> None:
    base = image_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors |= {"decoder.layers.0.weight": torch.zeros(2, 2), "vit.pooler.dense.weight": torch.zeros(2, 2)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "recipe.toml").write_text(recipe_text())
    build_draft(tmp_path / "recipe.toml", tmp_path / "draft", self_check=False)


def test_the_base_s_labels_in_another_order_are_refused_however_they_are_capitalised(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "library", "1": "clinic"}}))
    with pytest.raises(LocalError, match="in the order library, clinic"):
        require_order(tmp_path, ["Clinic", "Library"])
    require_order(tmp_path, ["Library", "Clinic"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[privacy]\n", "[privacy]\nupdate_bound = 0\n", "update_bound: it must be above 0"),
        ("[privacy]\n", "[privacy]\nupload_after_ms = 9007199254740991\n", "upload_after_ms: it must be at most a day"),
        ('input_column = "image"', 'input_column = "x"\nlabel_column = "x"', "label_column: it is the input's own"),
        (f'"{LABELS[0]}"', '" "', "task.labels: one of them is empty"),
    ],
)  # fmt: skip
def test_a_recipe_that_says_what_cannot_be_meant_is_refused_by_its_key(
    old: str, new: str, words: str, tmp_path: Path
) -> None:
    image_base(tmp_path / "base")
    text = recipe_text()
    assert old in text
    (tmp_path / "recipe.toml").write_text(text.replace(old, new))
    with pytest.raises(LocalError) as info:
        build_draft(tmp_path / "recipe.toml", tmp_path / "draft", self_check=False)
    assert words in info.value.detail
