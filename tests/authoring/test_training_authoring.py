"""From recipe to draft to an exported adapter that PEFT loads, and its measurement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file

import methods
from authoring.draft import CONFIG_FILE, DRAFT_FILE, build_draft
from participant.training.adapters.adapted import ADAPTER_FILE, read_initial
from participant.training.evaluation import AdapterEvaluator
from participant.training.models import load_base
from privacy.dp.bands import chosen
from privacy.dp.calibration import best_bands
from privacy.draft import Draft
from privacy.errors import LocalError
from privacy.evaluation import Metric
from privacy.plan_parts import Mode
from tests.worlds.torch_world import LABELS, ROWS, image_base, make_world, recipe_text, text_base

# PEFT asks transformers for a name that it deprecates.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]


def draft_of(path: Path, text: str, kind: str = "image") -> Draft:
    path.mkdir(exist_ok=True)
    if not (path / "base").exists():
        (image_base if kind == "image" else text_base)(path / "base")
    (path / "recipe.toml").write_text(text)
    return build_draft(path / "recipe.toml", path / "draft", self_check=False)


def test_a_draft_directory_holds_draft_adapter_and_configuration(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, recipe_text(mode="local"))
    assert Draft.model_validate_json((tmp_path / "draft" / DRAFT_FILE).read_bytes()) == draft
    initial = read_initial(tmp_path / "draft" / "initial_adapter.safetensors", draft.recipe.adapter)
    assert {key: value.shape for key, value in initial.items()} == {
        tensor.key: tensor.shape for tensor in draft.recipe.adapter.tensors
    }
    assert [file.name for file in draft.recipe.base.files] == ["config.json", "model.safetensors"]
    assert [stream.name for stream in draft.recipe.state] == ["adapter", "head"]


def test_bands_become_integers_by_number_or_by_expected_error_and_one_where_a_method_cannot_have_more(
    tmp_path: Path,
) -> None:
    three = draft_of(tmp_path / "three", recipe_text(mode="distributed", bands=3, sampling_rate=0.1))
    assert three.privacy.bands == chosen(3, 3)
    best = draft_of(tmp_path / "auto", recipe_text(mode="distributed", bands="auto", sampling_rate=0.1)).privacy
    assert best.bands == best_bands(best.model_copy(update={"bands": (1,)}), rounds=3)
    assert best.banded
    turns = recipe_text(mode="distributed", method="rolora", bands="auto", sampling_rate=0.1)
    assert draft_of(tmp_path / "turns", turns).privacy.bands == (1,)
    with pytest.raises(LocalError, match="with bands: its rounds") as caught:
        draft_of(tmp_path / "refused", turns.replace('"auto"', "2"))
    assert caught.value.code == "E-METHOD-REFUSED"
    assert not (tmp_path / "refused" / "draft").exists()


def test_b_is_zero_at_first_and_the_head_is_the_base_s(tmp_path: Path) -> None:
    draft_of(tmp_path, recipe_text())
    initial = load_file(tmp_path / "draft" / "initial_adapter.safetensors")
    assert not any(value.any() for key, value in initial.items() if "lora_B" in key)
    assert all(value.any() for key, value in initial.items() if "lora_A" in key)
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert np.array_equal(initial["base_model.model.classifier.weight"], base["classifier.weight"])


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    text = recipe_text()
    first = draft_of(tmp_path / "one", text)
    torch.rand(5)  # the global generator's state must not matter
    second = draft_of(tmp_path / "two", text)
    other = draft_of(tmp_path / "three", text.replace("seed = 7", "seed = 8"))
    assert first.to_bytes() == second.to_bytes()
    assert first.recipe.adapter.initial_hash != other.recipe.adapter.initial_hash


def test_peft_s_configuration_names_no_path_of_this_machine(tmp_path: Path) -> None:
    draft_of(tmp_path, recipe_text())
    text = (tmp_path / "draft" / CONFIG_FILE).read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["base_model_name_or_path"] == "tiny-image"


def test_a_subset_of_layers_is_adapted(tmp_path: Path) -> None:
    draft = draft_of(tmp_path, recipe_text(layers=(1,)))
    keys = [tensor.key for tensor in draft.recipe.adapter.tensors if "lora" in tensor.key]
    assert keys
    assert all(".layers.1." in key for key in keys)


def test_a_base_without_a_head_gets_one_from_the_seed(tmp_path: Path) -> None:
    text = recipe_text().replace(json.dumps(LABELS), '["a", "b", "c", "d"]')
    draft = draft_of(tmp_path, text)
    recipe = draft.recipe
    initial = load_file(tmp_path / "draft" / "initial_adapter.safetensors")
    assert initial["base_model.model.classifier.weight"].shape == (4, 16)
    again = load_base(tmp_path / "base", recipe.base, recipe.task, head_modules=["classifier"], seed=7)
    weight = again.model.get_parameter("classifier.weight").detach().numpy()
    assert np.array_equal(weight, initial["base_model.model.classifier.weight"])


def test_a_base_that_lacks_other_weights_than_the_head_s_is_refused(tmp_path: Path) -> None:
    base = image_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["vit.layernorm.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LocalError, match=r"no weights for vit\.layernorm\.weight") as info:
        draft_of(tmp_path, recipe_text())
    assert info.value.code == "E-MODEL-LOAD"


REFUSED: dict[str, tuple[tuple[str, str], str]] = {
    "a module that the base lacks": (('"q_proj", "v_proj"', '"nothing"'), "E-CONFIG-INVALID"),
    "a head that the base lacks": (('["classifier"]', '["nothing"]'), "E-CONFIG-INVALID"),
    "an unknown method": (("ffa-lora", "ffa-laro"), "E-METHOD-UNKNOWN"),
    "a method that cannot be summed": (("ffa-lora", "krum"), "E-METHOD-REFUSED"),
    "a base that is not there": (('path = "base"', 'path = "nowhere"'), "E-MODEL-LOAD"),
    "a name that plans cannot have": (('name = "tiny-image"', 'name = "Tiny Image"'), "E-CONFIG-INVALID"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_recipe_is_refused_and_nothing_is_written_for(sentence: str, tmp_path: Path) -> None:
    (old, new), code = REFUSED[sentence]
    text = recipe_text()
    assert old in text
    with pytest.raises(LocalError) as info:
        draft_of(tmp_path, text.replace(old, new))
    assert info.value.code == code
    assert not (tmp_path / "draft").exists()


UNFIT: dict[str, tuple[str, str, str, str]] = {
    "a linear layer where norms are wanted": ("ln-tuning", '["layernorm_before"]', '["q_proj"]', "is no normalisation"),
    "blocks that do not divide the inputs": (
        "oft",
        "block_size = 4",
        "block_size = 5",
        "does not divide the 16 inputs",
    ),
    "a rank above the singular vectors": ("federa", "rank = 2", "rank = 17", "has 16 singular vectors"),
    "a rank above the rows that can be orthonormal": ("fedsvd", "rank = 2", "rank = 17", "has 16 singular vectors"),
    "a budget that grows": ("adalora", "target_rank = 2", "target_rank = 4", "target_rank must be at most rank"),
    "a method with nothing to train": ("head", '["classifier"]', "[]", "name head_modules"),
    "no mask for a method that needs one": ("random-mask", "mask = 0.5", "", "training.mask: .* needs it"),
    "a mask of everything": ("random-mask", "mask = 0.5", "mask = 1", "needs a share above 0 and below 1"),
    "no sketch for a method that needs one": ("fedask", "sketch = 8", "", "training.sketch: FedASK needs it"),
    "a sketch longer than the adapter": ("count-sketch", "sketch = 40", "sketch = 64", "no fewer than 256 entries"),
    "no opening for SLoRA": ("slora", "opening_rounds = 1", "", "training.opening_rounds: SLoRA needs it"),
    "an opening without an end": ("slora", "opening_rounds = 1", "opening_rounds = 3", "fewer than the 3 rounds"),
    "an opening of another method": ("fedit", "micro_batch", "opening_rounds = 1\nmicro_batch", "FedIT has none"),
    "layers of several sizes": ("droppeft", '["q_proj", "v_proj"]', '["layers.0.mlp.fc1"]', "at least two layers"),
    "heads wider than the module": ("ravan", "heads = 3", "heads = 9", "has 16 singular vectors"),
    "no directions for FedKSeed": ("fedkseed", "directions = 4", "", "SEEDS needs it"),
    "an optimizer beside a plain mean": ("fedask", "[evaluation]", '[optimizer]\nname = "adam"\n[evaluation]', "mean"),
    "an average beside a plain mean": (
        "fedalt",
        "[evaluation]",
        "[optimizer]\naverage = 0.9\n[evaluation]",
        "optimizer mean without an average",
    ),
    "an average of what is found again in a sketch": (
        "count-sketch",
        "[evaluation]",
        "[optimizer]\naverage = 0.9\n[evaluation]",
        "optimizer mean without an average",
    ),
    "a mask beside another method": ("fedit", "micro_batch", "mask = 0.5\nmicro_batch", "FedIT has none"),
    "no pull for FedProx": ("fedprox", "proximal = 0.5", "", "needs training.proximal"),
    "a pull that leaps over the start": ("fedprox", "proximal = 0.5", "proximal = 3", "must be at most 1"),
    "an average where the basis moves": (
        "fedsvd",
        "[evaluation]",
        "[optimizer]\naverage = 0.5\n[evaluation]",
        "mixes two",
    ),
    "an option of another type": ("bitfit", "seed = 7", "seed = 7\nrank = 2", "BIAS has no such option"),
}


REFUSED_MODES = {method.name: dict(method.refused) for method in methods.all_methods() if method.refused}


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in REFUSED_MODES.items() for mode in modes])
def test_a_mode_that_a_method_refuses_is_refused_with_the_reason_and_the_modes_that_are_left(
    name: str, mode: Mode, tmp_path: Path
) -> None:
    with pytest.raises(LocalError) as info:
        draft_of(tmp_path, recipe_text(method=name, mode=mode))
    assert info.value.code == "E-METHOD-REFUSED"
    assert REFUSED_MODES[name][mode] in info.value.detail
    assert ", ".join(methods.get(name).modes) in info.value.detail
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize("name", sorted(methods.REFUSED))
def test_a_method_that_no_sum_can_serve_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(LocalError) as info:
        draft_of(tmp_path, recipe_text().replace("ffa-lora", name))
    assert info.value.code == "E-METHOD-REFUSED"
    assert methods.REFUSED[name].reason in info.value.detail


@pytest.mark.parametrize("sentence", UNFIT)
def test_a_method_refuses_with_what_to_change(sentence: str, tmp_path: Path) -> None:
    method, old, new, words = UNFIT[sentence]
    text = recipe_text(method=method)
    assert old in text
    with pytest.raises(LocalError, match=words) as info:
        draft_of(tmp_path, text.replace(old, new))
    assert info.value.code in {"E-CONFIG-INVALID", "E-METHOD-REFUSED"}
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize("method", ["federa", "fed-sb", "fedsvd"])
def test_factors_start_where_the_method_says_and_the_same_every_time(method: str, tmp_path: Path) -> None:
    drafts = [draft_of(tmp_path / name, recipe_text(method=method)) for name in ("one", "two")]
    assert drafts[0].recipe.adapter.initial_hash == drafts[1].recipe.adapter.initial_hash
    initial = load_file(tmp_path / "one" / "draft" / "initial_adapter.safetensors")
    weights = load_file(tmp_path / "one" / "base" / "model.safetensors")
    for key in (key for key in initial if key.endswith(".lora_A.weight")):
        reads = initial[key].astype(np.float64)
        if method != "federa":
            assert np.allclose(reads @ reads.T, np.eye(2), atol=1e-6)
            continue
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        (weight,) = (value for stored, value in weights.items() if same_module(stored, name))
        left, values, right = np.linalg.svd(weight.astype(np.float64))
        product = 4 * initial[key.replace("lora_A", "lora_B")].astype(np.float64) @ reads  # alpha over the rank
        assert np.allclose(product, left[:, :2] * values[:2] @ right[:2], atol=1e-4)


def same_module(stored: str, name: str) -> bool:
    """Whether a checkpoint's key names the weight of a module; older names of ViT's are other ones."""
    layer, kind = name.split(".")[2], {"q_proj": "query", "v_proj": "value"}[name.rpartition(".")[2]]
    return stored.endswith(".weight") and f".{layer}." in stored and (kind in stored or stored == f"{name}.weight")


def test_federa_starts_from_the_base_s_own_answers(tmp_path: Path) -> None:
    world = make_world(tmp_path, method="federa")
    pixels = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        adapted, bare = world.adapted().logits({"pixel_values": pixels}), world.base().model(pixel_values=pixels).logits
    assert torch.allclose(adapted, bare, atol=1e-5)


def test_a_draft_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    with pytest.raises(LocalError) as info:
        draft_of(tmp_path, recipe_text())
    assert info.value.code == "E-EXISTS"


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("method", ["ffa-lora", "fedit", "federa", "bitfit", "fed-sb", "bottleneck"])
def test_peft_loads_an_exported_adapter_and_gives_the_same_answers(kind: str, method: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, kind, method=method)
    adapted, recipe = world.adapted(), world.plan.recipe
    vector = np.random.default_rng(3).normal(scale=0.3, size=recipe.state_entries).astype(np.float32)
    adapted.load(vector)
    tensors = methods.get(method).export(recipe, vector, read_initial(world.initial, recipe.adapter))
    (tmp_path / "adapter").mkdir()
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / "adapter" / ADAPTER_FILE)
    (tmp_path / "adapter" / CONFIG_FILE).write_bytes((tmp_path / "draft" / CONFIG_FILE).read_bytes())
    loaded = PeftModel.from_pretrained(world.base().model, tmp_path / "adapter").eval()
    evaluator = AdapterEvaluator.load(
        recipe, model=tmp_path / "base", dataset=world.dataset, columns=world.columns, initial_adapter=world.initial
    )
    with torch.no_grad():
        here = adapted.logits(evaluator.examples.inputs)
        there = loaded(**evaluator.examples.inputs).logits
    assert torch.allclose(here, there, atol=1e-5)
    correct = int((there.argmax(dim=1) == evaluator.examples.labels).sum())
    measured = evaluator.measure(vector)
    assert (measured.examples, measured.metrics[0]) == (ROWS, Metric.of("accuracy", correct / ROWS))
    assert [metric.name for metric in measured.metrics] == ["accuracy", "f1", "loss"]
    assert evaluator.measure(vector) == measured
