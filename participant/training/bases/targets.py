"""Which modules of a base a recipe may adapt: those that are there, and whose factors a plan carries.

Guarantees: every target names a linear module of the base, or is refused with those that it has; PEFT itself is content
if one of several is there.
Leaves to others: what PEFT makes of a target (``adapters``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers.pytorch_utils import Conv1D

from privacy.errors import LocalError


def check_targets(model: torch.nn.Module, targets: Mapping[str, Sequence[str]], head_modules: Sequence[str]) -> None:
    """Compare a recipe's targets with a base's modules.

    Args:
        model: the base.
        targets: names of modules by the key of ``[adapter]`` that has them.
        head_modules: those that travel whole.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, listing the modules that may be adapted.
    """
    modules = [(name, module) for name, module in model.named_modules() if not _in(head_modules, name)]
    leaves = {name.rpartition(".")[2] for name, module in modules if isinstance(module, torch.nn.Linear | Conv1D)}
    linear = sorted(leaves)
    for key, names in targets.items():
        for target in names:
            chosen = [module for name, module in modules if name == target or name.endswith(f".{target}")]
            if not chosen:
                raise _refusal(key, f"the base has no module {target}", linear)
            if any(isinstance(module, torch.nn.Embedding) for module in chosen):
                raise _refusal(key, f"{target} is an embedding, whose factors no plan carries", linear)


def check_untied(model: torch.nn.Module, whole: Sequence[str]) -> None:
    """Refuse modules that would train whole and whose weights another module uses as well: a head tied to embeddings.

    Args:
        model: the base.
        whole: names of modules that travel whole.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, naming both modules.
    """
    users: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})  # a head of a narrow base has weights of its own
    pairs = ([name.rpartition(".")[0] for name in pair] for pair in tied.items())
    for names in (*users.values(), *pairs):
        inside = [name for name in names if _in(whole, name) or any(f"{name}.".endswith(f".{one}.") for one in whole)]
        outside = [name for name in names if name not in inside]
        if inside and outside:
            detail = f"{inside[0]} shares its weights with {outside[0]} (tied); adapt other modules, or save the base"
            raise LocalError("E-CONFIG-INVALID", f"adapter: {detail} with tie_word_embeddings = false")


def _in(head_modules: Sequence[str], name: str) -> bool:
    return any(module in name.split(".") for module in head_modules)


def _refusal(key: str, problem: str, linear: list[str]) -> LocalError:
    return LocalError("E-CONFIG-INVALID", f"adapter.{key}: {problem}; it has {', '.join(linear)}")
