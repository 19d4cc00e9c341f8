"""A released adapter is loaded by the lines of its own card, and answers with the plan's names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from authoring.draft import build_draft
from coordinator.runs.adapter_use import TASK_FILE, task_json
from coordinator.runs.release import model_card
from privacy.errors import LocalError
from tests.worlds.task_world import CASES, draft_of
from tests.worlds.torch_world import IMAGE_SIDE, image_base, plan_of, recipe_text, text_base

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

ROOT = Path(__file__).parents[2]
FIVE = ("none", "mild", "gr\u00f6\u00dfer", "severe", "unknown")  # the tests' bases have three labels


@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_lines_of_a_card_load_the_adapter_and_give_the_plan_s_names(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_base if kind == "image" else text_base)(tmp_path / f"tiny-{kind}")
    text = recipe_text(kind).replace('path = "base"', f'path = "tiny-{kind}"')
    (tmp_path / "recipe.toml").write_text(text.replace('["a", "b", "c"]', json.dumps(FIVE)))
    draft = build_draft(tmp_path / "recipe.toml", tmp_path / "draft")
    folder = tmp_path / "adapter"
    folder.mkdir()
    tensors = load_file(tmp_path / "draft" / "initial_adapter.safetensors")
    bias = "base_model.model.classifier.bias"
    tensors[bias] = np.array([0, 0, 1000, 0, 0], dtype=np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_bytes((tmp_path / "draft" / "adapter_config.json").read_bytes())
    plan = plan_of(draft)
    (folder / TASK_FILE).write_bytes(task_json(plan))
    Image.fromarray(np.zeros((IMAGE_SIDE, 3 * IMAGE_SIDE), dtype=np.uint8)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    lines = model_card(plan, ()).split("```python\n")[1].split("```")[0]
    capsys.readouterr()
    exec(lines, {})
    assert capsys.readouterr().out.splitlines()[-1] == repr([FIVE[2]])
    assert json.loads((folder / TASK_FILE).read_bytes())["labels"] == list(FIVE)


def test_the_lines_of_a_card_bring_the_type_that_peft_lacks_into_a_program_of_its_own(tmp_path: Path) -> None:
    text_base(tmp_path / "tiny-text")
    recipe = recipe_text("text", method="bottleneck").replace('path = "base"', 'path = "tiny-text"')
    (tmp_path / "recipe.toml").write_text(recipe)
    plan = plan_of(build_draft(tmp_path / "recipe.toml", tmp_path / "draft", self_check=False))
    folder = (tmp_path / "draft").rename(tmp_path / "adapter")
    tensors = load_file(folder / "initial_adapter.safetensors")
    for key, value in tensors.items():
        if key.endswith("bottleneck_up.bias"):  # all else that it adds is zero
            value[...] = np.linspace(-9, 9, value.size, dtype=np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / TASK_FILE).write_bytes(task_json(plan))
    card = model_card(plan, ())
    assert "PEFT itself has no type `BOTTLENECK`: reading it takes the package onlysum with its extra" in card
    lines = card.split("```python\n")[1].split("```")[0]
    without = lines.replace("onlysum.register_peft_types()\n", "")
    assert without != lines
    shown = (
        f"{lines}\nprint(logits.tolist())\nwith model.disable_adapter():\n    print(model(**inputs).logits.tolist())"
    )
    done, refused = (
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for program in (shown, without)
    )
    assert done.returncode == 0, done.stderr
    name, adapted, bare = (json.loads(line.replace("'", '"')) for line in done.stdout.splitlines()[-3:])
    assert name[0] in {"a", "b", "c"}
    assert not np.allclose(adapted, bare, atol=1e-3)
    assert "KeyError: 'BOTTLENECK'" in refused.stderr


def test_a_card_of_a_type_that_peft_knows_needs_peft_alone(tmp_path: Path) -> None:
    text_base(tmp_path / "base")
    (tmp_path / "recipe.toml").write_text(recipe_text("text", method="fedit"))
    card = model_card(plan_of(build_draft(tmp_path / "recipe.toml", tmp_path / "draft", self_check=False)), ())
    assert "onlysum" not in card.split("## Use")[1]


def test_the_base_s_own_labels_in_another_order_are_refused_with_its_order(tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    (tmp_path / "recipe.toml").write_text(recipe_text().replace('["a", "b", "c"]', '["c", "a", "b"]'))
    with pytest.raises(LocalError, match=r"task\.labels: the base has them in the order a, b, c"):
        build_draft(tmp_path / "recipe.toml", tmp_path / "draft")


SHOWN = {
    "plain text": r".*",
    "completions": r".*",
    "chats": r".*",
    "masked-lm": r"\['\S+'\]",
    "multi-label": r"\[\[('[abc]'(, )?)*\]\]",
    "regression": r"\[-?\d+\.\d+(e-\d+)?\]",
    "pooled text-classification": r"\['(bad|good)'\]",
    "pooled regression": r"\[-?\d+\.\d+(e-\d+)?\]",
    "token-classification": r"\[\('a', '(bad|good)'\), \('text', '(bad|good)'\)\]",
    "sentence-embedding": r"\[\[(-?\d\.\d+(e-\d+)?(, )?){16}\]\]",
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_lines_of_a_card_use_the_adapter_of_every_kind_of_task(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(draft_of(tmp_path, CASES[name]))
    (tmp_path / "base").rename(tmp_path / plan.recipe.base.name)
    (tmp_path / "draft").rename(tmp_path / "adapter")
    (tmp_path / "adapter" / "initial_adapter.safetensors").rename(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / TASK_FILE).write_bytes(task_json(plan))
    monkeypatch.chdir(tmp_path)
    lines = model_card(plan, ()).split("```python\n")[1].split("```")[0]
    capsys.readouterr()
    exec(lines, {})
    assert re.fullmatch(SHOWN[name], capsys.readouterr().out.splitlines()[-1])
