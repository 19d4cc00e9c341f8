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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

import methods
from methods.fedkseed import moved_by
from methods.method import Home
from methods.selectors import SEEDS_KEY, VARIATES
from methods.vectors import home_tensors, joined, joined_home, local_tensors, split, state_tensors
from participant.training.adapters.kinds import PEFT_NAME, candidates, file_key, settle, wrapped
from participant.training.adapters.switched import at_home
from participant.training.tasks.kinds import work_of
from participant.training.tasks.work import TaskWork
from participant.training.trainer import Precision
from privacy.adapter_parts import Adapter, Role, Tensor, Turn
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
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # of GPT-2's layers, which PEFT then sets right
            return wrapped(model, adapter).eval()
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        # PEFT's: no such modules, or not of such a kind; torch's: no memory for it
        hint = "" if isinstance(error, ValueError) else "; take other target_modules, or another method"
        hint = "; take a smaller adapter" if type(error) is RuntimeError else hint
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
class MovedTensor:
    """A tensor of the base that moves along the directions.

    Attributes:
        key: in the adapter's file.
        name: in the model.
        parameter: of the model.
        start: its value before any move.
    """

    key: str
    name: str
    parameter: torch.nn.Parameter
    start: torch.Tensor


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A base with its adapter.

    Attributes:
        model: both.
        recipe: of the plan.
        placed: the parameters that travel down, then those that stay at home, in the order of the vectors.
        at_start: of those that stay at home, where everybody's start, by key.
        own: the base's own values of weights of which the state says by how much they move, by key.
        moved: tensors of the base that move along public directions by the scalars of the state.
        trained: those that train in the turn at hand, in the order of the vector that is summed.
        device: where they are.
        precision: of the frozen base's products.
        around: entered for each forward pass: it switches on what stays at home, where that is used.
    """

    model: PeftModel
    recipe: Recipe
    placed: tuple[tuple[Tensor, torch.nn.Parameter], ...]
    at_start: Tensors
    own: Mapping[str, torch.Tensor]
    moved: tuple[MovedTensor, ...]
    trained: tuple[torch.nn.Parameter, ...]
    device: torch.device
    precision: Precision = "float32"
    around: Callable[[], AbstractContextManager[None]] = nullcontext

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
        expected = {tensor.key: tensor for tensor in recipe.adapter.tensors if not tensor.key.startswith(VARIATES)}
        if tensors.keys() != expected.keys():
            odd = min(tensors.keys() ^ expected.keys())
            raise LocalError("E-PLAN-RULE", f"the adapter's tensors are not the manifest's: {odd}")
        for key, tensor in expected.items():
            value = initial.get(key)
            if value is None or not value.shape == tensor.shape == tuple(tensors[key].shape):
                raise LocalError("E-PLAN-RULE", f"{key} is not of shape {tensor.shape}")
            # Not copied into what is there, which has the base's type; of the base's own tensors nothing is loaded.
            mine = torch.from_numpy(value.astype(np.float32)) if tensor.part == "adapter" else tensors[key].data.float()
            tensors[key].data = mine.to(tensors[key].device)
        settle(model, recipe.adapter)
        parameters = {id(parameter): parameter for parameter in model.parameters()}
        home = home_tensors(recipe)
        placed = tuple(
            (tensor, parameters[id(tensors[tensor.key])])
            for tensor in (*state_tensors(recipe), *home)
            if tensor.key in tensors
        )
        if precision != "float32":
            for module in _owners(model, tuple(parameter for _, parameter in placed)):
                _keep_wide(module, device)
        at_start = {tensor.key: initial[tensor.key] for tensor in home}
        own = {tensor.key: parameter.detach().clone() for tensor, parameter in placed if tensor.part == "base"}
        moved = tuple(_moved(model, recipe.adapter, tensors)) if SEEDS_KEY in tensors else ()
        return (
            cls(model, recipe, placed, at_start, own, moved, (), device, precision)
            .in_turn(recipe.turn(1))
            .as_released()
        )

    def in_turn(self, turn: Turn) -> AdaptedModel:
        """Return the same model in which the tensors of a turn train, and no others."""
        home = methods.get(self.recipe.adapter.method).home
        return self._training(local_tensors(self.recipe, turn), home if home == "mixed" else "")

    def at_home(self, home: Home = "") -> AdaptedModel:
        """Return the same model in which what stays at home trains by itself, and no other tensor.

        Args:
            home: how it is switched on; by default as the method says.
        """
        return self._training(home_tensors(self.recipe), home or methods.get(self.recipe.adapter.method).home)

    def as_released(self) -> AdaptedModel:
        """Return the same model without what stays at home: as whoever gets the released adapter has it."""
        return replace(self, around=nullcontext)

    def _training(self, tensors: Sequence[Tensor], home: Home) -> AdaptedModel:
        keys = {tensor.key for tensor in tensors}
        self.model.requires_grad_(False)
        chosen = tuple(parameter for tensor, parameter in self.placed if tensor.key in keys)
        for parameter in chosen:
            parameter.requires_grad_(True)
        return replace(self, trained=chosen, around=partial(at_home, self.model, home) if home else nullcontext)

    @property
    def entries(self) -> int:
        """Number of entries that train in the turn at hand."""
        return sum(parameter.numel() for parameter in self.trained)

    def load(self, vector: NDArray[np.float32]) -> None:
        """Put a state into the model, and what stays at home if it follows; otherwise that is as at the start.

        Args:
            vector: shape (state entries,), or longer by what stays at home.
        """
        values = {**self.at_start, **split(self.recipe, vector)}
        with torch.no_grad():
            for tensor, parameter in self.placed:
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(values[tensor.key])))
                if tensor.key in self.own:
                    parameter.add_(self.own[tensor.key])
            for one in self.moved:
                added = moved_by(self.recipe.adapter, values[SEEDS_KEY], one.key, tuple(one.start.shape))
                one.parameter.copy_(one.start + torch.from_numpy(added).to(self.device))

    def vector(self) -> NDArray[np.float32]:
        """Return the state in the model, shape (state entries,), and behind it what stays at home."""
        tensors = {tensor.key: np.zeros(tensor.shape) for tensor in state_tensors(self.recipe)}  # not all are its own
        for tensor, parameter in self.placed:
            value = parameter.detach()
            tensors[tensor.key] = (value - self.own[tensor.key] if tensor.key in self.own else value).cpu().numpy()
        return np.concatenate([joined(self.recipe, tensors), joined_home(self.recipe, tensors)])

    def logits(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the model's answers, the examples first; their form is the task's."""
        with self.computing(), self.around():
            return self.work.answers(self.model, inputs)

    @property
    def work(self) -> TaskWork:
        """What is done for the plan's task."""
        return work_of(self.recipe.task)

    def computing(self) -> AbstractContextManager[object]:
        """Return the context in which the model runs forward: the frozen base in its precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


def _moved(model: PeftModel, adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> Iterator[MovedTensor]:
    """Yield the frozen tensors that move along public directions."""
    names = {id(parameter): (name, parameter) for name, parameter in model.named_parameters()}
    for tensor in adapter.tensors:
        if tensor.stream == Role.FROZEN:
            name, parameter = names[id(tensors[tensor.key])]
            yield MovedTensor(tensor.key, name, parameter, parameter.detach().clone())


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
