"""Folders of sentence-transformers: their pooling is followed, or the recipe says why not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from authoring.pooling import compare_pooling, pooling_of
from privacy.errors import LocalError


def folder(path: Path, config: dict[str, Any] | None, *kinds: str) -> Path:
    """Write what sentence-transformers saves beside a model."""
    types = ("Transformer", "Pooling", *kinds)
    modules = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}" if place else "", "type": f"x.models.{kind}"}
        for place, kind in enumerate(types)
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    if config is not None:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return path


def task(kind: str = "sentence-embedding", pooling: str | None = None) -> Any:
    return SimpleNamespace(kind=kind, pooling=pooling)


ALL = ("mean_tokens", "cls_token", "lasttoken", "max_tokens")
POOLINGS = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}


def modes(*chosen: str) -> dict[str, Any]:
    return {"word_embedding_dimension": 8, **{f"pooling_mode_{mode}": mode in chosen for mode in ALL}}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_pooling_of_a_folder_is_read_from_either_form_of_its_configuration(pooling: str, tmp_path: Path) -> None:
    for place, config in enumerate((modes(POOLINGS[pooling]), {"pooling_mode": pooling})):
        (tmp_path / str(place)).mkdir()
        assert pooling_of(folder(tmp_path / str(place), config, "Normalize")) == pooling


def test_a_recipe_that_is_silent_is_told_what_to_write_where_the_folder_does_not_pool_by_the_mean(
    tmp_path: Path,
) -> None:
    with pytest.raises(LocalError, match='pools by cls; set pooling = "cls"') as info:
        compare_pooling(folder(tmp_path, modes("cls_token")), task())
    assert info.value.code == "E-CONFIG-INVALID"
    assert compare_pooling(tmp_path, task(pooling="cls")) == ()
    assert compare_pooling(tmp_path, task(pooling="last")) == ("task.pooling is last, modules.json pools by cls",)
    (words,) = compare_pooling(tmp_path, task("text-classification"))
    assert words == "modules.json pools texts by cls; a head reads what the class in config.json gives it"


def test_the_mean_needs_no_word_and_other_folders_have_no_pooling(tmp_path: Path) -> None:
    assert compare_pooling(tmp_path, task()) == ()
    assert compare_pooling(folder(tmp_path, modes("mean_tokens")), task()) == ()


REFUSED: dict[str, tuple[dict[str, Any] | None, tuple[str, ...], str]] = {
    "two poolings at once": (modes("mean_tokens", "max_tokens"), (), "pools by mean and pooling_mode_max_tokens"),
    "the maximum": (modes("max_tokens"), (), "pools by pooling_mode_max_tokens; plans have mean, cls and last"),
    "a dense layer behind": (modes("mean_tokens"), ("Dense",), "a Dense layer makes the embeddings"),
    "a configuration that was not copied": (None, (), "copy the folder whole"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_folder_is_refused_for(sentence: str, tmp_path: Path) -> None:
    config, kinds, words = REFUSED[sentence]
    with pytest.raises(LocalError, match=words) as info:
        pooling_of(folder(tmp_path, config, *kinds))
    assert info.value.code == "E-MODEL-LOAD"
