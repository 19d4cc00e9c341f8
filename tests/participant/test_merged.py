"""``onlysum adapter merge``: one model with the answers that the base gives with the adapter, loaded without PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

import methods
import onlysum
from methods.vectors import joined
from participant.training.adapters.adapted import ADAPTER_FILE, CONFIG_FILE, config_json, read_initial
from participant.training.bases.merged import merge
from participant.training.examples import synthetic_examples
from privacy.error_codes import REGISTRY
from privacy.errors import LocalError
from tests.worlds.torch_world import World, make_world

pytestmark = pytest.mark.torch

CARD = "---\nlibrary_name: peft\n---\n\n# Tiny\n\n## Privacy\n\nthe claim\n\n## Use\n\nPeftModel\n"
QUICK = {"fedit", "ia3", "bitfit"}
NOT_LINEAR = {"bottleneck"}  # no weights can hold it


def released(world: World) -> Path:
    """Write what a run of the world's plan might release: an adapter that has moved from its start."""
    recipe, folder = world.plan.recipe, world.directory / "released"
    initial, adapted = read_initial(world.initial, recipe.adapter), world.adapted()
    start = joined(recipe, initial)
    moved = start + np.random.default_rng(1).normal(scale=0.1, size=start.shape).astype(np.float32)
    method = methods.get(recipe.adapter.method)
    folder.mkdir()
    tensors = method.export(recipe, moved, initial)
    save_file({key: torch.from_numpy(np.ascontiguousarray(one)) for key, one in tensors.items()}, folder / ADAPTER_FILE)
    (folder / CONFIG_FILE).write_text(config_json(adapted.model, recipe.adapter, recipe.base.name))
    (folder / "task.json").write_text(recipe.task.model_dump_json())
    (folder / "README.md").write_text(CARD)
    adapted.load(moved)
    with torch.no_grad():
        answers = adapted.logits(synthetic_examples(world.base(), world.task, 4).inputs)
    torch.save(answers, world.directory / "answers")
    return folder


def cases() -> list[Any]:
    names = [method.name for method in methods.all_methods() if not method.texts_only and method.name not in NOT_LINEAR]
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("name", cases())
def test_a_merged_model_answers_as_base_and_adapter_do(name: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, method=name)
    adapter, out = released(world), tmp_path / "merged"
    merge(tmp_path / "base", adapter, out)
    model = AutoModelForImageClassification.from_pretrained(out, attn_implementation="eager").eval()
    with torch.no_grad():
        answers = model(**synthetic_examples(world.base(), world.task, 4).inputs).logits
    expected = torch.load(tmp_path / "answers")
    assert (answers - expected).abs().max() < 1e-4 * expected.abs().max()
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    card = (out / "README.md").read_text()
    assert "the claim" in card
    assert "PeftModel" not in card
    assert "library_name: transformers" in card


def test_a_merged_model_has_the_precision_of_its_base(tmp_path: Path) -> None:
    world = make_world(tmp_path, method="fedit")
    adapter = released(world)
    narrow = AutoModelForImageClassification.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    narrow.save_pretrained(tmp_path / "narrow")
    merge(tmp_path / "narrow", adapter, tmp_path / "merged")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_a_prompt_cannot_be_merged(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", method="prompt")
    with pytest.raises(LocalError, match="PROMPT_TUNING puts learned vectors before the inputs") as info:
        merge(tmp_path / "base", released(world), tmp_path / "merged")
    assert info.value.code == "E-METHOD-REFUSED"
    assert not (tmp_path / "merged").exists()


def test_a_bottleneck_cannot_be_merged(tmp_path: Path, capsys: Any) -> None:
    world = make_world(tmp_path, method="bottleneck")
    base, adapter, out = str(tmp_path / "base"), str(released(world)), str(tmp_path / "merged")
    assert onlysum.run(["adapter", "merge", base, adapter, out]) == REGISTRY["E-METHOD-REFUSED"].fault.value
    said = capsys.readouterr().err
    assert (
        "BOTTLENECK: a bottleneck adapter is a network that is not linear, and no weight of the base can hold" in said
    )
    assert "load it with PEFT, as its card says" in said
    assert not (tmp_path / "merged").exists()


def test_the_command_merges_and_refuses_what_is_no_released_adapter(tmp_path: Path, capsys: Any) -> None:
    world = make_world(tmp_path, method="fedit")
    base, adapter, out = str(tmp_path / "base"), str(released(world)), str(tmp_path / "merged")
    assert onlysum.run(["adapter", "merge", base, base, out]) == REGISTRY["E-NOT-FOUND"].fault.value
    assert "give the folder that a run exported" in capsys.readouterr().err
    assert onlysum.run(["adapter", "merge", base, adapter, out]) == 0
    assert onlysum.run(["adapter", "merge", base, adapter, out]) == REGISTRY["E-EXISTS"].fault.value
    (tmp_path / "released" / ADAPTER_FILE).write_bytes(b"cut")
    assert onlysum.run(["adapter", "merge", base, adapter, out + "2"]) == REGISTRY["E-MODEL-LOAD"].fault.value
