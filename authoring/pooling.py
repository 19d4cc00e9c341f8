"""How a folder of sentence-transformers makes one vector of a text, and whether a recipe follows it.

Guarantees: a recipe of sentence embeddings pools as the folder does, or says so itself; what no plan can say (other
poolings, a dense layer behind) is refused by name. Nothing of the folder is run.
Leaves to others: pooling itself (``participant.training``).
Source: sentence-transformers 5 ``modules.json`` and ``models/Pooling.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from authoring.recipe import TaskSection
from privacy.errors import LocalError

MODULES: Final = "modules.json"
FOLLOWED: Final = frozenset({"Transformer", "Pooling", "Normalize"})  # lengths do not matter to a cosine
MODES: Final = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def compare_pooling(folder: Path, task: TaskSection) -> tuple[str, ...]:
    """Return what a recipe does not follow of a folder of sentence-transformers; nothing of any other folder.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: embeddings would be pooled otherwise than the folder's, and the recipe does
            not say so; ``E-MODEL-LOAD``: the folder makes them as no plan can say.
    """
    if not (folder / MODULES).is_file():
        return ()
    pooling, wanted = pooling_of(folder), getattr(task, "pooling", None)
    if task.kind != "sentence-embedding" and wanted in {None, "model"}:
        return (f"{MODULES} pools texts by {pooling}; a head reads what the class in config.json gives it",)
    if wanted is None and pooling != "mean":
        raise LocalError("E-CONFIG-INVALID", f'task.pooling: {MODULES} pools by {pooling}; set pooling = "{pooling}"')
    return (f"task.pooling is {wanted}, {MODULES} pools by {pooling}",) if wanted not in {None, pooling} else ()


def pooling_of(folder: Path) -> str:
    """Return how a folder of sentence-transformers pools: ``mean``, ``cls`` or ``last``.

    Raises:
        LocalError: ``E-MODEL-LOAD``, in another way, or its files say nothing of it.
    """
    kinds = list(_modules(folder))
    for kind, _ in kinds:
        if kind not in FOLLOWED:
            raise LocalError("E-MODEL-LOAD", f"{MODULES}: a {kind} layer makes the embeddings; take a base without it")
    path = next((path for kind, path in kinds if kind == "Pooling"), None)
    config = _read(folder / Path(path).name / "config.json") if path else None
    if not isinstance(config, dict):
        raise LocalError(
            "E-MODEL-LOAD", f"{MODULES}: the configuration of its pooling is missing; copy the folder whole"
        )
    modes = [key for key, chosen in config.items() if key.startswith("pooling_mode_") and chosen is True]
    named: list[str] = [MODES.get(mode, mode) for mode in modes] or [str(config.get("pooling_mode"))]
    if len(named) != 1 or named[0] not in MODES.values():
        raise LocalError("E-MODEL-LOAD", f"{MODULES} pools by {' and '.join(named)}; plans have mean, cls and last")
    return named[0]


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the class of each module, without its package, and the folder of its configuration."""
    modules = _read(folder / MODULES)
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict):
            yield str(module.get("type")).rpartition(".")[2], str(module.get("path"))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
