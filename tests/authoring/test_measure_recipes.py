"""Recipes that measure: what they build, what has no place in them, and whose adapter they are about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForImageClassification

import methods
import onlysum
from authoring.draft import INITIAL_FILE, build_draft
from authoring.measure import MeasureFile, read_any
from authoring.recipe import RecipeFile
from examples.prepare import HERE
from privacy.draft import Draft
from privacy.errors import LocalError
from tests.worlds.measuring import measure_text
from tests.worlds.torch_world import image_base, recipe_text, text_base

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]


def build(path: Path, text: str, kind: str = "image", *, name: str = "draft", self_check: bool = False) -> Draft:
    path.mkdir(exist_ok=True)
    if not (path / "base").exists():
        (image_base if kind == "image" else text_base)(path / "base")
    (path / "recipe.toml").write_text(text)
    return build_draft(path / "recipe.toml", path / name, self_check=self_check)


def test_a_recipe_that_measures_builds_a_draft_that_passes_its_checks(tmp_path: Path) -> None:
    draft = build(tmp_path, measure_text(), self_check=True)
    assert draft.recipe.measured is not None
    assert draft.recipe.rounds == 1
    methods.require_sound(draft.recipe, draft.privacy.mode)
    assert onlysum.run(["plan", "check", str(tmp_path / "draft")]) == 0


def test_a_draft_that_measures_is_shown_in_plain_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, measure_text(metrics=("accuracy", "histogram")))
    assert onlysum.run(["plan", "show", str(tmp_path / "draft")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "This plan measures and trains nothing" in shown
    assert "how often the model's answer is right; how many rows have each of 3 labels" in shown


def test_a_recipe_without_measure_trains_as_before(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text())
    assert isinstance(read_any(path), RecipeFile)
    path.write_text(measure_text())
    assert isinstance(read_any(path), MeasureFile)


BAD = {
    "an optimizer": ("optimizer: a recipe with .measure. trains nothing", lambda text: text + "[optimizer]\n"),
    "training": ("training: a recipe with", lambda text: text + "[training]\nlearning_rate = 1\n"),
    "rounds": ("rounds: a measurement has one round", lambda text: "rounds = 2\n" + text),
    "public data": ("evaluation: a measurement is of", lambda text: text + '[evaluation]\ndata = "public"\n'),
    "a clip norm": ("privacy.clip_norm: it follows", lambda text: text + "clip_norm = 2\n"),
    "local steps": ("privacy.local_steps: it follows", lambda text: text + "local_steps = 2\n"),
    "whole participants": (
        "privacy.mode: a measurement is in", lambda text: text.replace('"distributed"', '"distributed-participant"')
    ),
    "a clip of 0": ("loss_clip above 0", lambda text: text.replace("loss_clip = 4", "loss_clip = 0")),
    "an unknown metric": ("line 2[0-9]: measure.metrics", lambda text: text.replace('"loss"', '"f1"')),
    "an unknown key": ("measure.metric; did you mean metrics", lambda text: text.replace("metrics =", "metric =")),
    "bins of labels": ("labels are counted one by one", lambda text: text.replace("micro", "bins = [0]\nmicro")),
    "no epsilon": ("privacy.epsilon: a noised mode needs", lambda text: text.replace("epsilon = 8", "epsilon = 0")),
    "no length": ("task.max_length: text needs", lambda text: text.replace("image-class", "text-class")),
    "no TOML": ("recipe.toml", lambda text: text + "[["),
}  # fmt: skip


@pytest.mark.parametrize(("words", "change"), BAD.values(), ids=BAD.keys())
def test_a_recipe_is_refused_with(words: str, change: object, tmp_path: Path) -> None:
    assert callable(change)
    with pytest.raises(LocalError, match=words):
        build(tmp_path, change(measure_text()))
    assert not (tmp_path / "draft").exists()


def test_bins_that_are_not_ordered_are_refused_by_name(tmp_path: Path) -> None:
    text = measure_text("text", ("histogram",), measure="bins = [1, 0.5]\n").replace(
        "text-classification", "regression"
    )
    with pytest.raises(LocalError, match="bins must be ascending"):
        build(tmp_path, "".join(line for line in text.splitlines(keepends=True) if "labels" not in line), "text")


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="there is no recipe"):
        read_any(tmp_path / "recipe.toml")


def test_the_recipe_of_the_researchers_page_is_one_and_the_example_too(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "researcher.md").read_text()
    block = next(text for text in page.split("```toml\n")[1:] if text.startswith("# a recipe that measures"))
    (tmp_path / "page.toml").write_text(block.partition("```")[0])
    shown, example = read_any(tmp_path / "page.toml"), read_any(HERE / "measure" / "recipe.toml")
    assert isinstance(shown, MeasureFile)
    assert isinstance(example, MeasureFile)
    assert shown.measure.metrics == example.measure.metrics
    assert shown.task == example.task
    assert shown.adapter == example.adapter


# --- whose adapter ---


def released(path: Path, **changes: object) -> Path:
    """Write an adapter as PEFT does, of the tiny recipe's shape but for some changes, with values of its own."""
    base = AutoModelForImageClassification.from_pretrained(path / "base")
    given = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}
    model = get_peft_model(base, LoraConfig(**{**given, **changes}))  # type: ignore[arg-type]  # by name
    random = np.random.default_rng(5)
    model.save_pretrained(str(path / "released"))
    file = path / "released" / "adapter_model.safetensors"
    values = {
        key: random.normal(size=value.shape).astype(np.float32) / 4 if "lora_B" in key else value
        for key, value in load_file(file).items()
    }
    save_file(values, file)
    return path / "released"


LINE = 'adapter = "released"\n'


def test_the_values_of_a_folder_are_measured_as_peft_loads_them(tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    folder = released(tmp_path)
    draft = build(tmp_path, measure_text(measure=LINE))
    initial = load_file(tmp_path / "draft" / INITIAL_FILE)
    expected = load_file(folder / "adapter_model.safetensors")
    assert initial.keys() == expected.keys()
    assert all(np.array_equal(initial[key], value) for key, value in expected.items())
    assert draft.recipe.adapter.tensors
    plain = build(tmp_path, measure_text(), name="plain")
    assert plain.recipe.adapter.initial_hash != draft.recipe.adapter.initial_hash


WRONG_FOLDERS = {
    "another rank": ("by the recipe; compare method", {"r": 4}),
    "another alpha": ("answers otherwise than the folder's", {"lora_alpha": 32}),
    "other modules": ("by the recipe; compare method", {"target_modules": ["q_proj"]}),
}


@pytest.mark.parametrize(("words", "changes"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS.keys())
def test_another_adapter_than_the_recipe_describes_is_refused(
    words: str, changes: dict[str, object], tmp_path: Path
) -> None:
    image_base(tmp_path / "base")
    released(tmp_path, **changes)
    with pytest.raises(LocalError, match=words):
        build(tmp_path, measure_text(measure=LINE))
    assert not (tmp_path / "draft").exists()


def test_a_folder_without_an_adapter_or_with_a_broken_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="has no adapter_model"):
        build(tmp_path, measure_text(measure=LINE))
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(LocalError, match="is no safetensors file"):
        build(tmp_path, measure_text(measure=LINE))
