"""A type of PEFT's that PEFT does not bring: bottleneck adapters, small networks behind linear modules.

What comes out of an adapted module goes down to a few numbers, through a non-linearity, up again, and is added:
y + U f(D y + d) + u. At first U and u are zero, so that an adapted model answers as its base does.

Guarantees: once this module is imported, ``PeftModel.from_pretrained`` loads such an adapter and ``save_pretrained``
writes it, as with PEFT's own types; whatever the base's module computes with stays as it is, packed weights too. It
needs PEFT, torch and transformers, and nothing else of this package.
Leaves to others: what a plan says (``privacy.adapter_options``), per-example gradients (``adapters.taps``).
Source: Houlsby et al., ICML 2019, arXiv:1902.00751; Pfeiffer et al., EACL 2021, arXiv:2005.00247; for the form of a
type PEFT 0.21, ``tuners/ln_tuning`` and ``utils/peft_types.py``. ADR 56 says why it is registered in this way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NoReturn

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

PREFIX: Final = "bottleneck_"  # by which PEFT knows the modules of this type
NOT_MERGED: Final = "a bottleneck adapter is a network that is not linear, and no weight of the base can hold it"
NON_LINEARITIES: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": functional.tanh,
}


class OwnType(str, Enum):  # noqa: UP042  as PEFT's own enumeration: equal to its text, also as a key
    """The type's name, which PEFT's enumeration lacks."""

    BOTTLENECK = "BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):
    """``adapter_config.json`` of bottleneck adapters.

    Attributes:
        bottleneck_dim: numbers between the two projections.
        non_linearity: a key of :data:`NON_LINEARITIES`.
        target_modules: linear modules, by the ends of their names; a text is a regular expression of whole names.
        exclude_modules: those that are left out all the same, likewise.
        layers_to_transform: numbers of the layers that are adapted; all if empty.
        layers_pattern: what the list of layers is called, where that is unclear.
        modules_to_save: modules that train whole.
    """

    bottleneck_dim: int = 8
    non_linearity: str = "gelu"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        """Check the two values of this type.

        Raises:
            ValueError: one of them has no meaning.
        """
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type: Any = OwnType.BOTTLENECK
        if self.bottleneck_dim < 1:
            raise ValueError(f"bottleneck_dim {self.bottleneck_dim}: at least one number passes through a bottleneck")
        if self.non_linearity not in NON_LINEARITIES:
            raise ValueError(f"non_linearity {self.non_linearity}: it is one of {', '.join(NON_LINEARITIES)}")


def width_of(module: nn.Module) -> int:
    """Return how many numbers a module gives for each place.

    Raises:
        ValueError: it is no linear module, so that it may not give the same number each time.
    """
    match module:
        case nn.Linear():
            return module.out_features
        case Conv1D():
            return int(module.nf)
    raise ValueError(f"a bottleneck lies behind a linear module, and a {type(module).__name__} is none")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear module with a small network behind it.

    Args:
        base_layer: the module.
        adapter_name: of the first adapter.
        config: of it.
    """

    adapter_layer_names = (f"{PREFIX}down", f"{PREFIX}up")
    other_param_names = ("non_linearity",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.non_linearity: dict[str, str] = {}
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.put(adapter_name, config)

    def put(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Put a fresh adapter behind the module: D at random as LoRA's A, all else zero."""
        width = width_of(self.get_base_layer())
        down, up = nn.Linear(width, config.bottleneck_dim), nn.Linear(config.bottleneck_dim, width)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        for tensor in (down.bias, up.weight, up.bias):
            nn.init.zeros_(tensor)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.non_linearity[adapter_name] = config.non_linearity
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the module's outputs with what the active adapters add; the adapters compute in their own type."""
        found: Tensor = self.base_layer(*args, **kwargs)
        for name in () if self.disable_adapters else self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                kind = next(down.parameters()).dtype
                narrow = NON_LINEARITIES[self.non_linearity[name]](down(found.to(kind)))
                found = found + up(narrow).to(found.dtype)
        return found

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> NoReturn:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(NOT_MERGED)

    def __repr__(self) -> str:
        return f"bottleneck.{super().__repr__()}"


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters; PEFT makes it."""

    prefix = PREFIX
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  none: a configuration names its modules

    def _create_and_replace(  # noqa: PLR0917  PEFT's own arguments
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, BottleneckConfig)  # of this type's table
        if isinstance(target, BottleneckLayer):
            target.put(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> NoReturn:
        raise ValueError(NOT_MERGED)


def register() -> None:
    """Enter the type where PEFT looks its types up.

    Its own ``register_peft_method`` takes no name that its enumeration lacks, and fills these very dictionaries.

    Raises:
        KeyError: PEFT, or another package, has a type of this name.
    """
    tables: list[tuple[dict[Any, Any], object]] = [
        (PEFT_TYPE_TO_CONFIG_MAPPING, BottleneckConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, BottleneckModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, PREFIX),
    ]
    if any(OwnType.BOTTLENECK in table for table, _ in tables) or PREFIX in PEFT_TYPE_TO_PREFIX_MAPPING.values():
        raise KeyError("PEFT has another type BOTTLENECK; an adapter of this one would be read wrongly")
    for table, value in tables:
        table[OwnType.BOTTLENECK] = value


register()
