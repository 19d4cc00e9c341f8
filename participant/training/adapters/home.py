"""A second LoRA that stays with its participant: put beside the plan's, and switched on where it trains.

Guarantees: unless it is switched on, the model computes as if it were not there.
Leaves to others: which tensors are which (``kinds``), what is made of both (``methods.second_lora``).
Source: PEFT 0.21 ``tuners/lora/layer.py``; Bian et al., arXiv:2503.11880, for the mixer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from methods.method import Home
from methods.selectors import HOME_NAME
from participant.training.adapters.principal import ADAPTER, lora_layers

MIXER: Final = "lora_mixer"
_ACTIVE: Final[dict[Home, tuple[str, ...]]] = {"beside": (ADAPTER, HOME_NAME), "alone": (HOME_NAME,)}


def put_second(model: PeftModel, home: Home) -> None:
    """Put a second LoRA beside the first, which starts where that does, and a mixer of both if there is one.

    Args:
        model: with one LoRA.
        home: of the method.
    """
    config = copy.copy(model.peft_config[ADAPTER])
    vars(config)["modules_to_save"] = None  # there is one head
    model.add_adapter(HOME_NAME, config)
    for layer in lora_layers(model):
        with torch.no_grad():
            for factor in ("lora_A", "lora_B"):
                first = layer.get_parameter(f"{factor}.{ADAPTER}.weight")
                layer.get_parameter(f"{factor}.{HOME_NAME}.weight").copy_(first)
        if home == "mixed":
            first = layer.get_parameter(f"lora_A.{ADAPTER}.weight")
            mixer = nn.Linear(first.shape[1], 2, device=first.device)
            nn.init.zeros_(mixer.weight)
            nn.init.zeros_(mixer.bias)
            layer.add_module(MIXER, nn.ModuleDict({HOME_NAME: mixer}))


@contextmanager
def at_home(model: PeftModel, home: Home) -> Iterator[None]:
    """Switch the second LoRA on, as the method says."""
    layers = list(lora_layers(model))
    try:
        for layer in layers:
            if home == "mixed":
                vars(layer)["forward"] = partial(_mixed, layer)
            else:
                vars(layer)["_active_adapter"] = list(_ACTIVE[home])
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
            vars(layer)["_active_adapter"] = [ADAPTER]


def _mixed(layer: LoraLinear, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return what a layer gives with both LoRAs, one's own first, weighed by a softmax for each token."""
    narrow = inputs.to(layer.get_parameter(f"lora_A.{ADAPTER}.weight").dtype)
    weights = torch.softmax(layer.get_submodule(MIXER)[HOME_NAME](narrow), dim=-1)  # type: ignore[index]  # a ModuleDict
    found: Tensor = layer.base_layer(inputs, *args, **kwargs)
    for place, name in enumerate((HOME_NAME, ADAPTER)):
        added = layer.lora_B[name](layer.lora_A[name](narrow)) * layer.scaling[name]
        found = found + weights[..., place : place + 1] * added
    return found
