"""Base models are hashed before they are loaded, and never run anybody's code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from participant.training.models import _image_size, architecture, hash_model, verify_base
from privacy.draft import BaseReference
from privacy.errors import LocalError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "vocab.txt").write_text("a\n")
    (base / "README.md").write_text("not read")
    (base / "onnx").mkdir()
    return base


def reference(folder: Path) -> BaseReference:
    return BaseReference(name="tiny", architecture=architecture(folder), files=hash_model(folder))


def test_every_file_that_loading_may_read_is_hashed_and_no_other(folder: Path) -> None:
    assert [file.name for file in hash_model(folder)] == ["config.json", "model.safetensors", "vocab.txt"]
    assert reference(folder).architecture == "ViTForImageClassification"


def test_the_very_files_of_the_plan_are_accepted(folder: Path) -> None:
    verify_base(folder, reference(folder))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "other weights": (lambda base: (base / "model.safetensors").write_bytes(b"other"), "model.safetensors differs"),
    "another tokenizer": (lambda base: (base / "vocab.txt").write_text("b\n"), "vocab.txt differs"),
    "a file less": (lambda base: (base / "vocab.txt").unlink(), "vocab.txt is missing"),
    "a file more": (lambda base: (base / "tokenizer.json").write_text("{}"), "tokenizer.json is not in the plan"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_is_refused_by_the_name_of_the_file_for(change: str, folder: Path) -> None:
    expected = reference(folder)
    alter, words = CHANGES[change]
    alter(folder)
    with pytest.raises(LocalError, match=words) as info:
        verify_base(folder, expected)
    assert info.value.code == "E-MODEL-HASH"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.PKL", "x.ckpt", "x.pth"])
def test_a_pickle_beside_the_weights_is_refused(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(LocalError, match=name) as info:
        hash_model(folder)
    assert info.value.code == "E-MODEL-PICKLE"


def test_the_trainer_s_own_settings_are_refused_with_what_to_do(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"")
    with pytest.raises(
        LocalError, match=r"training_args\.bin: the Trainer's settings, which no model needs; delete it"
    ):
        hash_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_configuration_or_weights_is_no_base(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(LocalError) as info:
        hash_model(folder)
    assert info.value.code == "E-MODEL-LOAD"


def test_a_file_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="is not a folder"):
        hash_model(tmp_path / "nothing")


def test_the_size_of_an_image_tower_is_that_of_its_vision_configuration() -> None:
    tower = SimpleNamespace(vision_config=SimpleNamespace(image_size=224))
    assert _image_size(tower) == (224, 224)
    with pytest.raises(LocalError, match="names no image_size"):
        _image_size(SimpleNamespace(vision_config=SimpleNamespace()))
