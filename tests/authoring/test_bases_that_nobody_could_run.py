"""Bases and recipes that would fail at each owner, or train something else: refused where they are built or added."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    MixtralConfig,
    MixtralForSequenceClassification,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from authoring.draft import build_draft
from participant.training.bases.checks import normalises_over_batch
from participant.training.models import hash_model
from participant.training.trial import try_base
from privacy.errors import LocalError
from tests.worlds.torch_world import IMAGE_SIDE, LABELS, image_base, recipe_text, text_base

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

Change = Callable[[Path], object]


def configured(base: Path, **values: object) -> None:
    file = base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def with_a_token_more(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[ONE-MORE]"})
    tokenizer.save_pretrained(base)


def gpt2(base: Path) -> None:
    """Replace a base by a GPT-2 whose tokenizer has a padding token of which the model knows nothing."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"), pad_token="[PAD]")  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=13, n_embd=16, n_layer=1, n_head=2, n_positions=16, id2label=dict(enumerate(LABELS)))
    for file in base.iterdir():
        file.unlink()
    GPT2ForSequenceClassification(config).save_pretrained(base)
    tokenizer.save_pretrained(base)


def whole(base: Path, make: Callable[[Any], torch.nn.Module]) -> None:
    """Replace a base of texts by another model, with a tokenizer of the same words."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(base / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]"
    )
    for file in base.iterdir():
        file.unlink()
    torch.manual_seed(0)
    options = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "hidden_size": 16}
    options |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    make({**options, "max_position_embeddings": 16, "id2label": dict(enumerate(LABELS))}).save_pretrained(base)  # type: ignore[operator]
    tokenizer.save_pretrained(base)


def mixtral(base: Path) -> None:
    """Replace a base by one whose layers send each token to two of four experts."""
    more: dict[str, Any] = {"num_key_value_heads": 2, "num_local_experts": 4}
    whole(base, lambda options: MixtralForSequenceClassification(MixtralConfig(**options, **more)))  # type: ignore[no-untyped-call]


def roberta(base: Path) -> None:
    """Replace a base by one whose positions begin after the padding's."""
    whole(base, lambda options: RobertaForSequenceClassification(RobertaConfig(**options, type_vocab_size=1)))


def batch_norm(base: Path) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(base)
    configured(base, image_size=IMAGE_SIDE)


def without_words(base: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (base / name).unlink()


def half(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def longer(base: Path) -> None:
    with (base / "model.safetensors").open("ab") as file:
        file.write(b"more")


def in_two_parts(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    parts = {"part-1.safetensors": names[:5], "part-2.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, base / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "model.safetensors").unlink()


def without_a_part(base: Path) -> None:
    in_two_parts(base)
    (base / "part-2.safetensors").unlink()


def with_half_an_index(base: Path) -> None:
    in_two_parts(base)
    index = base / "model.safetensors.index.json"
    index.write_text(index.read_text()[:50])


def with_a_mark(base: Path) -> None:
    (base / "config.json").write_bytes(b"\xef\xbb\xbf" + (base / "config.json").read_bytes())


def changed(base: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(base / "model.safetensors")
    changed_ones = {key: change(tensor).contiguous() for key, tensor in tensors.items()}
    save_file(changed_ones, base / "model.safetensors", metadata={"format": "pt"})


def of_eight_bits(base: Path) -> None:
    changed(base, lambda tensor: tensor.to(torch.int8))


def turned(base: Path) -> None:
    changed(base, lambda tensor: tensor.T if tensor.ndim == 2 else tensor)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n"

# What is wrong with a base: its kind, how it comes about, and the words of the refusal.
BASES: dict[str, tuple[str, Change, str]] = {
    "a pointer in place of weights": (
        "text", lambda base: (base / "model.safetensors").write_bytes(POINTER), "model.safetensors: a Git LFS pointer"
    ),
    "a pointer in place of a tokenizer": (
        "text", lambda base: (base / "tokenizer.json").write_bytes(POINTER), "tokenizer.json: a Git LFS pointer"
    ),
    "half a file of weights": ("image", half, "model.safetensors: cut or damaged"),
    "a file of weights with something behind": ("image", longer, "model.safetensors: cut or damaged"),
    "no weights in a file of that name": (
        "image", lambda base: (base / "model.safetensors").write_bytes(b""), "model.safetensors: cut or damaged"
    ),
    "a part of the weights that its index names": ("text", without_a_part, "index.json: it names part-2.safetensors"),
    "an index that is cut": ("text", with_half_an_index, "index.json: not JSON of its kind"),
    "a tokenizer that is cut": (
        "text", lambda base: (base / "tokenizer.json").write_text("{"), "tokenizer.json: not JSON"
    ),
    "a byte-order mark": ("text", with_a_mark, "config.json: not JSON"),
    "weights of eight bits": ("text", of_eight_bits, "model.safetensors: weights of type I8 are quantized"),
    "weights of another shape": ("text", turned, "the checkpoint has no weights for bert"),
    "a file whose name no plan can hold": (
        "text", lambda base: (base / "my notes.txt").write_text("x"), "my notes.txt: it must be the name of a file"
    ),
    "an adapter of its own": (
        "text", lambda base: (base / "adapter_config.json").write_text("{}"), "adapter_config.json: the folder holds an"
    ),
    "weights that bitsandbytes quantized": (
        "text", lambda base: configured(base, quantization_config={"load_in_4bit": True}), "weights are quantized"
    ),
    "weights that GPTQ quantized": (
        "text", lambda base: configured(base, quantization_config={"quant_method": "gptq", "bits": 4}), "quantized"
    ),
    "a configuration that is no JSON": (
        "text", lambda base: (base / "config.json").write_text("{"), "config.json: "
    ),
    "a tokenizer that each machine would build": (
        "text", lambda base: (base / "tokenizer.json").rename(base / "spm.model"),
        "spm.model: no tokenizer.json beside it",
    ),
    "a tokenizer without its vocabulary": ("text", without_words, "knows no words"),
    "a token beyond the embedding": ("text", with_a_token_more, r"\[ONE-MORE\] id 13, the embedding has 13 rows"),
    "another padding token than the model's": (
        "text", lambda base: configured(base, pad_token_id=3), "pads with id 0, pad_token_id in config.json is 3"
    ),
    "a padding token that the model does not know": ("text", gpt2, "set pad_token_id in config.json"),
}  # fmt: skip


def base_of(path: Path, kind: str) -> Path:
    return (image_base if kind == "image" else text_base)(path / "base")


def added(base: Path) -> None:
    """Do what `model add` does before it registers a base."""
    try_base(base, "tiny")
    hash_model(base)


def built(path: Path, text: str) -> None:
    (path / "recipe.toml").write_text(text)
    build_draft(path / "recipe.toml", path / "draft")


@pytest.mark.parametrize("sentence", BASES)
def test_a_base_is_refused_when_it_is_added_and_when_a_plan_is_built_for(sentence: str, tmp_path: Path) -> None:
    kind, change, words = BASES[sentence]
    base = base_of(tmp_path, kind)
    change(base)
    text = recipe_text(kind)
    if change is gpt2:
        text = text.replace('"classifier"', '"score"').replace('"query", "value"', '"c_attn"')
    attempts: list[Callable[[], object]] = [lambda: added(base), lambda: built(tmp_path, text)]
    for attempt in attempts:
        with pytest.raises(LocalError, match=words) as info:
            attempt()
        assert info.value.code == "E-MODEL-LOAD"
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_whole_base_may_be_added(kind: str, tmp_path: Path) -> None:
    try_base(base_of(tmp_path, kind), "tiny")


def test_a_base_in_several_files_may_be_added(tmp_path: Path) -> None:
    base = base_of(tmp_path, "text")
    in_two_parts(base)
    try_base(base, "tiny")


def test_a_gpt_2_that_knows_its_padding_token_can_be_built_and_added(tmp_path: Path) -> None:
    base = base_of(tmp_path, "text")
    gpt2(base)
    configured(base, pad_token_id=0)
    try_base(base, "tiny")
    built(tmp_path, recipe_text("text").replace('"classifier"', '"score"').replace('"query", "value"', '"c_attn"'))


def test_a_base_of_another_number_of_labels_may_be_added(tmp_path: Path) -> None:
    base = base_of(tmp_path, "image")
    tensors = load_file(base / "model.safetensors")
    tensors["classifier.weight"], tensors["classifier.bias"] = torch.zeros(7, 16), torch.zeros(7)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    configured(base, id2label={str(place): str(place) for place in range(7)})
    try_base(base, "tiny")


def test_a_base_with_experts_is_refused_where_a_mode_clips_each_example_and_said_where_it_is_added(
    tmp_path: Path,
) -> None:
    mixtral(base := base_of(tmp_path, "text"))
    (said,) = try_base(base, "tiny")
    assert said.endswith("routes to experts: no plan in mode local or distributed can use it")
    text = recipe_text("text", mode="distributed").replace('"classifier"', '"score"')
    with pytest.raises(LocalError, match=r"E-SELF-CHECK: modules: .*routes to experts"):
        built(tmp_path, text.replace('"query", "value"', '"q_proj"'))
    assert not (tmp_path / "draft").exists()


def test_a_base_that_reserves_positions_is_held_to_those_that_are_left(tmp_path: Path) -> None:
    roberta(base_of(tmp_path, "text"))
    text = recipe_text("text", mode="distributed")
    with pytest.raises(LocalError, match="max_length 16: tiny-text has 15 positions, as 1 are reserved"):
        built(tmp_path, text.replace("max_length = 8", "max_length = 16"))
    built(tmp_path, text.replace("max_length = 8", "max_length = 15"))


def test_a_base_whose_batch_norms_are_frozen_may_be_added_and_built_for(tmp_path: Path) -> None:
    batch_norm(base := base_of(tmp_path, "image"))
    assert try_base(base, "tiny") == ()
    built(tmp_path, recipe_text(method="head", mode="distributed"))
    norm = torch.nn.BatchNorm2d(4)
    assert normalises_over_batch(norm)
    assert not normalises_over_batch(norm.eval())
    assert normalises_over_batch(torch.nn.BatchNorm2d(4, track_running_stats=False).eval())


# A recipe that no owner could run, or that trains nothing: kind, method, a change of it, and the words of the refusal.
RECIPES: dict[str, tuple[str, str, tuple[str, str], str]] = {
    "a length beyond the positions": (
        "text", "ffa-lora", ("max_length = 8", "max_length = 17"), "task.max_length 17: tiny-text has 16 positions"
    ),
    "a length beyond the positions that a prompt leaves": (
        "text", "prompt", ("max_length = 8", "max_length = 14"), "max_length 14 and adapter.tokens 3: tiny-text has"
    ),
    "one target of two that is not there": (
        "text", "ffa-lora", ('"query", "value"', '"query", "values"'),
        "target_modules: the base has no module values; it has dense, key, query, value",
    ),
    "labels that data cannot tell apart": ("text", "ffa-lora", ('"a", "b"', '"1", "1.0"'), "1 and 1.0 are one label"),
    "factors whose product counts for nothing": (
        "text", "ffa-lora", ("alpha = 8", "alpha = 0"), r"alpha: it must be from 0\.000001 to 1,000,000"
    ),
    "factors whose product counts for hardly anything": (
        "text", "ffa-lora", ("alpha = 8", "alpha = 1e-17"), r"alpha: it must be from 0\.000001 to 1,000,000"
    ),
    "a step that rounding loses": (
        "text", "ffa-lora", ("\nlearning_rate = 0.5", "\nlearning_rate = 1e-17"),
        r"learning_rate: it must be from 0\.000000001 to 10,000",
    ),
    "a leap": ("text", "ffa-lora", ("\nlearning_rate = 0.5", "\nlearning_rate = 1e17"), r"learning_rate: it must be"),
    "a micro-batch beyond any memory": (
        "text", "ffa-lora", ("micro_batch = 8", "micro_batch = 10000000"), r"micro_batch: .*less than or equal to 4096"
    ),
    "a deviation of nearly nothing": (
        "image", "ffa-lora", ("image_std = 0.5", "image_std = 1e-17"), r"image_std and image_scale divide"
    ),
    "a clip to nearly nothing": (
        "text", "ffa-lora", ('mode = "none"', 'mode = "local"\nepsilon = 8\ndelta = 1e-5\nclip_norm = 1e-9'),
        "clip_norm must be from",
    ),
    "more rounds than any run takes": (
        "text", "ffa-lora", ("rounds = 3", "rounds = 9007199254740991"), "rounds times local_steps must be at most"
    ),
    "an embedding": (
        "text", "ffa-lora", ('"query", "value"', '"word_embeddings"'), "word_embeddings is an embedding"
    ),
}  # fmt: skip


PREPROCESSING = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_center_crop": True}
SAME, OTHER = [0.5], [0.485, 0.456, 0.406]


def test_a_recipe_that_is_silent_about_values_of_each_channel_is_refused_with_them(tmp_path: Path) -> None:
    base = base_of(tmp_path, "image")
    file = base / "preprocessor_config.json"
    file.write_text(json.dumps({**PREPROCESSING, "image_mean": OTHER, "image_std": SAME * 3}))
    text = recipe_text().replace("image_scale = 255\nimage_mean = 0.5\nimage_std = 0.5\n", "")
    with pytest.raises(LocalError, match=r"says image_scale 255, image_mean 0\.485 / 0\.456 / 0\.406, image_std 0\.5"):
        built(tmp_path, text)


@pytest.mark.parametrize(
    ("mean", "size", "warnings"),
    [
        (SAME, IMAGE_SIDE, ["preprocessor_config.json crops to the centre; here a whole image is resized"]),
        (OTHER, 224, [
            "task.image_mean is 0.5 for all channels, preprocessor_config.json says 0.485 / 0.456 / 0.406",
            "preprocessor_config.json crops to the centre; here a whole image is resized",
            "preprocessor_config.json resizes to 224; images get the 8 pixels of config.json",
        ]),
    ],
)  # fmt: skip
def test_what_a_recipe_does_not_follow_of_a_base_s_preprocessing_is_a_warning(
    mean: list[float], size: int, warnings: list[str], tmp_path: Path
) -> None:
    base = base_of(tmp_path, "image")
    values = {**PREPROCESSING, "image_mean": mean, "image_std": SAME, "crop_size": {"height": size, "width": size}}
    (base / "preprocessor_config.json").write_text(json.dumps(values))
    (tmp_path / "recipe.toml").write_text(recipe_text())
    heard: list[str] = []
    build_draft(tmp_path / "recipe.toml", tmp_path / "draft", warn=heard.append)
    assert heard == warnings


def test_channels_turned_around_crops_by_a_share_padding_and_other_resampling_are_warnings_too(tmp_path: Path) -> None:
    base = base_of(tmp_path, "image")
    values = {"do_rescale": False, "do_flip_channel_order": True, "crop_pct": 0.875, "do_pad": True, "resample": 3}
    (base / "preprocessor_config.json").write_text(json.dumps(values))
    (tmp_path / "recipe.toml").write_text(recipe_text())
    heard: list[str] = []
    build_draft(tmp_path / "recipe.toml", tmp_path / "draft", warn=heard.append)
    said = " ".join(heard)
    for words in ("crops to the centre", "order of channels around (BGR)", "pads images", "Pillow's method 3"):
        assert words in said


@pytest.mark.parametrize("sentence", RECIPES)
def test_a_recipe_is_refused_for(sentence: str, tmp_path: Path) -> None:
    kind, method, (old, new), words = RECIPES[sentence]
    base_of(tmp_path, kind)
    text = recipe_text(kind, method=method)
    assert old in text
    with pytest.raises(LocalError, match=words) as info:
        built(tmp_path, text.replace(old, new))
    assert info.value.code == "E-CONFIG-INVALID"
