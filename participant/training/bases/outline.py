"""What a base is made of, read from its configuration alone: no weight is loaded.

Guarantees: nothing of the folder is run; modules are those of the class that a task would load.
Leaves to others: whether the base runs (``checks``), which of its modules a recipe takes (``authoring.filling``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import transformers
from transformers.pytorch_utils import Conv1D

from participant.training.bases.files import ONE_AT_A_TIME
from privacy.errors import LocalError

_NUMBERED: Final = re.compile(r".*?\.[^.]*\.(\d+)\.")  # as PEFT 0.21 reads a layer's number in a module's name


@dataclass(frozen=True, slots=True)
class Outline:
    """Modules of a base.

    Attributes:
        linear: last parts of the names of its linear modules.
        paths: the whole names of them.
        heads: modules with weights beside the foundation model itself, at the top level.
    """

    linear: frozenset[str]
    paths: frozenset[str]
    heads: tuple[str, ...]

    def layers(self, targets: tuple[str, ...]) -> tuple[int, ...]:
        """Return the numbers by which PEFT tells layers with such modules apart; none if one of them has no number."""
        behind = [path for path in self.paths if any(f".{path}".endswith(f".{target}") for target in targets)]
        found = [_NUMBERED.match(path) for path in behind]
        numbers = [int(match[1]) for match in found if match]
        return tuple(sorted(set(numbers))) if len(numbers) == len(found) else ()


def outline(folder: Path, loader: str) -> Outline:
    """Return the modules of a base, as a class of transformers makes it.

    Raises:
        LocalError: ``E-MODEL-LOAD``, the class has no such model.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        with ONE_AT_A_TIME, torch.device("meta"):
            model = getattr(transformers, loader).from_config(config, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  no list of what transformers raises is complete; a base is nobody's data
        words = (str(error).splitlines() or [""])[0]
        raise LocalError("E-MODEL-LOAD", f"{folder.name}: {type(error).__name__}: {words}") from None
    paths = frozenset(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D))
    linear = frozenset(name.rpartition(".")[2] for name in paths)
    sizes = {name: sum(part.numel() for part in module.parameters()) for name, module in model.named_children()}
    foundation = model.base_model_prefix if model.base_model_prefix in sizes else max(sizes, key=sizes.__getitem__)
    heads = tuple(name for name, size in sizes.items() if name != foundation and size)
    return Outline(linear, paths, heads)
