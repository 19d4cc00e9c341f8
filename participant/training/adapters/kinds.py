"""One table realises each PEFT type: its configuration, and which parameter of the model is which tensor of its file.

Guarantees: a parameter is the adapter's under exactly one key, or is none of the adapter's.
Leaves to others: PEFT's configuration (``configurations``), what becomes of a tensor (``methods``), loading it
(``adapted``).
Source: PEFT 0.21 ``utils/save_and_load.py`` for the keys of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.oft.layer import OFTLayer
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

import methods
from methods.fedkseed import directions
from methods.products import BASE
from methods.selectors import HOME_NAME, PROMPT_KEY, PROMPT_NETWORK, SEEDS_KEY
from participant.training.adapters import configurations
from participant.training.adapters.configurations import SAVED_WHOLE
from participant.training.adapters.principal import lora_layers, start_from_base, start_orthonormal, take_out_of_base
from participant.training.adapters.switched import put_second
from participant.training.trainer import Weights
from participant.training.tuners.bottleneck import width_of
from privacy.adapter_options import BottleneckOptions, HeadsOptions
from privacy.adapter_parts import Adapter
from privacy.errors import LocalError

PEFT_NAME: Final = "default"  # how PEFT names the one adapter within the model
REPLACED: Final = "original_module"  # stays beside a module that is saved whole, and is never run


@dataclass(frozen=True, slots=True)
class AdapterKind:
    """How torch sees a PEFT type.

    Attributes:
        config: returns PEFT's configuration of a plan's adapter.
        key: returns the key in PEFT's file of a tensor that is no head, by its name in the model; or ``None``.
        change: puts into a wrapped model what PEFT has no configuration for, and refuses what PEFT made otherwise.
        require: refuses a base that PEFT would take and adapt otherwise than the plan says.
        buffers: whether some of its tensors are no parameters, because they never train.
    """

    config: Callable[[Adapter], PeftConfig]
    key: Callable[[str], str | None]
    change: Callable[[PeftModel, Adapter], None] = lambda _model, _adapter: None
    require: Callable[[nn.Module, Adapter], None] = lambda _base, _adapter: None
    buffers: bool = False


def wrapped(model: nn.Module, adapter: Adapter) -> PeftModel:
    """Put a plan's adapter around a base, as PEFT makes it.

    Raises:
        ValueError: PEFT's or the type's own, the base has no such modules.
    """
    kind = _KINDS[adapter.options.peft_type]
    kind.require(model, adapter)
    config = kind.config(adapter)
    if config.is_prompt_learning:
        config.task_type = _task_type(model)
        _measure(config, model)
    found: PeftModel = get_peft_model(model, config)
    kind.change(found, adapter)
    if (home := methods.get(adapter.method).home) in {"beside", "alone", "mixed"}:
        put_second(found, home)
    return found


def _task_type(model: nn.Module) -> TaskType:
    """Return what PEFT calls the task of a model, by its class: how a prompt gets into it and out of its answers."""
    types = {
        "SequenceClassification": TaskType.SEQ_CLS,
        "TokenClassification": TaskType.TOKEN_CLS,
        "CausalLM": TaskType.CAUSAL_LM,
        "LMHeadModel": TaskType.CAUSAL_LM,
    }
    names = [kind.__name__ for kind in type(model).__mro__]  # of our own classes too
    found = (kind for end, kind in types.items() if any(name.endswith(end) for name in names))
    return next(found, TaskType.FEATURE_EXTRACTION)


def _measure(config: Any, model: Any) -> None:
    """Say how large a base is where PEFT would look for it under another name: a prompt is as wide as an embedding."""
    sizes = model.config.get_text_config()
    if str(config.peft_type.value) != "PREFIX_TUNING":
        config.token_dim = model.get_input_embeddings().weight.shape[1]
    elif not hasattr(sizes, "n_embd"):
        config.token_dim = sizes.hidden_size
    config.num_layers, config.num_attention_heads = sizes.num_hidden_layers, sizes.num_attention_heads


def start(model: PeftModel, adapter: Adapter) -> None:
    """Set fresh factors to where the method starts, if that is not where PEFT lets them."""
    match methods.get(adapter.method).start:
        case "peft":
            pass
        case "orthonormal":
            start_orthonormal(model)
        case "principal":
            start_from_base(model, with_values=False)
        case "principal, out of the base":
            start_from_base(model, with_values=True)


def require_weights(adapter: Adapter, weights: Weights) -> None:
    """Refuse packed weights where a method computes with the base's weights themselves.

    Raises:
        LocalError: ``E-CONFIG-INVALID``.
    """
    method = methods.get(adapter.method)
    reads = method.base_moves or method.start == "principal, out of the base" or "use_dora" in method.settings
    if reads and weights in {"8-bit", "4-bit"}:
        detail = f"memory.weights = {weights}: {method.title} computes with the base's own weights; set it to own"
        raise LocalError("E-CONFIG-INVALID", detail)


def settle(model: PeftModel, adapter: Adapter) -> None:
    """Take out of the base what an initial adapter, now loaded, adds to it, if the method says so."""
    if methods.get(adapter.method).start == "principal, out of the base":
        take_out_of_base(model)


def candidates(model: PeftModel, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model, by their names in it, of which some are the adapter's."""
    yield from model.named_parameters()
    if _KINDS[adapter.options.peft_type].buffers:
        yield from model.named_buffers()


def file_key(adapter: Adapter, parameter: str) -> str | None:
    """Return the key in PEFT's file of a tensor, by its name in the model; ``None``: it is not the adapter's."""
    parts = parameter.split(".")
    if REPLACED in parts:
        return None
    if SAVED_WHOLE in parts and PEFT_NAME in parts:
        return ".".join(part for part in parts if part not in {PEFT_NAME, SAVED_WHOLE})
    if methods.get(adapter.method).base_moves and parameter.endswith(BASE):
        return parameter
    return _KINDS[adapter.options.peft_type].key(parameter)


def _within_layers(*names: str) -> Callable[[str], str | None]:
    """Return the rule of types whose tensors lie beside the layers that they adapt, named after the adapter."""

    def key(parameter: str) -> str | None:
        parts = parameter.split(".")
        if PEFT_NAME not in parts or not set(names) & set(parts):
            return None
        return ".".join(part for part in parts if part != PEFT_NAME)

    return key


def _lora_key(name: str) -> str | None:
    if HOME_NAME in name.split("."):  # the second LoRA's, which is in no file of PEFT's
        return name
    key = _within_layers("lora_A", "lora_B", "lora_magnitude_vector")(name)
    magnitude = ".lora_magnitude_vector"  # PEFT's files have it without the name of its tensor
    return key.removesuffix(".weight") if key and key.endswith(f"{magnitude}.weight") else key


def _put_cores(model: PeftModel, _adapter: Adapter) -> None:
    """Put a core, zero at first, between the factors of every LoRA."""
    for layer in lora_layers(model):
        rank, place = layer.r[PEFT_NAME], layer.lora_A[PEFT_NAME].weight
        core = nn.Linear(rank, rank, bias=False, device=place.device, dtype=place.dtype)
        nn.init.zeros_(core.weight)
        _put_between(layer, "core", core)


class Cores(nn.Module):
    """Square cores side by side, zero at first, each with a scale, 1 at first.

    Args:
        count: how many.
        rank: of each.
    """

    def __init__(self, count: int, rank: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, rank, rank, device=device))
        self.scale = nn.Parameter(torch.ones(count, device=device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the cores make of the inputs, shape (..., count * rank)."""
        count, rank, _ = self.weight.shape
        apart = inputs.reshape(*inputs.shape[:-1], count, rank)
        found = torch.einsum("...hr,hsr->...hs", apart, self.weight * self.scale[:, None, None])
        return found.flatten(-2)


def _put_heads(model: PeftModel, adapter: Adapter) -> None:
    """Put cores between the factors of every LoRA."""
    options = adapter.options
    assert isinstance(options, HeadsOptions)  # as the table below says
    for layer in lora_layers(model):
        place = layer.get_parameter(f"lora_A.{PEFT_NAME}.weight").device
        _put_between(layer, "cores", Cores(options.heads, options.rank, place))


def _put_seeds(model: PeftModel, adapter: Adapter) -> None:
    """Put the scalars of the directions beside the model: nothing computes with them, they say where weights are."""
    place = next(model.parameters()).device
    model.base_model.register_parameter("seeds", nn.Parameter(torch.zeros(directions(adapter), device=place)))


def _put_between(layer: LoraLinear, name: str, core: nn.Module) -> None:
    cored = nn.Sequential()
    cored.add_module(name, core)
    cored.add_module("out", layer.lora_B[PEFT_NAME])
    layer.lora_B[PEFT_NAME] = cored


def _vera_key(name: str) -> str | None:
    for projection in ("vera_A", "vera_B"):  # of all layers
        if name.endswith(f".{projection}.{PEFT_NAME}"):
            return f"base_model.{projection}"
    return _within_layers("vera_lambda_b", "vera_lambda_d")(name)


def _require_blocks(model: PeftModel, _adapter: Adapter) -> None:
    """Refuse what PEFT would adjust: the plan's block size is the one that everybody has."""
    size = vars(model.peft_config[PEFT_NAME])["oft_block_size"]
    for name, layer in model.named_modules():
        if isinstance(layer, OFTLayer) and layer.oft_block_size[PEFT_NAME] != size:
            raise ValueError(f"block_size {size} does not divide the {layer.in_features} inputs of {name}")


def _require_norms(model: PeftModel, _adapter: Adapter) -> None:
    """Refuse a target that is no normalisation: PEFT would train any module whole."""
    for name, layer in model.named_modules():
        if isinstance(layer, LNTuningLayer) and any(tensor.dim() != 1 for tensor in layer.parameters()):
            raise ValueError(f"{name} is no normalisation; method layers trains modules whole")


def _require_outputs(base: nn.Module, adapter: Adapter) -> None:
    """Refuse a target behind which no bottleneck would lie, and a bottleneck that would be none."""
    options = adapter.options
    assert isinstance(options, BottleneckOptions)  # as the table below says
    config = configurations.bottleneck(adapter)
    adapted = {name: module for name, module in base.named_modules() if check_target_module_exists(config, name)}
    for target in options.target_modules:
        if not any(f".{name}".endswith(f".{target}") for name in adapted):
            left_out = "of the attention, which placement pfeiffer leaves out: take houlsby; or of no layer in layers"
            raise ValueError(f"no module {target} is adapted: the base has none, or it is {left_out}")
    for name, module in adapted.items():
        if options.bottleneck_dim >= (width := width_of(module)):
            raise ValueError(f"bottleneck_dim {options.bottleneck_dim} is no less than the {width} outputs of {name}")


def _prompt_key(name: str) -> str | None:
    return PROMPT_KEY if name == f"{PROMPT_NETWORK}{PEFT_NAME}.embedding.weight" else None


def _network_key(name: str) -> str | None:
    start, _, rest = name.partition(f"{PEFT_NAME}.")
    return f"{PROMPT_NETWORK}{rest}" if start == PROMPT_NETWORK else None


def _bias_key(name: str) -> str | None:
    return name if name.endswith(".bias") else None


def _seeds_key(name: str) -> str | None:
    return name if name == SEEDS_KEY else None


def _no_key(_name: str) -> str | None:
    return None


_KINDS: Final[dict[str, AdapterKind]] = {
    "LORA": AdapterKind(configurations.lora, _lora_key),
    "LORA_CORE": AdapterKind(configurations.core, _within_layers("lora_A", "lora_B"), _put_cores),
    "LORA_HEADS": AdapterKind(configurations.heads, _within_layers("lora_A", "lora_B"), _put_heads),
    "ADALORA": AdapterKind(configurations.adalora, _within_layers("lora_A", "lora_B", "lora_E")),
    "VERA": AdapterKind(configurations.vera, _vera_key, buffers=True),
    "LOKR": AdapterKind(
        configurations.lokr, _within_layers("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
    ),
    "LOHA": AdapterKind(configurations.loha, _within_layers("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
    "OFT": AdapterKind(configurations.oft, _within_layers("oft_R"), _require_blocks),
    "IA3": AdapterKind(configurations.ia3, _within_layers("ia3_l")),
    "LN_TUNING": AdapterKind(configurations.norms, _within_layers("ln_tuning_layers"), _require_norms),
    "BOTTLENECK": AdapterKind(
        configurations.bottleneck, _within_layers("bottleneck_down", "bottleneck_up"), require=_require_outputs
    ),
    "PROMPT_TUNING": AdapterKind(configurations.prompt, _prompt_key),
    "PREFIX_TUNING": AdapterKind(configurations.prefix, _prompt_key),
    "P_TUNING": AdapterKind(configurations.prompt_network, _network_key),
    "BIAS": AdapterKind(configurations.in_place("all"), _bias_key),
    "WHOLE": AdapterKind(configurations.in_place(), _no_key),
    "SEEDS": AdapterKind(configurations.in_place(), _seeds_key, _put_seeds),
    "HEAD": AdapterKind(configurations.in_place(), _no_key),
}
