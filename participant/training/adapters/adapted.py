"""A base model with its adapter, as the plan describes both: the only way a vector gets into torch and back.

Guarantees: exactly the tensors of the plan's streams train, the others are frozen; keys and shapes are the manifest's
or the adapter is refused; the model is in evaluation mode throughout, so nothing drops out and no statistic of a batch
is taken. Device first, adapter second, differential privacy last. What trains computes in float32, also where the
frozen base computes in bfloat16.
Leaves to others: loading the base (``participant.training.models``), gradients (``gradients``).
Source: PEFT 0.21 ``utils/save_and_load.py`` for the names in files.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from methods.method import FROZEN, split, trained_tensors
from participant.training.trainer import Precision
from privacy.draft import Adapter, Recipe
from privacy.errors import LocalError

PEFT_NAME: Final = "default"  # how PEFT names the one adapter within the model
ADAPTER_FILE: Final = "adapter_model.safetensors"  # names that PeftModel.from_pretrained looks for
CONFIG_FILE: Final = "adapter_config.json"

Tensors = Mapping[str, NDArray[Any]]


def lora_config(adapter: Adapter) -> LoraConfig:
    """Return PEFT's configuration of a plan's adapter; dropout is always 0."""
    alpha = float(adapter.alpha)
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]  # it only divides
        lora_dropout=0.0,
        target_modules=list(adapter.target_modules),
        modules_to_save=list(adapter.head_modules) or None,
        layers_to_transform=list(adapter.layers) or None,
        bias="none",
    )


def config_json(model: PeftModel, base_name: str) -> str:
    """Return ``adapter_config.json`` for a wrapped model: the same bytes on every machine, and no local path."""
    values = model.peft_config[PEFT_NAME].to_dict()
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    values.update(base_model_name_or_path=base_name, inference_mode=True)
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def wrap(model: torch.nn.Module, config: LoraConfig) -> PeftModel:
    """Put a fresh adapter around a base model.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, the base has no such modules.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a name that it deprecates
            return get_peft_model(model, config).eval()
    except ValueError as error:
        raise LocalError("E-CONFIG-INVALID", f"adapter: {str(error).splitlines()[0]}") from None


def named_tensors(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """Return the adapter's parameters under their keys in PEFT's file format."""
    found = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if PEFT_NAME not in parts or not {"lora_A", "lora_B", "modules_to_save"} & set(parts):
            continue
        found[".".join(part for part in parts if part not in {PEFT_NAME, "modules_to_save"})] = parameter
    return found


def read_initial(path: Path, adapter: Adapter) -> dict[str, NDArray[Any]]:
    """Return the tensors of the initial adapter, after its hash was compared with the plan's.

    Raises:
        LocalError: ``E-ADAPTER-HASH``, another file than the plan's, or none.
    """
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == adapter.initial_hash:
            return dict(load_safetensors(data))
    except (OSError, SafetensorError) as error:
        raise LocalError("E-ADAPTER-HASH", f"{path.name}: {type(error).__name__}") from None
    raise LocalError("E-ADAPTER-HASH", path.name)


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A base with its adapter.

    Attributes:
        model: both.
        recipe: of the plan.
        trained: the trained parameters in the order of the vector.
        device: where they are.
        precision: of the frozen base's products.
    """

    model: PeftModel
    recipe: Recipe
    trained: tuple[torch.nn.Parameter, ...]
    device: torch.device
    precision: Precision = "float32"

    @classmethod
    def attach(
        cls,
        base: torch.nn.Module,
        recipe: Recipe,
        initial: Tensors,
        device: torch.device,
        *,
        precision: Precision = "float32",
    ) -> AdaptedModel:
        """Move a base to its device, put the plan's adapter around it and load the initial tensors.

        Raises:
            LocalError: ``E-CONFIG-INVALID`` or ``E-PLAN-RULE``: the base has no such modules, or the adapter's tensors
                are not the manifest's.
        """
        model = wrap(base.to(device), lora_config(recipe.adapter))
        here = named_tensors(model)
        wanted = {tensor.key: tensor for tensor in recipe.adapter.tensors}
        if here.keys() != wanted.keys():
            odd = min(here.keys() ^ wanted.keys())
            raise LocalError("E-PLAN-RULE", f"the adapter's tensors are not the manifest's: {odd}")
        for key, tensor in wanted.items():
            found = initial.get(key)
            if found is None or not found.shape == tensor.shape == tuple(here[key].shape):
                raise LocalError("E-PLAN-RULE", f"{key} is not of shape {tensor.shape}")
            here[key].data.copy_(torch.from_numpy(found.astype(np.float32)))
            here[key].requires_grad_(tensor.stream != FROZEN)
        trained = tuple(here[tensor.key] for tensor in trained_tensors(recipe))
        if precision != "float32":
            for module in _owners(model, trained):
                _keep_wide(module, device)
        return cls(model, recipe, trained, device, precision)

    def load(self, vector: NDArray[np.float32]) -> None:
        """Put a global adapter, shape (entries,), into the model."""
        values = split(self.recipe, vector)
        with torch.no_grad():
            for tensor, parameter in zip(trained_tensors(self.recipe), self.trained, strict=True):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[tensor.key])))

    def vector(self) -> NDArray[np.float32]:
        """Return the trained entries, shape (entries,), stream by stream in the manifest's order, row-major."""
        return np.concatenate([one.detach().cpu().numpy().reshape(-1) for one in self.trained])

    def logits(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the model's answers, shape (batch, labels)."""
        with self.computing():
            found: torch.Tensor = self.model(**inputs).logits
        return found

    def computing(self) -> AbstractContextManager[object]:
        """Return the context in which the model runs forward: the frozen base in its precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


def _owners(model: torch.nn.Module, trained: tuple[torch.nn.Parameter, ...]) -> list[torch.nn.Module]:
    """Return the modules that compute with a trained tensor; lists and dictionaries of tensors compute nothing."""
    wanted = {id(one) for one in trained}

    def owns(module: torch.nn.Module) -> bool:
        holders = [one for one in module.children() if isinstance(one, torch.nn.ParameterDict | torch.nn.ParameterList)]
        return any(id(one) in wanted for holder in (module, *holders) for one in holder.parameters(recurse=False))

    kinds = (torch.nn.ParameterDict, torch.nn.ParameterList)
    return [module for module in model.modules() if not isinstance(module, kinds) and owns(module)]


def _keep_wide(module: torch.nn.Module, device: torch.device) -> None:
    """Let a module compute in float32 whatever goes on around it."""
    narrow: Callable[..., Any] = module.forward

    def wide(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, enabled=False):
            return narrow(*(_wide(one) for one in args), **{name: _wide(one) for name, one in kwargs.items()})

    module.forward = wide


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
