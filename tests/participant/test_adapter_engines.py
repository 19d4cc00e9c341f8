"""The fast engine takes gradients apart exactly, layer by layer, and refuses what it cannot take apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from participant.training.adapters.fast import FastEngine, PerExampleGradients, choose_engine
from participant.training.adapters.reference import OpacusEngine
from participant.training.adapters.taps import AnySite, LayerTap, UnknownLayerError, find_sites
from participant.training.examples import synthetic_examples
from participant.training.tuners.bottleneck import NON_LINEARITIES, BottleneckConfig
from privacy.dp.clipping import integer_clip
from privacy.errors import LocalError
from tests.worlds.torch_world import make_world

# PEFT asks transformers for a name that it deprecates.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

BATCH, LENGTH, VOCABULARY, LABELS = 5, 7, 30, 3
NAMES = {place: str(place) for place in range(LABELS)}
TOLERANCE = 1e-5  # relative


def bert() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, initializer_range=0.3, id2label=NAMES,
    )  # fmt: skip
    return BertForSequenceClassification(config).train(False).requires_grad_(False)


def gpt() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3, n_inner=24,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).train(False).requires_grad_(False)


def shaken(model: nn.Module) -> nn.Module:
    """Move trained tensors off zeros and ones, where many gradients vanish."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def adapted(config: PeftConfig, *, causal: bool = False) -> nn.Module:
    return shaken(get_peft_model(gpt() if causal else bert(), config))


def lora(**options: Any) -> LoraConfig:
    given = {"r": 2, "lora_alpha": 4, "target_modules": ["query", "value"], "modules_to_save": ["classifier"]}
    return LoraConfig(**{**given, **options})


def only_b() -> nn.Module:
    model = adapted(lora())
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    return model


def biases(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") and "position" not in name)
    return shaken(model)


CAUSAL: dict[str, Any] = {"task_type": "CAUSAL_LM"}
FEW: dict[str, Any] = {"num_virtual_tokens": 3}
BOTH: dict[str, Any] = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
CASES: dict[str, Callable[[], nn.Module]] = {
    "LoRA": lambda: adapted(lora()),
    "LoRA with A frozen": only_b,
    "rsLoRA": lambda: adapted(lora(use_rslora=True)),
    "LoRA with biases": lambda: adapted(lora(bias="lora_only", lora_bias=True)),
    "LoRA of a causal model": lambda: adapted(
        lora(target_modules=["c_attn"], modules_to_save=None, **CAUSAL), causal=True
    ),
    "DoRA": lambda: adapted(lora(use_dora=True)),
    "LoRA of an embedding": lambda: adapted(lora(target_modules=["word_embeddings"])),
    "AdaLoRA": lambda: adapted(AdaLoraConfig(r=2, init_r=3, total_step=10, target_modules=["query"])),
    "VeRA": lambda: adapted(VeraConfig(r=4, target_modules=["query"])),
    "LoKr": lambda: adapted(LoKrConfig(r=2, target_modules=["query"])),
    "OFT": lambda: adapted(OFTConfig(r=0, oft_block_size=4, target_modules=["query"])),
    "IA3": lambda: adapted(IA3Config(**BOTH)),
    "LN-tuning": lambda: adapted(LNTuningConfig(target_modules=["LayerNorm"])),
    "BitFit": lambda: biases(bert()),
    "BitFit of a causal model": lambda: biases(gpt()),
    "bottleneck adapters of a causal model": lambda: adapted(
        BottleneckConfig(bottleneck_dim=3, non_linearity="silu", target_modules=["c_proj"]), causal=True
    ),
    **{
        f"bottleneck adapters, {name}": partial(
            adapted, BottleneckConfig(bottleneck_dim=3, non_linearity=name, target_modules=["output.dense"])
        )
        for name in NON_LINEARITIES
    },
    "an embedding": lambda: whole("bert.embeddings.word_embeddings", "bert.embeddings.LayerNorm"),
    "a layer": lambda: whole("bert.encoder.layer.1", "classifier"),
    "a transposed layer": lambda: shaken(trained_below(gpt(), "transformer.h.1")),
    "prompt tuning": lambda: adapted(PromptTuningConfig(**CAUSAL, **FEW), causal=True),
    "prompt tuning of a classifier": lambda: adapted(PromptTuningConfig(task_type="SEQ_CLS", **FEW)),
    "p-tuning": lambda: adapted(PromptEncoderConfig(encoder_hidden_size=8, **CAUSAL, **FEW), causal=True),
    "prefix tuning": lambda: adapted(PrefixTuningConfig(**CAUSAL, **FEW), causal=True),
    "prefix tuning with a projection": lambda: adapted(
        PrefixTuningConfig(prefix_projection=True, encoder_hidden_size=8, **CAUSAL, **FEW), causal=True
    ),
}  # fmt: skip


def whole(*names: str) -> nn.Module:
    return shaken(trained_below(bert(), *names))


def trained_below(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_submodule(name).requires_grad_(True)
    return model


def trained_of(model: nn.Module) -> tuple[nn.Parameter, ...]:
    return tuple(parameter for parameter in model.parameters() if parameter.requires_grad)


def losses_of(model: Any, rows: slice) -> Tensor:
    """Return each example's own loss: of its class, or of its sequence."""
    random = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, VOCABULARY, (BATCH, LENGTH), generator=random)[rows]
    mask = (torch.arange(LENGTH) < LENGTH - torch.arange(BATCH)[:, None]).long()[rows]
    labels = torch.randint(LABELS, (BATCH,), generator=random)[rows]
    logits: Tensor = model(input_ids=tokens, attention_mask=mask).logits
    if logits.dim() == 2:
        return functional.cross_entropy(logits, labels, reduction="none")
    ends: Tensor = logits[:, -LENGTH:]  # prompts come first
    each = functional.cross_entropy(ends[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return torch.sum(each * mask[:, 1:], dim=1)


def single_gradients(model: nn.Module) -> Tensor:
    trained, rows = trained_of(model), []
    for place in range(BATCH):
        parts = torch.autograd.grad(losses_of(model, slice(place, place + 1)).sum(), trained, allow_unused=True)
        flat = [torch.zeros_like(one) if part is None else part for one, part in zip(trained, parts, strict=True)]
        rows.append(torch.cat([part.reshape(-1) for part in flat]))
    return torch.stack(rows)


@pytest.mark.parametrize("case", CASES)
def test_each_row_is_the_gradient_of_one_example(case: str) -> None:
    model = CASES[case]()
    rows = PerExampleGradients(model, trained_of(model))(lambda: losses_of(model, slice(None)))
    single = single_gradients(model)
    assert rows.shape == single.shape
    error = (rows - single).norm(dim=1) / single.norm(dim=1)
    assert (single.norm(dim=1) > 1e-4).all()
    assert error.max() <= TOLERANCE


CLOSED = (
    "LoRA", "LoRA with A frozen", "rsLoRA", "LoRA with biases", "LoRA of a causal model", "IA3", "LN-tuning", "BitFit",
    "BitFit of a causal model", "bottleneck adapters, gelu", "bottleneck adapters of a causal model", "an embedding",
    "a layer", "prefix tuning",
)  # fmt: skip


@pytest.mark.parametrize("case", CLOSED)
def test_common_layers_are_never_run_a_second_time(case: str) -> None:
    model = CASES[case]()
    assert not [site for site in find_sites(model, trained_of(model)) if isinstance(site, AnySite)]


KNOWN_TO_OPACUS = (
    "LoRA",
    "LoRA with A frozen",
    "rsLoRA",
    "BitFit",
    "LN-tuning",
    "bottleneck adapters, relu",
    "prefix tuning",
)


@pytest.mark.parametrize("case", KNOWN_TO_OPACUS)
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_opacus_gives_the_same_rows(case: str) -> None:
    model = CASES[case]()
    trained = trained_of(model)
    rows = PerExampleGradients(model, trained)(lambda: losses_of(model, slice(None)))
    hooked = copy.deepcopy(model)
    for module in hooked.modules():
        module.training = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    GradSampleHooks(hooked, loss_reduction="sum")
    torch.autograd.backward(losses_of(hooked, slice(None)).sum())
    found: tuple[Any, ...] = trained_of(hooked)
    theirs = torch.cat([one.grad_sample.reshape(BATCH, -1) for one in found], dim=1)
    assert ((rows - theirs).norm(dim=1) <= TOLERANCE * theirs.norm(dim=1)).all()


@pytest.mark.parametrize("case", ["LoRA", "IA3", "prompt tuning"])
def test_nothing_stays_on_the_model_or_in_memory_after_a_call(case: str) -> None:
    model = CASES[case]()
    gradients = PerExampleGradients(model, trained_of(model))
    gradients(lambda: losses_of(model, slice(None)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert "get_prompt" not in vars(model)
    assert not any(site.uses for site in gradients._sites)


class Small(nn.Module):
    """A model of one layer and whatever a test does with it."""

    def __init__(self, use: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.use = nn.Linear(4, 4), use

    def losses(self) -> Tensor:
        return self.use(self.layer, torch.linspace(-1, 1, 12).reshape(3, 4)).square().sum(dim=-1)


def taken(model: Small) -> Tensor:
    return PerExampleGradients(model, trained_of(model))(model.losses)


def test_a_layer_that_is_used_twice_adds_both_uses_up() -> None:
    model = Small(lambda layer, given: layer(layer(given).tanh()))
    losses = model.losses()
    for place, row in enumerate(taken(model)):
        parts = torch.autograd.grad(losses[place], trained_of(model), retain_graph=True)
        assert torch.allclose(row, torch.cat([part.reshape(-1) for part in parts]), atol=1e-5)


def test_a_layer_that_no_loss_depends_on_has_a_gradient_of_zero() -> None:
    assert not taken(Small(lambda layer, given: given.requires_grad_() + 0 * layer(given))).any()


def shared_table(layer: nn.Linear, given: Tensor) -> Tensor:
    found: Tensor = given @ layer(torch.linspace(-1, 1, 20).reshape(1, 5, 4))[0].tanh().T
    return found


def windows(layer: nn.Linear, given: Tensor) -> Tensor:
    found: Tensor = layer(given.reshape(6, 2)[:, [0, 1, 1, 0]]).tanh().reshape(3, 8)
    return found


def mixed_windows(layer: nn.Linear, given: Tensor) -> Tensor:
    found: Tensor = layer(given.repeat(2, 1) * torch.linspace(1, 2, 6)[:, None]).tanh().reshape(2, 3, 4).sum(dim=0)
    return found


ODDLY_ARRANGED: dict[str, Callable[[nn.Linear, Tensor], Tensor]] = {
    "a table that all examples share": shared_table,
    "several rows an example, one after the other": windows,
    "several rows an example, in turns": mixed_windows,
    "examples that do not come first": lambda layer, given: layer(given[:, None].expand(3, 2, 4).transpose(0, 1))[0],
}


@pytest.mark.parametrize("sentence", ODDLY_ARRANGED)
def test_a_layer_is_taken_apart_that_is_given(sentence: str) -> None:
    model = Small(ODDLY_ARRANGED[sentence])
    apart = PerExampleGradients(model, trained_of(model))
    losses = model.losses()
    singles = []
    for loss in losses:
        parts = torch.autograd.grad(loss, trained_of(model), retain_graph=True)
        singles.append(torch.cat([part.reshape(-1) for part in parts]))
    for _ in range(2):  # what was seen of a layer's rows the first time is known the second time
        assert torch.allclose(apart(model.losses), torch.stack(singles), atol=1e-5)


def test_an_example_that_is_no_number_does_not_spoil_the_rows_of_the_others() -> None:
    model = Small(windows)
    apart = PerExampleGradients(model, trained_of(model))
    clean = apart(model.losses)
    spoilt = torch.linspace(-1, 1, 12).reshape(3, 4)
    spoilt[1] = torch.nan
    rows = apart(lambda: windows(model.layer, spoilt).square().sum(dim=-1))
    assert torch.equal(rows[[0, 2]], clean[[0, 2]])


REFUSED: dict[str, Callable[[nn.Linear, Tensor], Tensor]] = {
    "an output that is changed in place": lambda layer, given: functional.relu(layer(given), inplace=True),
    "a tensor that is used outside of its module": lambda layer, given: given @ layer.weight + layer.bias,
    "an output without a gradient": lambda layer, given: given.requires_grad_() + layer(given.detach()).detach(),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_the_fast_engine_refuses(sentence: str) -> None:
    model = Small(REFUSED[sentence])
    if "without" in sentence:
        model.layer.register_forward_hook(lambda _module, _args, output: output.detach())
    with pytest.raises(UnknownLayerError):
        taken(model)


def test_a_normalisation_over_the_batch_is_refused() -> None:
    norm = nn.BatchNorm1d(4)
    model = Small(lambda layer, given: torch.as_tensor(norm(layer(given))))
    model.norm = norm
    with pytest.raises(UnknownLayerError, match="BatchNorm1d"):
        taken(model)


def unknown(site: LayerTap, use: object, outer: Tensor) -> dict[str, Tensor]:
    raise UnknownLayerError("planted")


def test_a_layer_that_the_fast_engine_does_not_know_is_left_to_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, mode="local")
    synthetic = synthetic_examples(world.base(), world.task, 4)
    fast = choose_engine(world.adapted(), synthetic)
    assert isinstance(fast, FastEngine)
    assert isinstance(choose_engine(world.adapted(), synthetic, engine="opacus"), OpacusEngine)
    monkeypatch.setattr("participant.training.adapters.taps.LinearSite.gradients", unknown)
    with pytest.raises(LocalError, match="per-example gradients: planted"):
        fast.rows(synthetic)
    assert isinstance(choose_engine(world.adapted(), synthetic), OpacusEngine)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("method", ["ffa-lora", "fedit"])
def test_both_engines_give_the_same_rows_and_the_same_integers_to_a_unit(
    kind: str, method: str, tmp_path: Path
) -> None:
    world = make_world(tmp_path, kind, method=method, mode="distributed")
    synthetic = synthetic_examples(world.base(), world.task, 8)
    rows, theirs = (engine(world.adapted()).per_example(synthetic) for engine in (FastEngine, OpacusEngine))
    assert np.allclose(rows, theirs, atol=1e-6 * np.abs(theirs).max())
    integers = [integer_clip(row, sensitivity=2000, clip_norm=1.0) for row in (rows, theirs)]
    assert np.abs(integers[0] - integers[1]).max() <= 1
