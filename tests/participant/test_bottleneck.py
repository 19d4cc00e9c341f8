"""Bottleneck adapters: a type of PEFT's that PEFT does not bring, behind the modules that the plan's placement says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from pydantic import ValidationError
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import onlysum
from authoring.draft import build_draft
from participant.training.adapters.adapted import CONFIG_FILE, AdaptedModel, read_initial
from participant.training.tuners import bottleneck
from participant.training.tuners.bottleneck import NON_LINEARITIES, BottleneckConfig, BottleneckLayer
from privacy.adapter_options import BottleneckOptions, NonLinearity
from privacy.errors import LocalError
from tests.worlds.families import FAMILIES
from tests.worlds.torch_world import World, image_base, make_world, recipe_text

# PEFT asks transformers for a name that it deprecates.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

ROOT = Path(__file__).parents[2]
TOKENS = torch.arange(12).reshape(2, 6)


def bert() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    return BertForSequenceClassification(config).train(False)


def adapted(base: Any, **options: Any) -> Any:
    given = {"bottleneck_dim": 3, "target_modules": ["output.dense"]}
    return get_peft_model(base, BottleneckConfig(**{**given, **options})).eval()


def moved(model: Any) -> Any:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS).logits
    return found


# --- the type within PEFT ---


def test_what_comes_out_of_a_module_goes_down_through_the_non_linearity_up_and_is_added() -> None:
    layer = moved(BottleneckLayer(nn.Linear(5, 4), "default", BottleneckConfig(bottleneck_dim=2)))
    inputs = torch.linspace(-1, 1, 15).reshape(3, 5)
    plain = layer.base_layer(inputs)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    narrow = torch.nn.functional.gelu(plain @ down.weight.T + down.bias)
    assert torch.allclose(layer(inputs), plain + narrow @ up.weight.T + up.bias)
    assert (down.weight.shape, up.weight.shape) == ((2, 4), (4, 2))


def test_a_fresh_adapter_answers_as_the_base_does_and_its_projection_down_follows_from_the_seed() -> None:
    def fresh(seed: int) -> Any:
        base = bert()
        torch.manual_seed(seed)
        return adapted(base)

    one, again, other = fresh(3), fresh(3), fresh(4)
    assert torch.equal(answers(one), answers(bert()))
    weights = [model.get_parameter(f"base_model.model.{DOWN}.default.weight") for model in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].abs().min() > 0


DOWN = "bert.encoder.layer.0.output.dense.bottleneck_down"


@pytest.mark.parametrize("name", NON_LINEARITIES)
def test_an_adapter_that_peft_wrote_gives_the_same_answers_when_peft_has_read_it(name: str, tmp_path: Path) -> None:
    model = moved(adapted(bert(), non_linearity=name))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["peft_type"] == "BOTTLENECK"
    for empty in (False, True):
        again: Any = PeftModel.from_pretrained(bert(), tmp_path, low_cpu_mem_usage=empty).eval()
        assert torch.equal(answers(again), answers(model))
        assert not torch.allclose(answers(again), answers(bert()), atol=1e-3)
        with again.disable_adapter():
            assert torch.equal(answers(again), answers(bert()))


def test_several_adapters_lie_side_by_side_and_one_is_active_at_a_time(tmp_path: Path) -> None:
    model = moved(adapted(bert()))
    model.save_pretrained(tmp_path)
    expected = answers(model)
    model.add_adapter(
        "second", BottleneckConfig(bottleneck_dim=2, non_linearity="tanh", target_modules=["fc", "dense"])
    )
    assert torch.equal(answers(model), expected), "a second one that is not active adds nothing"
    model.set_adapter("second")
    assert torch.equal(answers(model), answers(bert())), "it is fresh"
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(answers(model), expected)


def test_peft_itself_refuses_to_merge_and_takes_the_adapter_off() -> None:
    model = moved(adapted(bert()))
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="no weight of the base can hold it"):
            merge()
    assert torch.equal(answers(model.unload()), answers(bert()))


def test_a_value_without_meaning_is_refused_before_there_is_a_model() -> None:
    with pytest.raises(ValueError, match="bottleneck_dim 0"):
        BottleneckConfig(bottleneck_dim=0)
    with pytest.raises(ValueError, match="non_linearity step: it is one of gelu, relu"):
        BottleneckConfig(non_linearity="step")


def test_a_module_that_is_not_linear_is_refused_by_peft_too() -> None:
    with pytest.raises(ValueError, match="behind a linear module, and a LayerNorm is none"):
        adapted(bert(), target_modules=["LayerNorm"])


def test_a_type_of_the_same_name_is_never_replaced() -> None:
    tables = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING
    before = dict(tables)
    with pytest.raises(KeyError, match="another type BOTTLENECK"):
        bottleneck.register()
    assert tables == before
    onlysum.register_peft_types()  # again does nothing
    assert tables == before


def test_peft_knows_the_type_once_it_is_registered_and_not_before() -> None:
    program = (
        "import onlysum, sys; assert 'torch' not in sys.modules\n"
        "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known\n"
        "assert 'BOTTLENECK' not in known; onlysum.register_peft_types(); assert 'BOTTLENECK' in known\n"
        "assert not {'grpc', 'opacus', 'coordinator'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- where the plan places it ---


def gpt2() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 30,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 32,
        "n_inner": 24,
    }
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).train(False)


def draft_of(directory: Path, change: tuple[str, str] = ("", "")) -> Any:
    image_base(directory / "base")
    text = recipe_text(method="bottleneck")
    assert change[0] in text
    (directory / "recipe.toml").write_text(text.replace(*change) if change[0] else text)
    return build_draft(directory / "recipe.toml", directory / "draft", self_check=False)


def behind(family: str, folder: Path, **options: Any) -> list[str]:
    """Return the modules of a family's base that a plan's options adapt, by name."""
    base = FAMILIES[family].write(folder / "base")
    given = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {"bottleneck_dim": 3, **options}.items())
    text = recipe_text("text", method="bottleneck")
    start, end = text.index("[adapter]"), text.index("head_modules")
    head = json.dumps(list(FAMILIES[family].head))
    text = f"{text[:start]}[adapter]\n{given}\n{text[end:]}".replace('["classifier"]', head)
    (folder / "recipe.toml").write_text(text)
    draft = build_draft(folder / "recipe.toml", folder / "draft", self_check=False)
    assert base.is_dir()
    ends = ".bottleneck_up.weight"
    return sorted(
        tensor.key.removesuffix(ends).removeprefix("base_model.model.")
        for tensor in draft.recipe.adapter.tensors
        if tensor.key.endswith(ends)
    )


def test_pfeiffer_s_placement_leaves_the_attention_out_and_houlsby_s_takes_it_too(tmp_path: Path) -> None:
    one_name: dict[str, Any] = {"target_modules": ["output.dense"]}  # both parts of a layer of BERT's end in it
    feed_forward = [f"bert.encoder.layer.{layer}.output.dense" for layer in (0, 1)]
    of_attention = [f"bert.encoder.layer.{layer}.attention.output.dense" for layer in (0, 1)]
    places = {"pfeiffer": feed_forward, "houlsby": sorted([*feed_forward, *of_attention])}
    for placement, expected in places.items():
        (tmp_path / placement).mkdir()
        assert behind("bert", tmp_path / placement, placement=placement, **one_name) == expected
    (tmp_path / "upper").mkdir()
    assert behind("bert", tmp_path / "upper", layers=[1], **one_name) == [feed_forward[1]]


# Families that name the ends of their layers' parts in different ways, and these ends.
ENDS = {
    "bert": ("layer.1.output.dense", "layer.1.attention.output.dense"),
    "distilbert": ("layer.1.ffn.lin2", "layer.1.attention.out_lin"),
    "albert": ("albert_layers.0.ffn_output", "albert_layers.0.attention.dense"),
    "modernbert": ("layers.1.mlp.Wo", "layers.1.attn.Wo"),
    "gpt2": ("h.1.mlp.c_proj", "h.1.attn.c_proj"),
    "llama": ("layers.1.mlp.down_proj", "layers.1.self_attn.o_proj"),
    "t5": ("block.1.layer.1.DenseReluDense.wo", "block.1.layer.0.SelfAttention.o"),
}


@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])
@pytest.mark.parametrize("family", ENDS)
def test_a_recipe_without_modules_gets_those_that_end_the_parts_of_its_family_s_layers(
    family: str, placement: str, tmp_path: Path
) -> None:
    layers = [0, 1] if family == "albert" else []  # whose layers share their tensors, under number 0
    found = behind(family, tmp_path, placement=placement, layers=layers)
    wanted = ENDS[family] if placement == "houlsby" else ENDS[family][:1]
    assert all(any(name.endswith(end) for name in found) for end in wanted), found
    assert any("att" in name.lower() for name in found) == (placement == "houlsby")
    kinds = {name.rpartition(".")[2] for name in found}
    assert kinds == {end.rpartition(".")[2] for end in wanted}


def test_only_the_uppermost_layers_are_adapted_unless_a_recipe_says_more(tmp_path: Path) -> None:
    assert behind("llama", tmp_path) == ["model.layers.1.mlp.down_proj"]


def test_a_plan_has_no_other_options_than_those_that_are_known() -> None:
    good: dict[str, Any] = {"bottleneck_dim": 3, "target_modules": ("fc2",)}
    assert BottleneckOptions(**good).non_linearity == "gelu"
    others: tuple[dict[str, Any], ...] = (
        {"bottleneck_dim": 0}, {"bottleneck_dim": 100_001}, {"non_linearity": "step"}, {"placement": "everywhere"},
        {"target_modules": ()}, {"rank": 2}, {"reduction": 16},
    )  # fmt: skip
    for other in others:
        with pytest.raises(ValidationError):
            BottleneckOptions(**{**good, **other})


def test_every_non_linearity_of_plans_is_one_of_the_type_s() -> None:
    assert set(NON_LINEARITIES) == set(NonLinearity.__args__)  # type: ignore[attr-defined]


UNFIT: dict[str, tuple[str, str, str]] = {
    "a bottleneck of no width": ("bottleneck_dim = 3", "bottleneck_dim = 0", "greater than or equal to 1"),
    "a bottleneck as wide as its module": ("bottleneck_dim = 3", "bottleneck_dim = 16", "no less than the 16 outputs"),
    "a module that the base lacks": ('["fc2"]', '["nothing"]', "the base has no module nothing; it has"),
    "a norm": ('["fc2"]', '["layernorm_after"]', "a LayerNorm is none"),
    "a whole block": ('["fc2"]', '["layers.1"]', "behind a linear module"),
    "a module of the attention": ('["fc2"]', '["o_proj"]', "placement pfeiffer leaves out: take houlsby"),
    "one of two modules of the attention": ('["fc2"]', '["fc2", "o_proj"]', "no module o_proj is adapted"),
    "a layer that is not there": ("seed = 7", "seed = 7\nlayers = [5]", "or of no layer in layers"),
    "a rank": ("bottleneck_dim = 3", "bottleneck_dim = 3\nrank = 2", "BOTTLENECK has no such option"),
    "an unknown placement": ("seed = 7", 'seed = 7\nplacement = "all"', "placement"),
    "an unknown non-linearity": ("seed = 7", 'seed = 7\nnon_linearity = "step"', "non_linearity"),
}


@pytest.mark.parametrize("sentence", UNFIT)
def test_a_recipe_is_refused_with_what_to_change_for(sentence: str, tmp_path: Path) -> None:
    old, new, words = UNFIT[sentence]
    with pytest.raises(LocalError, match=words) as info:
        draft_of(tmp_path, (old, new))
    assert info.value.code == "E-CONFIG-INVALID"
    assert not (tmp_path / "draft").exists()


# What a hand-made plan may say where `plan build` would have refused the recipe: a daemon refuses it before any charge.
HAND_MADE: dict[str, tuple[dict[str, Any], str]] = {
    "modules that the base lacks": ({"target_modules": ("nothing",)}, "no module nothing is adapted"),
    "modules of the attention": ({"target_modules": ("o_proj",)}, "take houlsby"),
    "a norm": ({"target_modules": ("layernorm_after",)}, "a LayerNorm is none"),
    "a bottleneck that is none": ({"bottleneck_dim": 99}, "no less than the 16 outputs"),
}


def with_options(world: World, **changes: Any) -> World:
    """Return a world whose plan's adapter has other options."""
    recipe = world.plan.recipe
    adapter = recipe.adapter.model_copy(update={"options": recipe.adapter.options.model_copy(update=changes)})
    plan = world.plan.model_copy(update={"recipe": recipe.model_copy(update={"adapter": adapter})})
    return World(world.directory, plan, world.dataset, world.columns)


@pytest.mark.parametrize("sentence", HAND_MADE)
def test_a_trainer_is_never_made_for_a_plan_with(sentence: str, tmp_path: Path) -> None:
    changes, words = HAND_MADE[sentence]
    world = with_options(make_world(tmp_path, method="bottleneck", mode="local"), **changes)
    with pytest.raises(LocalError, match=words) as info:
        world.trainer()
    assert info.value.code == "E-CONFIG-INVALID"


def test_a_narrower_bottleneck_than_the_manifest_s_is_refused(tmp_path: Path) -> None:
    world = with_options(make_world(tmp_path, method="bottleneck", mode="local"), bottleneck_dim=2)
    initial = read_initial(world.initial, world.plan.recipe.adapter)
    with pytest.raises(LocalError, match="is not of shape") as info:
        AdaptedModel.attach(world.base().model, world.plan.recipe, initial, torch.device("cpu"))
    assert info.value.code == "E-PLAN-RULE"


def test_the_adapter_starts_where_the_seed_says_and_its_way_up_at_zero(tmp_path: Path) -> None:
    world = make_world(tmp_path, method="bottleneck")
    initial = read_initial(world.initial, world.plan.recipe.adapter)
    for key, value in initial.items():
        assert value.any() == (key.endswith("bottleneck_down.weight") or "classifier.weight" in key), key
    again = draft_of(tmp_path / "again").recipe.adapter
    assert again.initial_hash == world.plan.recipe.adapter.initial_hash
    other = draft_of(tmp_path / "other", ("seed = 7", "seed = 8")).recipe.adapter
    assert other.initial_hash != again.initial_hash


def test_an_adapter_of_a_causal_base_has_the_width_of_its_transposed_layers() -> None:
    model = adapted(gpt2(), target_modules=["mlp.c_fc"])
    up = model.get_parameter("base_model.model.transformer.h.0.mlp.c_fc.bottleneck_up.default.weight")
    assert up.shape == (24, 3)


def test_the_size_is_that_of_both_projections_and_their_shifts(tmp_path: Path) -> None:
    recipe = make_world(tmp_path, method="bottleneck").plan.recipe
    width, outputs, layers = 3, 16, 2
    (stream,) = (stream for stream in recipe.state if stream.name == "adapter")
    assert stream.length == layers * (2 * width * outputs + width + outputs)
    assert recipe.adapter.rank == width, "a policy's bound of ranks is one of this width"
    assert np.sum([tensor.entries for tensor in recipe.adapter.tensors if tensor.stream == "adapter"]) == stream.length
