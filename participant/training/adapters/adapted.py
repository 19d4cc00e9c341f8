"""A base model with its adapter, as the plan describes both: the only way a vector gets into torch and back.

Guarantees: exactly the tensors of a turn train, the others are frozen; keys and shapes are the manifest's
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

import methods
from methods.vectors import joined, split, state_tensors, trained_tensors
from participant.training.adapters.kinds import PEFT_NAME, candidates, file_key, settle, wrapped
from participant.training.trainer import Precision
from privacy.adapter_parts import Adapter, Turn
from privacy.draft import Recipe
from privacy.errors import LocalError

ADAPTER_FILE: Final = "adapter_model.safetensors"  # names that PeftModel.from_pretrained looks for
CONFIG_FILE: Final = "adapter_config.json"

Tensors = Mapping[str, NDArray[Any]]


def config_json(model: PeftModel, adapter: Adapter, base_name: str) -> str:
    """Return ``adapter_config.json`` of what a model publishes: the same bytes on every machine, and no local path."""
    values = model.peft_config[PEFT_NAME].to_dict()
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    values.update(methods.get(adapter.method).published_options(adapter))
    values.update(base_model_name_or_path=base_name, inference_mode=True)
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def wrap(model: torch.nn.Module, adapter: Adapter) -> PeftModel:
    """Put a fresh adapter, as a plan describes it, around a base model.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, the base has no such modules.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a name that it deprecates
            return wrapped(model, adapter).eval()
    except (ValueError, TypeError, NotImplementedError) as error:  # PEFT's: no such modules, or not of such a kind
        hint = "" if isinstance(error, ValueError) else "; take other target_modules, or another method"
        raise LocalError("E-CONFIG-INVALID", f"adapter: {str(error).splitlines()[0].rstrip('.')}{hint}") from None


def named_tensors(model: PeftModel, adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under their keys in PEFT's file format; some that are frozen are no parameters."""
    keys = ((file_key(adapter, name), tensor) for name, tensor in candidates(model, adapter))
    return {key: tensor for key, tensor in keys if key is not None}


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
        state: the parameters that travel down, in the order of the vector.
        trained: those that train in the turn at hand, in the order of the vector that is summed.
        device: where they are.
        precision: of the frozen base's products.
    """

    model: PeftModel
    recipe: Recipe
    state: tuple[torch.nn.Parameter, ...]
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
        model = wrap(base.to(device), recipe.adapter)
        tensors = named_tensors(model, recipe.adapter)
        expected = {tensor.key: tensor for tensor in recipe.adapter.tensors}
        if tensors.keys() != expected.keys():
            odd = min(tensors.keys() ^ expected.keys())
            raise LocalError("E-PLAN-RULE", f"the adapter's tensors are not the manifest's: {odd}")
        for key, tensor in expected.items():
            value = initial.get(key)
            if value is None or not value.shape == tensor.shape == tuple(tensors[key].shape):
                raise LocalError("E-PLAN-RULE", f"{key} is not of shape {tensor.shape}")
            # Not copied into what is there, which has the base's type.
            tensors[key].data = torch.from_numpy(value.astype(np.float32)).to(tensors[key].device)
        settle(model, recipe.adapter)
        parameters = {id(parameter): parameter for parameter in model.parameters()}
        state = tuple(parameters[id(tensors[tensor.key])] for tensor in state_tensors(recipe))
        if precision != "float32":
            for module in _owners(model, state):
                _keep_wide(module, device)
        adapted = cls(model, recipe, state, state, device, precision)
        return adapted.in_turn(recipe.turn(1))

    def in_turn(self, turn: Turn) -> AdaptedModel:
        """Return the same model in which the tensors of a turn train, and no others."""
        trained = {tensor.key for tensor in trained_tensors(self.recipe, turn)}
        parameters = zip(state_tensors(self.recipe), self.state, strict=True)
        self.model.requires_grad_(False)
        chosen = tuple(parameter for tensor, parameter in parameters if tensor.key in trained)
        for parameter in chosen:
            parameter.requires_grad_(True)
        return replace(self, trained=chosen)

    @property
    def entries(self) -> int:
        """Number of entries that train in the turn at hand."""
        return sum(parameter.numel() for parameter in self.trained)

    def load(self, vector: NDArray[np.float32]) -> None:
        """Put a global adapter, shape (state entries,), into the model."""
        values = split(self.recipe, vector)
        with torch.no_grad():
            for tensor, parameter in zip(state_tensors(self.recipe), self.state, strict=True):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[tensor.key])))

    def vector(self) -> NDArray[np.float32]:
        """Return the global adapter in the model, shape (state entries,); the inverse of :meth:`load`."""
        values = zip(state_tensors(self.recipe), self.state, strict=True)
        return joined(self.recipe, {tensor.key: parameter.detach().cpu().numpy() for tensor, parameter in values})

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
        holders = [
            child for child in module.children() if isinstance(child, torch.nn.ParameterDict | torch.nn.ParameterList)
        ]
        return any(
            id(parameter) in wanted for holder in (module, *holders) for parameter in holder.parameters(recurse=False)
        )

    kinds = (torch.nn.ParameterDict, torch.nn.ParameterList)
    return [module for module in model.modules() if not isinstance(module, kinds) and owns(module)]


def _keep_wide(module: torch.nn.Module, device: torch.device) -> None:
    """Let a module compute in float32 whatever goes on around it."""
    narrow: Callable[..., Any] = module.forward

    def wide(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, enabled=False):
            return narrow(*(_wide(arg) for arg in args), **{name: _wide(one) for name, one in kwargs.items()})

    module.forward = wide


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
