"""What a base is made of, read from its configuration alone: no weight is loaded.

Guarantees: nothing of the folder is run; modules are those of the class that a task would load.
Leaves to others: whether the base runs (``checks``), which of its modules a recipe takes (``authoring.filling``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers.pytorch_utils import Conv1D

from privacy.errors import LocalError


@dataclass(frozen=True, slots=True)
class Outline:
    """Modules of a base.

    Attributes:
        linear: last parts of the names of its linear modules.
        paths: the whole names of them.
        heads: modules with weights beside the foundation model itself, at the top level.
        layers: how many it has; 0 where its configuration does not say.
    """

    linear: frozenset[str]
    paths: frozenset[str]
    heads: tuple[str, ...]
    layers: int


def outline(folder: Path, loader: str) -> Outline:
    """Return the modules of a base, as a class of transformers makes it.

    Raises:
        LocalError: ``E-MODEL-LOAD``, the class has no such model.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = getattr(transformers, loader).from_config(config, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  no list of what transformers raises is complete; a base is nobody's data
        words = (str(error).splitlines() or [""])[0]
        raise LocalError("E-MODEL-LOAD", f"{folder.name}: {type(error).__name__}: {words}") from None
    paths = frozenset(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D))
    linear = frozenset(name.rpartition(".")[2] for name in paths)
    heads = tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    )
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    return Outline(linear, paths, heads, layers if isinstance(layers, int) else 0)
