"""Parts of a model that are switched for a while: a second LoRA that stays at home, and layers that are left out.

Guarantees: outside of the blocks that switch them the model computes as if neither were there, also after an error; a
layer that is left out passes on what it is given and is not computed, and its trained tensors are known to have no
gradient.
Leaves to others: which tensors are which (``kinds``), what is made of both LoRAs (``methods.second_lora``), which
layers (``methods.coin``), and that no gradient of theirs goes up.
Source: PEFT 0.21 ``tuners/lora/layer.py``; Bian et al., arXiv:2503.11880, for the mixer; docs/methods.md.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from methods.method import Home
from methods.selectors import HOME_NAME

ADAPTER: Final = "default"  # PEFT's name of the plan's own adapter
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
    for layer in _loras(model):
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
    layers = list(_loras(model))
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


def _loras(model: nn.Module) -> Iterator[LoraLinear]:
    return (module for module in model.modules() if isinstance(module, LoraLinear))


def _mixed(layer: LoraLinear, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return what a layer gives with both LoRAs, one's own first, weighed by a softmax for each token."""
    narrow = inputs.to(layer.get_parameter(f"lora_A.{ADAPTER}.weight").dtype)
    weights = torch.softmax(layer.get_submodule(MIXER)[HOME_NAME](narrow), dim=-1)  # type: ignore[index]  # a ModuleDict
    found: Tensor = layer.base_layer(inputs, *args, **kwargs)
    for place, name in enumerate((HOME_NAME, ADAPTER)):
        added = layer.lora_B[name](layer.lora_A[name](narrow)) * layer.scaling[name]
        found = found + weights[..., place : place + 1] * added
    return found


# --- layers that are left out ---


def _pass_on(hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    return hidden_states


def blocks_with(model: nn.Module, tensors: Collection[Tensor]) -> list[nn.Module]:
    """Return the members of a model's lists of layers that own some of these tensors; of nested lists the outer's."""
    wanted = {id(tensor) for tensor in tensors}
    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.extend(block for block in child if any(id(one) in wanted for one in block.parameters()))
            else:
                search(child)

    search(model)
    return found


@contextmanager
def left_out(blocks: Collection[nn.Module]) -> Iterator[None]:
    """Leave layers out of every forward pass within."""
    before = [(vars(block), vars(block).get("forward")) for block in blocks]  # run again, it has one of its own
    try:
        for block in blocks:
            vars(block)["forward"] = _pass_on
        yield
    finally:
        for own, forward in before:
            del own["forward"]
            if forward is not None:
                own["forward"] = forward


def absent(model: nn.Module) -> set[int]:
    """Return the tensors, by their identity, of layers that are left out at this moment."""
    skipped = [module for module in model.modules() if vars(module).get("forward") is _pass_on]
    return {id(tensor) for module in skipped for tensor in module.parameters()}
