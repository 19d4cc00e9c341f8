"""PEFT's configuration of each PEFT type, from the options that a plan has.

Guarantees: dropout is always 0, and what PEFT would decide by itself is said where it matters.
Leaves to others: which parameter is which tensor (``kinds``), which method fixes which setting (``methods``).
Source: PEFT 0.21.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
    VeraConfig,
)
from peft.utils.constants import DUMMY_TARGET_MODULES

import methods
from participant.training.tuners.bottleneck import BottleneckConfig
from privacy.adapter_options import (
    AdaLoraOptions,
    BottleneckOptions,
    CoreOptions,
    HeadsOptions,
    Ia3Options,
    LohaOptions,
    LokrOptions,
    LoraOptions,
    NormOptions,
    OftOptions,
    PrefixOptions,
    PromptEncoderOptions,
    PromptOptions,
    SeedsOptions,
    VeraOptions,
    WholeOptions,
)
from privacy.adapter_parts import Adapter
from privacy.errors import LocalError

SAVED_WHOLE: Final = "modules_to_save"
OF_ATTENTION: Final = r"(?i)(.*\.)?[^.]*(attn|attention)[^.]*\..*"  # names of modules within an attention


def lora(adapter: Adapter) -> PeftConfig:
    """Return the configuration of LoRA, with the settings that the method fixes."""
    options = _options(adapter, LoraOptions)
    return LoraConfig(
        **_sized(adapter, options),
        lora_dropout=0.0,
        layers_to_transform=list(options.layers) or None,
        bias="none",
        **methods.get(adapter.method).settings,
    )


def core(adapter: Adapter) -> PeftConfig:
    """Return the configuration of LoRA, whose core is put in later."""
    options = _options(adapter, CoreOptions)
    layers = list(options.layers) or None
    return LoraConfig(**_sized(adapter, options), lora_dropout=0.0, layers_to_transform=layers, bias="none")


def heads(adapter: Adapter) -> PeftConfig:
    """Return the configuration of a LoRA of all heads together, whose cores are put in later."""
    options = _options(adapter, HeadsOptions)
    sized = {**_sized(adapter, options), "r": options.heads * options.rank}
    return LoraConfig(**sized, lora_dropout=0.0, layers_to_transform=list(options.layers) or None, bias="none")


def adalora(adapter: Adapter) -> PeftConfig:
    """Return the configuration of AdaLoRA."""
    options = _options(adapter, AdaLoraOptions)
    sized = _sized(adapter, options)
    first = sized.pop("r")
    # PEFT's own schedule is never asked: the coordinator has the budget.
    return AdaLoraConfig(**sized, init_r=first, target_r=options.target_rank, lora_dropout=0.0, total_step=1)


def vera(adapter: Adapter) -> PeftConfig:
    """Return the configuration of VeRA."""
    options = _options(adapter, VeraOptions)
    return VeraConfig(r=options.rank, **_placed(adapter, options), vera_dropout=0.0, save_projection=True)


def lokr(adapter: Adapter) -> PeftConfig:
    """Return the configuration of LoKr."""
    return LoKrConfig(**_sized(adapter, _options(adapter, LokrOptions), "alpha"))


def loha(adapter: Adapter) -> PeftConfig:
    """Return the configuration of LoHa."""
    return LoHaConfig(**_sized(adapter, _options(adapter, LohaOptions), "alpha"))


def oft(adapter: Adapter) -> PeftConfig:
    """Return the configuration of OFT."""
    options = _options(adapter, OftOptions)
    return OFTConfig(r=0, oft_block_size=options.block_size, **_placed(adapter, options))


def norms(adapter: Adapter) -> PeftConfig:
    """Return the configuration of LN-tuning."""
    return LNTuningConfig(**_placed(adapter, _options(adapter, NormOptions)))


def bottleneck(adapter: Adapter) -> PeftConfig:
    """Return the configuration of bottleneck adapters."""
    options = _options(adapter, BottleneckOptions)
    return BottleneckConfig(
        bottleneck_dim=options.bottleneck_dim,
        non_linearity=options.non_linearity,
        exclude_modules=OF_ATTENTION if options.placement == "pfeiffer" else None,
        layers_to_transform=list(options.layers) or None,
        **_placed(adapter, options),
    )


def ia3(adapter: Adapter) -> PeftConfig:
    """Return the configuration of IA3."""
    options = _options(adapter, Ia3Options)
    return IA3Config(
        target_modules=[*options.target_modules, *options.feedforward_modules],
        feedforward_modules=list(options.feedforward_modules),
        modules_to_save=list(adapter.head_modules) or None,
    )


def in_place(bias: Any = "none") -> Callable[[Adapter], PeftConfig]:
    """Return PEFT's configuration of what lies beside no module: a LoRA without targets."""

    def config(adapter: Adapter) -> PeftConfig:
        saved = list(whole_modules(adapter)) or None
        return LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=saved, lora_dropout=0.0, bias=bias)

    return config


def whole_modules(adapter: Adapter) -> tuple[str, ...]:
    """Return the modules that travel whole, or move along public directions: the head, and what stands for them."""
    options = adapter.options
    whole = options.target_modules if isinstance(options, WholeOptions | SeedsOptions) else ()
    return (*adapter.head_modules, *whole)


def prompt(adapter: Adapter) -> PeftConfig:
    """Return the configuration of prompt tuning."""
    tokens = _options(adapter, PromptOptions).tokens
    return PromptTuningConfig(num_virtual_tokens=tokens, prompt_tuning_init=PromptTuningInit.RANDOM)


def prefix(adapter: Adapter) -> PeftConfig:
    """Return the configuration of prefix tuning."""
    tokens = _options(adapter, PrefixOptions).tokens
    return PrefixTuningConfig(num_virtual_tokens=tokens)


def prompt_network(adapter: Adapter) -> PeftConfig:
    """Return the configuration of p-tuning."""
    options = _options(adapter, PromptEncoderOptions)
    return PromptEncoderConfig(num_virtual_tokens=options.tokens, encoder_hidden_size=options.hidden_size)


def _sized(adapter: Adapter, options: Any, alpha_name: str = "lora_alpha") -> dict[str, Any]:
    """Return PEFT's arguments of types with a rank and a scale."""
    alpha = float(options.alpha)
    alpha = int(alpha) if alpha.is_integer() else alpha  # PEFT's files have an integer where it is one
    return {"r": options.rank, alpha_name: alpha, **_placed(adapter, options)}


def _placed(adapter: Adapter, options: Any) -> dict[str, Any]:
    """Return PEFT's arguments of types that lie beside modules."""
    return {"target_modules": list(options.target_modules), SAVED_WHOLE: list(adapter.head_modules) or None}


def _options(adapter: Adapter, kind: type[Any]) -> Any:
    if not isinstance(adapter.options, kind):
        raise LocalError("E-BUG", f"options of {adapter.options.peft_type} came to {kind.__name__}")
    return adapter.options
