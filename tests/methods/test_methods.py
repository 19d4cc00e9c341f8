"""Methods say what trains, what is summed and where they are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import methods
from authoring.method_command import app
from methods.fed_sb import multiplied_out
from methods.federa import difference
from methods.layout import Sizes
from methods.method import ALL_MODES, Method
from methods.p_tuning import network_output
from methods.selectors import Selector, select
from methods.vectors import joined, split
from privacy import canonical
from privacy.adapter_options import (
    AdapterOptions,
    BiasOptions,
    CoreOptions,
    HeadOptions,
    Ia3Options,
    LoraOptions,
    OftOptions,
    PromptEncoderOptions,
    PromptOptions,
    VeraOptions,
    WholeOptions,
)
from privacy.adapter_parts import Adapter, Role, Tensor
from privacy.draft import Recipe
from privacy.errors import LocalError
from tests.worlds.plans import make_plan, plan_document

A, B = "base_model.model.layer.q_proj.lora_A.weight", "base_model.model.layer.q_proj.lora_B.weight"
WEIGHT, BIAS = "base_model.model.classifier.weight", "base_model.model.classifier.bias"
SHAPES = {A: (2, 8), B: (6, 2), WEIGHT: (3, 6), BIAS: (3,)}


def adapter(options: AdapterOptions | None = None, head: tuple[str, ...] = ("classifier",)) -> Adapter:
    """A plan's adapter before its tensors are known."""
    return Adapter(
        method="any",
        options=options or LoraOptions(rank=2, alpha="4", target_modules=("q_proj",)),
        head_modules=head,
        initial_hash="00" * 32,
        tensors=(Tensor(key="any", shape=(1,), stream="frozen"),),
    )


def streams(method: Method) -> dict[str, str]:
    return {tensor.key: tensor.stream for tensor in method.manifest(SHAPES, adapter())}


def test_fedit_trains_and_sums_both_factors() -> None:
    assert streams(methods.get("fedit")) == {A: "adapter", B: "adapter", BIAS: "head", WEIGHT: "head"}


def test_ffa_lora_freezes_a_and_sums_b_alone() -> None:
    assert streams(methods.get("ffa-lora")) == {B: "adapter", BIAS: "head", WEIGHT: "head", A: "frozen"}


def test_rolora_trains_one_factor_in_odd_rounds_and_the_other_in_even_ones_and_the_head_in_all() -> None:
    method = methods.get("rolora")
    assert streams(method) == {A: "a", B: "b", BIAS: "head", WEIGHT: "head"}
    turns = method.turns_of(method.state(method.manifest(SHAPES, adapter())))
    assert [turn.trains for turn in turns] == [("b", "head"), ("a", "head")]
    assert [turn.entries for turn in turns] == [12 + 21, 16 + 21]
    assert [method.schedule.turn(number) for number in range(1, 6)] == [0, 1, 0, 1, 0]


def test_ia3_trains_its_scales_and_prompt_tuning_its_prompt() -> None:
    scale, prompt = "base_model.model.layer.q_proj.ia3_l", "prompt_embeddings"
    ia3, tuned = Ia3Options(target_modules=("q_proj",)), PromptOptions(tokens=4)
    assert methods.get("ia3").stream_of(scale, adapter(ia3)) == "adapter"
    assert methods.get("prompt").stream_of(prompt, adapter(tuned)) == "adapter"


TARGETS = ("q_proj",)
PLACED: dict[str, tuple[str, AdapterOptions, str, str]] = {
    "the magnitudes of DoRA train": (
        "dora",
        LoraOptions(rank=2, alpha="4", target_modules=TARGETS),
        "base_model.model.layer.q_proj.lora_magnitude_vector",
        "adapter",
    ),
    "the vectors of VeRA train": (
        "vera",
        VeraOptions(rank=2, target_modules=TARGETS),
        "base_model.model.layer.q_proj.vera_lambda_b",
        "adapter",
    ),
    "the projections of VeRA are frozen": (
        "vera",
        VeraOptions(rank=2, target_modules=TARGETS),
        "base_model.vera_A",
        "frozen",
    ),
    "the core of Fed-SB trains": (
        "fed-sb",
        CoreOptions(rank=2, alpha="4", target_modules=TARGETS),
        "base_model.model.layer.q_proj.lora_B.core.weight",
        "adapter",
    ),
    "the factors of Fed-SB are frozen": (
        "fed-sb",
        CoreOptions(rank=2, alpha="4", target_modules=TARGETS),
        "base_model.model.layer.q_proj.lora_B.out.weight",
        "frozen",
    ),
    "the rotations of OFT train": (
        "oft",
        OftOptions(block_size=2, target_modules=TARGETS),
        "base_model.model.layer.q_proj.oft_R.weight",
        "adapter",
    ),
    "biases train in BitFit": ("bitfit", BiasOptions(), "base_model.model.layer.norm.bias", "adapter"),
    "the bias of the head stays with the head": ("bitfit", BiasOptions(), BIAS, "head"),
    "a module that is named trains whole": (
        "layers",
        WholeOptions(target_modules=("layer.1",)),
        "base_model.model.layer.1.gate",
        "adapter",
    ),
    "the network of p-tuning trains": (
        "p-tuning",
        PromptEncoderOptions(tokens=2, hidden_size=2),
        "prompt_encoder.mlp_head.2.bias",
        "adapter",
    ),
}


@pytest.mark.parametrize(("name", "options", "key", "stream"), PLACED.values(), ids=PLACED.keys())
def test_what_becomes_of_a_tensor(name: str, options: AdapterOptions, key: str, stream: str) -> None:
    assert methods.get(name).stream_of(key, adapter(options)) == stream


def test_a_tensor_of_another_method_is_refused_by_name() -> None:
    with pytest.raises(LocalError, match=r"FedIT has no tensor like .*lora_magnitude_vector"):
        methods.get("fedit").stream_of("base_model.model.q.lora_magnitude_vector", adapter())


def test_a_base_or_a_recipe_with_nothing_to_train_is_refused() -> None:
    bitfit, head = methods.get("bitfit"), methods.get("head")
    without_bias, headless = adapter(BiasOptions()), adapter(HeadOptions(), head=())
    with pytest.raises(LocalError, match=r"BitFit finds nothing to train \(bias\); take another base") as info:
        bitfit.require_tensors(bitfit.manifest({BIAS: (3,)}, without_bias))
    assert info.value.code == "E-CONFIG-INVALID"
    with pytest.raises(LocalError, match="name head_modules"):
        head.require_tensors(head.manifest({}, headless))
    head.require_tensors(head.manifest({WEIGHT: (3, 6)}, adapter(HeadOptions())))


SIZES = {"fedit": 1.0, "ffa-lora": 0.5, "fedsvd": 0.5, "fed-sb": 8 / 1536, "random-mask": 0.25, "rolora": 0.5}


@pytest.mark.parametrize("name", SIZES)
def test_what_goes_up_is_of_the_stated_size_beside_plain_lora(name: str) -> None:
    method, module = methods.get(name), "base_model.model.layer.q_proj."
    shapes: dict[str, tuple[int, ...]] = {module + "lora_A.weight": (8, 768), module + "lora_B.weight": (768, 8)}
    options: AdapterOptions = LoraOptions(rank=8, alpha="8", target_modules=TARGETS)
    if name == "fed-sb":
        options = CoreOptions(rank=8, alpha="8", target_modules=TARGETS)
        shapes[module + "lora_B.out.weight"] = shapes.pop(module + "lora_B.weight")
        shapes[module + "lora_B.core.weight"] = (8, 8)
    state = method.state(method.manifest(shapes, adapter(options)))
    upload = method.upload_of(state, Sizes(mask=0.25 if name == "random-mask" else None))
    assert max(turn.entries for turn in method.turns_of(state, upload)) == SIZES[name] * 8 * 2 * 768


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def test_federa_publishes_the_difference_from_its_start_as_a_lora_of_twice_the_rank() -> None:
    tensors, initial = random_tensors(SHAPES, 1), random_tensors(SHAPES, 2)
    published = difference(adapter(), tensors, initial)
    assert np.allclose(published[B] @ published[A], tensors[B] @ tensors[A] - initial[B] @ initial[A], atol=1e-5)
    assert np.array_equal(published[WEIGHT], tensors[WEIGHT])
    assert methods.get("federa").published_options(adapter()) == {"r": 4, "lora_alpha": 8.0}


def test_fed_sb_publishes_a_plain_lora() -> None:
    out, core = B.replace("B.", "B.out."), B.replace("B.", "B.core.")
    tensors = random_tensors({A: (2, 8), core: (2, 2), out: (6, 2), BIAS: (3,)}, 1)
    published = multiplied_out(adapter(), tensors, {})
    assert published.keys() == {A, B, BIAS}
    assert np.array_equal(published[B], tensors[out] @ tensors[core])


def test_p_tuning_publishes_the_prompt_that_its_network_makes() -> None:
    shapes = {"embedding.weight": (2, 4), BIAS: (3,)}
    for layer, width, given in ((0, 3, 4), (2, 3, 3), (4, 4, 3)):
        shapes |= {f"mlp_head.{layer}.weight": (width, given), f"mlp_head.{layer}.bias": (width,)}
    tensors = {key if key == BIAS else f"prompt_encoder.{key}": one for key, one in random_tensors(shapes, 1).items()}
    published = network_output(adapter(), tensors, {})
    assert published.keys() == {"prompt_embeddings", BIAS}
    hidden = tensors["prompt_encoder.embedding.weight"]
    for layer in (0, 2):
        weight, bias = (tensors[f"prompt_encoder.mlp_head.{layer}.{name}"] for name in ("weight", "bias"))
        hidden = np.maximum(hidden @ weight.T + bias, 0)
    last = hidden @ tensors["prompt_encoder.mlp_head.4.weight"].T + tensors["prompt_encoder.mlp_head.4.bias"]
    assert np.allclose(published["prompt_embeddings"], last)


@pytest.mark.parametrize(("name", "length"), [("fedit", 28), ("ffa-lora", 12)])
def test_a_state_has_the_lengths_of_its_streams(name: str, length: int) -> None:
    method = methods.get(name)
    state = method.state(method.manifest(SHAPES, adapter()))
    assert {stream.name: stream.length for stream in state} == {"adapter": length, "head": 21}
    (turn,) = method.turns_of(state)
    assert (turn.trains, turn.entries) == (("adapter", "head"), length + 21)


def test_a_stream_without_tensors_is_left_out() -> None:
    method = methods.get("ffa-lora")
    state = method.state(method.manifest({A: (2, 8), B: (6, 2)}, adapter()))
    assert [stream.name for stream in state] == ["adapter"]


@pytest.mark.parametrize("method", methods.all_methods(), ids=lambda method: method.name)
def test_every_method_is_described_whole_and_runs_in_some_mode(method: Method) -> None:
    assert methods.get(method.name) is method
    assert method.modes
    assert method.source
    assert method.summed
    shared = {selector for selector, role in method.roles.items() if role in {Role.SHARED, Role.DERIVED}}
    assert frozenset().union(*method.streams.values()) == shared
    assert all(turn <= set(method.streams) for turn in method.turns)
    opening = {0} if "opening_rounds" in method.takes else set()
    assert method.schedule.turns | opening == set(range(max(1, len(method.turns))))
    for mode in method.modes:
        method.require_mode(mode)


def test_a_mode_that_is_refused_is_refused_with_its_reason_and_the_modes_that_are_left() -> None:
    plain = methods.get("fedit")
    fields = {name: getattr(plain, name) for name in Method.__slots__}
    refusing = Method(**{**fields, "refused": {"distributed": "it strips others' noise"}})
    with pytest.raises(
        LocalError, match=r"FedIT in mode distributed: it strips others' noise; it runs in local"
    ) as info:
        refusing.require_mode("distributed")
    assert info.value.code == "E-METHOD-REFUSED"


@pytest.mark.parametrize("name", sorted(methods.REFUSED))
def test_methods_that_need_individual_updates_are_refused_by_name(name: str) -> None:
    with pytest.raises(LocalError, match=name) as info:
        methods.get(name)
    assert info.value.code == "E-METHOD-REFUSED"


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LocalError, match="did you mean ffa-lora") as info:
        methods.get("ffa-lroa")
    assert info.value.code == "E-METHOD-UNKNOWN"
    with pytest.raises(LocalError, match=f"did you mean ({'|'.join(method.name for method in methods.all_methods())})"):
        methods.get("lora")  # and not a refused method, though its name is as near


@pytest.mark.parametrize(("paper", "name"), [("PromptFL", "prompt"), ("DP-BiTFiT", "bitfit"), ("LoRA-SB", "fed-sb")])
def test_a_name_that_papers_have_for_a_method_leads_to_it(paper: str, name: str) -> None:
    with pytest.raises(LocalError, match=f"{paper}; it is method {name} here") as info:
        methods.get(paper)
    assert info.value.code == "E-METHOD-UNKNOWN"


LORA, IA3 = LoraOptions(rank=2, alpha="4", target_modules=("q",)), Ia3Options(target_modules=("q",))
NOBODYS: dict[str, tuple[AdapterOptions, tuple[str, ...], str]] = {
    "a magnitude of DoRA": (LORA, ("classifier",), "base_model.model.q.lora_magnitude_vector.weight"),
    "a factor of AdaLoRA": (LORA, ("classifier",), "base_model.model.q.lora_E"),
    "a frozen projection of VeRA": (LORA, ("classifier",), "base_model.vera_A"),
    "a scale of IA3 in a LoRA": (LORA, ("classifier",), "base_model.model.q.ia3_l"),
    "a factor of LoRA in an IA3": (IA3, ("classifier",), "base_model.model.q.lora_B.weight"),
    "a head that the plan does not name": (LORA, ("score",), "base_model.model.classifier.weight"),
    "a head where the plan names none": (LORA, (), "base_model.model.classifier.weight"),
    "a module whose name begins like the head's": (LORA, ("classifier",), "base_model.model.classifier2.weight"),
    "losses": (LORA, ("classifier",), "loss"),
    "losses beside biases": (BiasOptions(), ("classifier",), "loss"),
    "a module beside those that train whole": (
        WholeOptions(target_modules=("layer.1",)),
        ("classifier",),
        "base_model.model.layer.2.dense.weight",
    ),
    "anything beside the head alone": (HeadOptions(), ("classifier",), "base_model.model.layer.2.dense.weight"),
}


@pytest.mark.parametrize(("options", "head", "key"), NOBODYS.values(), ids=NOBODYS.keys())
def test_a_tensor_that_no_selector_claims_is_refused_by_name(
    options: AdapterOptions, head: tuple[str, ...], key: str
) -> None:
    with pytest.raises(LocalError) as info:
        select(key, options, head)
    assert info.value.code == "E-METHOD-REFUSED"
    assert key in info.value.detail


@pytest.mark.parametrize("key", [WEIGHT, BIAS, "base_model.model.classifier.dense.weight", "classifier.weight"])
def test_the_head_is_what_head_modules_name(key: str) -> None:
    assert select(key, LORA, ("classifier",)) is Selector.HEAD
    assert select("model.heads.classifier.weight", LORA, ("heads.classifier",)) is Selector.HEAD


OTHERWISE: dict[str, dict[str, Any]] = {
    "another turn": {"turns": [{"trains": ["head"], "sums": [{"name": "head", "length": 3}]}]},
    "another form of updates": {"upload": {"kind": "products"}},
    "counts of ranks": {"counts": "rank"},
    "another PEFT type": {"adapter": {"options": {"peft_type": "PROMPT_TUNING", "tokens": 2}}},
}


@pytest.mark.parametrize("change", OTHERWISE.values(), ids=OTHERWISE.keys())
def test_a_recipe_that_is_not_the_method_s_is_refused(change: dict[str, Any]) -> None:
    document: Any = plan_document()["recipe"]
    if "adapter" in change:
        document["adapter"]["options"] = change["adapter"]["options"]
    else:
        document.update(change)
    recipe = Recipe.model_validate_json(canonical.encode(document))
    with pytest.raises(LocalError) as info:
        methods.require_sound(recipe, "none")
    assert info.value.code in {"E-PLAN-STREAM", "E-METHOD-REFUSED"}


def test_splitting_and_joining_a_vector_are_inverse_and_keep_the_order_of_the_streams() -> None:
    plan, _ = make_plan(entries=12)
    vector = np.arange(12, dtype=np.float32)
    tensors = split(plan.recipe, vector)
    assert tensors[B].tolist() == list(range(9))
    assert tensors[WEIGHT].tolist() == [9, 10, 11]
    assert np.array_equal(joined(plan.recipe, tensors), vector)


def test_a_vector_of_another_length_is_refused() -> None:
    plan, _ = make_plan(entries=12)
    with pytest.raises(ValueError, match="not of 12 entries"):
        split(plan.recipe, np.zeros(13, dtype=np.float32))


def test_an_export_has_trained_tensors_from_the_vector_and_frozen_ones_from_the_start() -> None:
    plan, _ = make_plan(entries=12)
    initial = {A: np.ones((2, 4), dtype=np.float32), B: np.full(9, 7, dtype=np.float32)}
    exported = methods.get("ffa-lora").export(plan.recipe, np.arange(12, dtype=np.float32), initial)
    assert exported.keys() == {A, B, WEIGHT}
    assert exported[A].tolist() == initial[A].tolist()
    assert exported[B].tolist() == list(range(9))


@pytest.mark.parametrize("initial", [{}, {A: np.ones((4, 2), dtype=np.float32)}], ids=["missing", "another shape"])
def test_an_export_without_its_frozen_parts_is_refused(initial: dict[str, np.ndarray]) -> None:
    plan, _ = make_plan(entries=12)
    with pytest.raises(LocalError, match="initial adapter lacks"):
        methods.get("ffa-lora").export(plan.recipe, np.zeros(12, dtype=np.float32), initial)


def test_a_missing_tensor_cannot_be_joined() -> None:
    plan, _ = make_plan(entries=12)
    with pytest.raises(LocalError, match="adapter lacks"):
        joined(plan.recipe, {WEIGHT: np.zeros(3, dtype=np.float32)})


def test_the_command_lists_methods_and_refusals() -> None:
    shown = CliRunner().invoke(app, ["list"])
    assert shown.exit_code == 0
    assert "ffa-lora" in shown.output
    assert methods.REFUSED["krum"].reason in shown.output
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    known = [method.name for method in methods.all_methods()]
    assert [entry["id"] for entry in listed] == [*known, *methods.REFUSED]
    assert len(listed) >= 35
    for entry in listed:
        assert {"id", "category", "size", "modes", "refused"} <= entry.keys()
        assert {*entry["modes"], *entry["refused"]} == set(ALL_MODES), "a mode is had, or refused with the reason"
        assert bool(entry["size"]) == bool(entry["modes"])


def test_a_method_that_is_refused_by_name_is_shown_with_its_reason_and_without_a_mode() -> None:
    shown = CliRunner().invoke(app, ["show", "FLoRA"])
    assert shown.exit_code == 0
    assert "2409.05976" in shown.output
    assert methods.REFUSED["flora"].reason in shown.output
    values = json.loads(CliRunner().invoke(app, ["show", "flora", "--json"]).output)
    assert values["modes"] == []
    assert values["refused"]["none"] == methods.REFUSED["flora"].reason


def test_the_command_shows_what_a_method_sums() -> None:
    shown = CliRunner().invoke(app, ["show", "ffa-lora"]).output
    assert "2403.12313" in shown
    assert "adapter (lora-b); head (head)" in shown
    assert json.loads(CliRunner().invoke(app, ["show", "fedit", "--json"]).output)["roles"] == {
        "head": "shared",
        "lora-a": "shared",
        "lora-b": "shared",
    }
