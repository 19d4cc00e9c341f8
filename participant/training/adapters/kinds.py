"""One table realises each PEFT type: its configuration, and which parameter of the model is which tensor of its file.

Guarantees: dropout is always 0; a parameter is the adapter's under exactly one key, or is none of the adapter's.
Leaves to others: what becomes of a tensor (``methods``), loading it (``adapted``).
Source: PEFT 0.21 ``utils/save_and_load.py`` for the keys of files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from peft import IA3Config, LoraConfig, PeftConfig, PromptTuningConfig, PromptTuningInit, TaskType

from privacy.adapter_parts import Adapter, Ia3Options, LoraOptions, PromptOptions
from privacy.errors import LocalError

PEFT_NAME: Final = "default"  # how PEFT names the one adapter within the model
SAVED_WHOLE: Final = "modules_to_save"


@dataclass(frozen=True, slots=True)
class AdapterKind:
    """How torch sees a PEFT type.

    Attributes:
        config: returns PEFT's configuration of a plan's adapter.
        key: returns the key in PEFT's file of a parameter that is no head, by its name in the model; or ``None``.
    """

    config: Callable[[Adapter], PeftConfig]
    key: Callable[[str], str | None]


def configuration(adapter: Adapter) -> PeftConfig:
    """Return PEFT's configuration of a plan's adapter."""
    return _KINDS[adapter.options.peft_type].config(adapter)


def file_key(adapter: Adapter, parameter: str) -> str | None:
    """Return the key in PEFT's file of a parameter, by its name in the model; ``None``: it is not the adapter's."""
    parts = parameter.split(".")
    if SAVED_WHOLE in parts and PEFT_NAME in parts:
        return ".".join(part for part in parts if part not in {PEFT_NAME, SAVED_WHOLE})
    return _KINDS[adapter.options.peft_type].key(parameter)


def _within_layers(*names: str) -> Callable[[str], str | None]:
    """Return the rule of types whose tensors lie beside the layers that they adapt, named after the adapter."""

    def key(parameter: str) -> str | None:
        parts = parameter.split(".")
        if PEFT_NAME not in parts or not set(names) & set(parts):
            return None
        return ".".join(part for part in parts if part != PEFT_NAME)

    return key


def _lora(adapter: Adapter) -> PeftConfig:
    options = _options(adapter, LoraOptions)
    alpha = float(options.alpha)
    return LoraConfig(
        r=options.rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]  # it only divides
        lora_dropout=0.0,
        target_modules=list(options.target_modules),
        modules_to_save=list(adapter.head_modules) or None,
        layers_to_transform=list(options.layers) or None,
        bias="none",
    )


def _ia3(adapter: Adapter) -> PeftConfig:
    options = _options(adapter, Ia3Options)
    return IA3Config(
        target_modules=[*options.target_modules, *options.feedforward_modules],
        feedforward_modules=list(options.feedforward_modules),
        modules_to_save=list(adapter.head_modules) or None,
    )


def _prompt(adapter: Adapter) -> PeftConfig:
    options = _options(adapter, PromptOptions)
    return PromptTuningConfig(
        task_type=TaskType.SEQ_CLS,
        num_virtual_tokens=options.tokens,
        prompt_tuning_init=PromptTuningInit.RANDOM,
    )


def _prompt_key(parameter: str) -> str | None:
    return "prompt_embeddings" if parameter == f"prompt_encoder.{PEFT_NAME}.embedding.weight" else None


def _options(adapter: Adapter, kind: type[Any]) -> Any:
    if not isinstance(adapter.options, kind):
        raise LocalError("E-BUG", f"options of {adapter.options.peft_type} came to {kind.__name__}")
    return adapter.options


_KINDS: Final[dict[str, AdapterKind]] = {
    "LORA": AdapterKind(_lora, _within_layers("lora_A", "lora_B")),
    "IA3": AdapterKind(_ia3, _within_layers("ia3_l")),
    "PROMPT_TUNING": AdapterKind(_prompt, _prompt_key),
}
