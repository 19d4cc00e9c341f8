"""A recipe of base, data, labels and epsilon becomes a draft, and every value that was chosen has its reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import methods
from authoring.defaults import Choice
from authoring.draft import build_draft
from authoring.filling import with_base
from authoring.recipe import NO_PURPOSE, read_recipe
from onlysum import app
from privacy.draft import Draft
from privacy.errors import LocalError
from tests.worlds.families import FAMILIES
from tests.worlds.task_world import llama
from tests.worlds.torch_world import LABELS, image_base, recipe_text, text_base

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

LEAST = """\
[base]
path = "base"

[task]
data = "rows"
labels = ["low", "middle", "high"]

[privacy]
epsilon = 8
"""


def built(directory: Path, text: str) -> tuple[Draft, dict[str, Choice], list[str]]:
    (directory / "recipe.toml").write_text(text)
    chosen: list[Choice] = []
    warnings: list[str] = []
    draft = build_draft(
        directory / "recipe.toml", directory / "draft", self_check=False, chose=chosen.append, warn=warnings.append
    )
    return draft, {choice.key: choice for choice in chosen}, warnings


EMBEDDED = """\
method = "ffa-lora"

[base]
path = "base"

[task]
kind = "sentence-embedding"
data = "pairs"
input_column = "first"
pair_column = "second"
label_column = "similarity"
max_length = 8

[privacy]
epsilon = 8
"""


@pytest.mark.parametrize("name", FAMILIES)
def test_modules_and_layers_that_are_chosen_are_those_of_the_family(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    family.write(tmp_path / "base")
    labels = "[" + ", ".join(json.dumps(label) for label in LABELS) + "]"
    texts = [LEAST.replace('["low", "middle", "high"]', labels)]
    if family.kind == "text":
        texts = [texts[0].replace("data = ", "max_length = 8\ndata = ")]
    if family.kind == "text" and name != "t5":  # an encoder with a decoder has no sentence embedding
        texts.append(EMBEDDED)
    for text in texts:
        draft, _, _ = built(tmp_path, text)
        shutil.rmtree(tmp_path / "draft")
        assert set(draft.recipe.adapter.head_modules) == (set(family.head) if text.startswith("[base]") else set())


def test_base_data_labels_and_epsilon_are_enough_for_pictures(tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    draft, chosen, warnings = built(tmp_path, LEAST)
    recipe = draft.recipe
    assert (recipe.title, recipe.purpose, recipe.base.name) == ("rows on base", NO_PURPOSE, "base")
    assert (recipe.task.kind, recipe.adapter.method) == ("image-classification", "ffa-lora")
    assert recipe.adapter.head_modules == ("classifier",)
    options = recipe.adapter.options.model_dump()
    assert (options["rank"], options["target_modules"], options["layers"]) == (4, ("q_proj", "v_proj"), (1,))
    assert (draft.privacy.mode, draft.privacy.delta, draft.evaluation_data) == ("distributed", "0.00001", "held-out")
    assert (recipe.rounds, draft.privacy.local_steps, recipe.optimizer.name) == (100, 1, "sgd")
    assert warnings == []
    for key, choice in chosen.items():
        assert choice.reason
        assert str(choice.value)
        assert key not in {"task.data", "task.labels", "privacy.epsilon", "base.path"}
    assert str(chosen["rounds"].value) == str(recipe.rounds)
    assert chosen["privacy.sampling_rate"].value == draft.privacy.sampling_rate
    assert chosen["optimizer.head_learning_rate"].value == recipe.optimizer.head_learning_rate
    assert "assumed" in chosen["expected.units"].reason


def test_and_for_texts_of_which_the_length_is_what_the_base_can_read(tmp_path: Path) -> None:
    text_base(tmp_path / "base")
    draft, chosen, _ = built(tmp_path, LEAST)
    assert draft.recipe.task.kind == "text-classification"
    assert chosen["task.max_length"].value == 14  # of 16 positions
    assert draft.recipe.adapter.options.model_dump()["target_modules"] == ("query", "value")


def test_without_labels_a_causal_base_goes_on_writing(tmp_path: Path) -> None:
    llama(tmp_path / "base")
    draft, chosen, _ = built(tmp_path, LEAST.replace('labels = ["low", "middle", "high"]\n', ""))
    assert draft.recipe.task.model_dump()["form"] == "text"
    assert draft.recipe.adapter.head_modules == ()
    assert "optimizer.head_learning_rate" not in chosen


def test_a_folder_of_sentence_transformers_is_pooled_as_it_says(tmp_path: Path) -> None:
    folder = text_base(tmp_path / "base")
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    draft, _, warnings = built(tmp_path, LEAST)
    assert draft.recipe.task.model_dump()["pooling"] == "mean"
    assert warnings == []
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "base").symlink_to(folder)
    own, _, warnings = built(tmp_path / "said", LEAST.replace("[task]\n", '[task]\npooling = "model"\n'))
    assert own.recipe.task.model_dump()["pooling"] == "model"
    assert "modules.json pools texts by mean" in warnings[0]


def test_pictures_are_normalised_as_the_base_s_own_file_says(tmp_path: Path) -> None:
    folder = image_base(tmp_path / "base")
    file = {"do_normalize": True, "image_mean": [0.5], "image_std": [0.25], "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(file))
    draft, chosen, _ = built(tmp_path, LEAST)
    task = draft.recipe.task.model_dump()
    assert (task["image_scale"], task["image_mean"], task["image_std"]) == ("255", "0.5", "0.25")
    assert chosen["task.image_scale"].reason == "the base's own"


@pytest.mark.parametrize("mode", ["local", "none", "distributed-participant"])
def test_every_mode_is_filled_in(mode: str, tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    text = LEAST.replace("epsilon = 8", f'mode = "{mode}"' + ("\nepsilon = 8" if mode != "none" else ""))
    draft, _, _ = built(tmp_path, text)
    assert (draft.privacy.mode, draft.privacy.local_steps) == (mode, 5)
    assert draft.privacy.delta == ("0" if mode == "none" else "0.00001")


def test_without_noise_a_head_alone_has_longer_steps_than_one_beside_an_adapter(tmp_path: Path) -> None:
    rates = {}
    for method in ("head", "fedit", "fedsa-lora"):
        (tmp_path / method).mkdir()
        image_base(tmp_path / method / "base")
        text = LEAST.replace("[base]", f'method = "{method}"\n[base]').replace("epsilon = 8", 'mode = "none"')
        draft, chosen, _ = built(tmp_path / method, text)
        rates[method] = float(chosen["training.head_learning_rate"].value)
        assert float(chosen["training.learning_rate"].value) == pytest.approx(rates[method] / 10, rel=0.05), draft
    assert rates["fedit"] == rates["fedsa-lora"]
    assert rates["head"] == pytest.approx(rates["fedit"] * 250 / 60, rel=0.05)


NEED_MORE = frozenset({"count-sketch", "fedask", "slora"})  # than the rule chooses
PARTICULAR = [
    (method.name, mode)
    for method in methods.all_methods()
    for mode in method.modes
    if (method.plain_mean or method.moves_basis) and method.name not in NEED_MORE
]


@pytest.mark.parametrize(("method", "mode"), PARTICULAR)
def test_no_method_is_given_an_optimizer_that_it_refuses(method: str, mode: str, tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    text = LEAST.replace("epsilon = 8", f'mode = "{mode}"' + ("\nepsilon = 8" if mode != "none" else ""))
    draft, _, _ = built(tmp_path, text.replace("[base]", f'method = "{method}"\n[base]'))
    kind = methods.get(method)
    optimizer = draft.recipe.optimizer
    assert float(optimizer.average) == 0, "the step would not take one"
    assert optimizer.name == ("mean" if kind.plain_mean or mode in ("local", "none") else "sgd")


def test_a_recipe_that_says_all_is_left_as_it_is(tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    _, chosen, _ = built(tmp_path, recipe_text(mode="local"))
    assert set(chosen) <= {"expected.participants", "expected.units"}


def test_expected_sizes_reach_the_rule(tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    small, _, _ = built(tmp_path, LEAST + "\n[expected]\nparticipants = 5\nunits = 300\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base").symlink_to(tmp_path / "base")
    large, chosen, _ = built(tmp_path / "more", LEAST + "\n[expected]\nparticipants = 50\nunits = 200000\n")
    assert not any(key.startswith("expected") for key in chosen)
    assert large.privacy.delta == "0.0000001"
    assert float(large.recipe.optimizer.head_learning_rate) > float(small.recipe.optimizer.head_learning_rate)


def test_a_base_whose_attention_has_other_names_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    recipe = LEAST.replace("[base]", 'method = "bitfit"\n[base]')
    draft, _, _ = built(tmp_path, recipe)  # needs no place
    assert draft.recipe.adapter.head_modules == ("classifier",)
    (tmp_path / "recipe.toml").write_text(LEAST.replace('labels = ["low", "middle", "high"]\n', ""))
    with pytest.raises(LocalError, match=r"task\.kind: neither labels nor the base say"):
        with_base(read_recipe(tmp_path / "recipe.toml"), tmp_path / "base")


def test_plan_build_prints_what_it_chose_and_why_and_warns_of_noise(tmp_path: Path) -> None:
    image_base(tmp_path / "base")
    weak = LEAST.replace("epsilon = 8", "epsilon = 0.1") + "\n[expected]\nparticipants = 3\nunits = 300\n"
    (tmp_path / "recipe.toml").write_text(weak)
    result = CliRunner().invoke(app, ["plan", "build", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "draft")])
    assert result.exit_code == 0, result.output
    assert "Chosen, because the recipe leaves it out:" in result.output
    assert "  rounds = 100: 100 steps; more take longer and gain nothing" in result.output
    assert "warning: noise is" in result.output
    as_json = CliRunner().invoke(
        app, ["plan", "build", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "again"), "--json"]
    )
    found = json.loads(as_json.stdout)
    assert found["chosen"]["rounds"] == {"value": 100, "reason": "100 steps; more take longer and gain nothing"}
    assert any("noise is" in warning for warning in found["warnings"])
