"""Bases of 16, 8 and 4 bits an entry are trained on as they are; 16 bits give the very bits of a float32 copy."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from authoring.draft import build_draft
from methods.vectors import joined
from participant.training.adapters.adapted import read_initial
from participant.training.bases.files import own_type
from participant.training.bases.memory import Memory
from participant.training.bases.narrow import NarrowEmbedding, NarrowLinear, keep_narrow
from participant.training.models import load_base
from participant.training.torch_trainer import TorchTrainer
from participant.training.trainer import Weights
from privacy.errors import LocalError
from tests.worlds.families import FAMILIES
from tests.worlds.model_table import cell, recipe_text
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import World, make_world

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

packs = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def narrowed(world: World, dtype: torch.dtype) -> World:
    """Store a world's base in another type, and make its draft and plan anew."""
    file = world.directory / "base" / "model.safetensors"
    save_file({key: value.to(dtype) for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    return world


def make_narrow(tmp_path: Path, kind: str, dtype: torch.dtype, **recipe: Any) -> World:
    """Make a world whose base has a type of 16 bits."""
    first = narrowed(make_world(tmp_path / "first", kind, **recipe), dtype)
    again = tmp_path / "again"
    again.mkdir()
    (again / "base").symlink_to(first.directory / "base")
    (again / "recipe.toml").write_text((first.directory / "recipe.toml").read_text())
    draft = build_draft(again / "recipe.toml", again / "draft")
    plan = first.plan.model_copy(update={"recipe": draft.recipe})
    return World(again, plan, first.dataset, first.columns)


def update(world: World, **memory: Any) -> tuple[np.ndarray, TorchTrainer]:
    trainer = world.trainer(SeededRandom("secret"), memory=Memory(**memory))
    start = joined(world.plan.recipe, read_initial(world.initial, world.plan.recipe.adapter))
    return trainer.train(1, start, lambda _done, _of: None), trainer


@pytest.mark.parametrize(
    ("kind", "method", "dtype"),
    [
        ("text", "fedit", "bfloat16"),
        ("text", "layers", "float16"),
        ("text", "bottleneck", "bfloat16"),
        ("text", "fedkseed", "bfloat16"),
        pytest.param("text", "droppeft", "bfloat16", marks=pytest.mark.slow),
        pytest.param("text", "fedalt", "bfloat16", marks=pytest.mark.slow),
        pytest.param("image", "dora", "bfloat16", marks=pytest.mark.slow),
        pytest.param("image", "fedit", "float16", marks=pytest.mark.slow),
    ],
)
def test_an_update_has_the_same_bits_as_with_a_float32_copy_of_the_base(
    kind: str, method: str, dtype: str, tmp_path: Path
) -> None:
    world = make_narrow(tmp_path, kind, TYPES[dtype], mode="local", method=method)
    assert own_type(world.directory / "base") == dtype
    own, trainer = update(world)
    wide, wider = update(world, weights="float32")
    assert np.array_equal(own, wide)
    assert own.any()
    kinds = {parameter.dtype for parameter in trainer.sums_of_turn(0).engine.adapted.model.parameters()}
    assert kinds == {torch.float32, TYPES[dtype]}
    assert {one.dtype for one in wider.sums_of_turn(0).engine.adapted.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", ["federa", pytest.param("bitfit", marks=pytest.mark.slow), "fedex-lora", "slora"])
def test_a_method_that_changes_or_extends_the_base_passes_the_self_check_on_a_narrow_base(
    method: str, tmp_path: Path
) -> None:
    update(make_narrow(tmp_path, "text", torch.bfloat16, mode="none", method=method))


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_gradients_are_exact_on_a_bfloat16_base_of(family: str, tmp_path: Path) -> None:
    FAMILIES[family].write(tmp_path / "base", dtype=torch.bfloat16)
    found = cell(FAMILIES[family], "fedit", tmp_path)
    assert found.exact, found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what is mapped")
def test_a_narrow_base_lies_in_the_pages_of_its_file_and_only_what_is_small_is_copied(tmp_path: Path) -> None:
    family = FAMILIES["llama"]
    family.write(tmp_path / "base", dtype=torch.bfloat16)
    (tmp_path / "recipe.toml").write_text(recipe_text(family, "fedit"))
    recipe = build_draft(tmp_path / "recipe.toml", tmp_path / "draft").recipe
    model = load_base(tmp_path / "base", recipe.base, recipe.task, head_modules=["score"], seed=0).model
    assert isinstance(model.model.layers[0].mlp.up_proj, NarrowLinear)
    assert isinstance(model.get_input_embeddings(), NarrowEmbedding)
    wide = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert "score.weight" in wide
    assert all("norm" in name for name in wide - {"score.weight"})
    assert is_mapped(tmp_path / "base" / "model.safetensors", model.model.layers[0].mlp.up_proj.weight)


def test_bases_that_are_loaded_by_several_threads_at_once_leave_the_library_as_it_was(tmp_path: Path) -> None:
    """As where several participants are threads of one process."""
    family, tie = FAMILIES["gpt2"], PreTrainedModel.tie_weights
    family.write(tmp_path / "base", dtype=torch.float32)
    (tmp_path / "recipe.toml").write_text(recipe_text(family, "fedit"))
    recipe = build_draft(tmp_path / "recipe.toml", tmp_path / "draft").recipe

    def load(seed: int) -> torch.Tensor:
        base = load_base(tmp_path / "base", recipe.base, recipe.task, head_modules=["score"], seed=seed)
        return cast("Any", base.model).score.weight.detach().clone()  # type: ignore[no-any-return]

    alone = [load(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(load, range(8)))
    assert PreTrainedModel.tie_weights is tie
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_head_that_is_tied_to_the_embedding_trains_by_itself_and_the_embedding_stays_narrow() -> None:
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, tie_word_embeddings=True)
    made: Any = GPT2LMHeadModel(config)
    model = made.to(torch.bfloat16).requires_grad_(False)
    assert model.lm_head.weight is model.transformer.wte.weight
    tokens = torch.tensor([[1, 2, 3]])
    wide = copy.deepcopy(model).float().eval()(input_ids=tokens).logits
    keep_narrow(model, "own", spared=["lm_head"])
    assert model.lm_head.weight.dtype == torch.float32
    assert model.transformer.wte.weight.dtype == torch.bfloat16
    assert torch.equal(model.eval()(input_ids=tokens).logits, wide)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_narrow_base_can_compute_in_either_precision(precision: str, tmp_path: Path) -> None:
    world = make_narrow(tmp_path, "text", torch.bfloat16, mode="local", method="fedit")
    world.trainer(SeededRandom("secret"), precision=precision)


def is_mapped(file: Path, tensor: torch.Tensor) -> bool:
    """Return whether a tensor lies in the pages of a file, as Linux has them mapped."""
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    return any(start <= tensor.data_ptr() < end for start, end in ranges)


@packs
@pytest.mark.parametrize(("weights", "method"), [("8-bit", "fedit"), ("4-bit", "fedit"), ("4-bit", "bottleneck")])
def test_a_packed_base_passes_the_self_check_and_trains(weights: Weights, method: str, tmp_path: Path) -> None:
    world = make_narrow(tmp_path, "text", torch.bfloat16, mode="local", method=method)
    found, trainer = update(world, weights=weights)
    assert found.any()
    packed = [one for one in trainer.sums_of_turn(0).engine.adapted.model.parameters() if one.dtype == torch.uint8]
    assert len(packed) == 13  # six linear layers in each of two blocks, and the pooler


@packs
@pytest.mark.parametrize("method", ["dora", "federa"])
def test_a_method_that_reads_the_base_s_weights_is_refused_on_a_packed_base(method: str, tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="none", method=method)
    with pytest.raises(LocalError, match=r"memory\.weights = 4-bit: .* set it to own") as info:
        update(world, weights="4-bit")
    assert info.value.code == "E-CONFIG-INVALID"


def test_packed_weights_without_bitsandbytes_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant.training.bases.narrow.find_spec", lambda _name: None)
    with pytest.raises(LocalError, match=r"pip install 'onlysum\[packed\]'") as info:
        update(make_world(tmp_path, "text", mode="local"), weights="4-bit")
    assert info.value.code == "E-EXTRA-MISSING"


def test_a_base_with_weights_of_several_types_is_loaded_in_float32(tmp_path: Path) -> None:
    world = make_world(tmp_path, "text", mode="none")
    file = world.directory / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"] = tensors["classifier.bias"].to(torch.bfloat16)
    save_file(tensors, file, metadata={"format": "pt"})
    assert own_type(world.directory / "base") == "float32"
