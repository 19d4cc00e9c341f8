"""What becomes of each PEFT type on each family of models: shown on the real path from a recipe to gradients.

Guarantees: "exact" was measured: every example's row in a batch is the gradient of that example alone, by torch
itself, at an adapter that has moved from its start; everything else is the program's own refusal.
Leaves to others: the families (``families``), the page (``docs/build_models.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import methods
from authoring.draft import INITIAL_FILE, build_draft
from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.turns import TurnEngines
from participant.training.examples import Examples, synthetic_examples
from participant.training.models import Base, load_base
from participant.training.selfcheck import SelfCheck
from privacy.errors import LocalError
from tests.worlds.families import Family
from tests.worlds.torch_world import LABELS, plan_of

# One method for each PEFT type, and DoRA, whose layers PEFT computes otherwise than LoRA's.
METHODS: Final = (
    "fedit", "dora", "fed-sb", "adalora", "vera", "lokr", "loha", "oft", "ia3", "ln-tuning", "prompt", "prefix",
    "p-tuning", "bottleneck", "bitfit", "layers", "head",
)  # fmt: skip
BATCH: Final = 5
LENGTH: Final = 7
TOLERANCE: Final = 1e-5  # relative, of a row against its example's own gradient
SHAKE: Final = 0.05  # how far the adapter is moved from its start, where many gradients vanish


@dataclass(frozen=True, slots=True)
class Cell:
    """One family with one method.

    Attributes:
        engine: which one computed the rows: ``fast`` or ``opacus``; empty where it was refused.
        error: the largest relative error of a row.
        rounding: how far torch's own float32 gradient of that example is from that in float64, where it was asked.
        refusal: code and words; empty where it works.
    """

    engine: str = ""
    error: float = 0.0
    rounding: float = 0.0
    refusal: str = ""

    @property
    def exact(self) -> bool:
        """Whether every row is its example's own gradient."""
        return bool(self.engine) and self.error <= max(TOLERANCE, 2 * self.rounding)


def adapter_options(family: Family, method: str) -> dict[str, Any]:
    """Return the keys of ``[adapter]`` of a method for a family."""
    targets, tokens = list(family.targets), {"tokens": 3}
    match methods.get(method).peft_type:
        case "LORA" | "LORA_CORE" | "LOKR" | "LOHA":
            return {"rank": 2, "alpha": 8, "target_modules": targets}
        case "ADALORA":
            return {"rank": 3, "target_rank": 2, "alpha": 8, "target_modules": targets}
        case "VERA":
            return {"rank": 4, "target_modules": targets}
        case "OFT":
            return {"block_size": 4, "target_modules": targets}
        case "IA3":
            return {"target_modules": targets, "feedforward_modules": list(family.dense)}
        case "LN_TUNING":
            return {"target_modules": list(family.norms)}
        case "BOTTLENECK":
            return {"bottleneck_dim": 3, "target_modules": list(family.dense)}
        case "WHOLE":
            return {"target_modules": [family.whole]}
        case "PROMPT_TUNING" | "PREFIX_TUNING":
            return tokens
        case "P_TUNING":
            return {**tokens, "hidden_size": 8}
        case _:
            return {}


def head_of(family: Family, method: str) -> list[str]:
    """Return the modules of the head: beside a prompt PEFT trains what is called classifier or score alone."""
    prompts = methods.get(method).peft_type in {"PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"}
    return [name for name in family.head if not prompts or name.endswith(("classifier", "score"))]


def recipe_text(family: Family, method: str) -> str:
    """Return a recipe of a method for a family whose base lies in ``base``."""
    task = f"max_length = {LENGTH}" if family.kind == "text" else "image_scale = 255"
    options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in adapter_options(family, method).items())
    return f"""
title = "Cell"
purpose = "A cell of the table of models"
method = "{method}"
rounds = 1
[base]
name = "tiny"
path = "base"
[task]
kind = "{family.kind}-classification"
data = "synthetic"
labels = {json.dumps(LABELS)}
{task}
[adapter]
{options}
head_modules = {json.dumps(head_of(family, method))}
[privacy]
mode = "local"
epsilon = 8
delta = 1e-5
sampling_rate = 0.1
local_steps = 1
[training]
learning_rate = 0.1
micro_batch = {BATCH}
[evaluation]
data = "none"
"""


def cell(family: Family, method: str, folder: Path) -> Cell:
    """Build a draft for a family's base in ``folder/base`` and compare the engine's rows with single examples.

    Args:
        family: whose base is there.
        method: by name.
        folder: gets a recipe and a draft of the method's name.
    """
    (folder / f"{method}.toml").write_text(recipe_text(family, method))
    try:
        return _measured(folder, method)
    except LocalError as error:
        return Cell(refusal=f"{error.code}: {error.detail}")


def _measured(folder: Path, method: str) -> Cell:
    draft = build_draft(folder / f"{method}.toml", folder / method)
    recipe, privacy = draft.recipe, plan_of(draft).privacy
    task = recipe.task

    def loaded() -> Base:
        return load_base(folder / "base", recipe.base, task, head_modules=recipe.adapter.head_modules, seed=0)

    base = loaded()
    initial = read_initial(folder / method / INITIAL_FILE, recipe.adapter)
    adapted = AdaptedModel.attach(base.model, recipe, initial, torch.device("cpu"))
    batch = synthetic_examples(base, task, BATCH)
    engines = TurnEngines(adapted, batch, "fast")
    SelfCheck(
        recipe=recipe, privacy=privacy, engines=engines, synthetic=batch, initial=initial,
        clean_base=lambda: loaded().model,
    ).run()  # fmt: skip
    move = np.random.default_rng(0).normal(size=adapted.vector().shape) * SHAKE
    adapted.load((adapted.vector() + move).astype(np.float32))
    errors, names = [], set()
    for turn in engines.turns:
        engine = engines.enter(turn)
        rows = engine.per_example(batch)
        names.add("fast" if isinstance(engine, FastEngine) else "opacus")
        for place in range(BATCH):
            single = engine.summed(batch.take(np.array([place])))
            error = float(np.linalg.norm(rows[place] - single) / np.linalg.norm(single))
            off = rounding(engine, batch.take(np.array([place])), single) if error > TOLERANCE else 0.0
            errors.append((error, off))
    error, off = max(errors, key=lambda pair: pair[0] if pair[0] == pair[0] else np.inf)  # no number is the largest
    return Cell(engine=" and ".join(sorted(names)), error=error, rounding=off)


def rounding(engine: GradientEngine, example: Examples, single: NDArray[Any]) -> float:
    """Return how far one example's gradient in float32 is from that in float64, relative to it."""
    model = engine.adapted.model
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.double()
    try:
        wide = {name: value.double() if value.is_floating_point() else value for name, value in example.inputs.items()}
        exact = engine.summed(replace(example, inputs=wide))
    finally:
        model.float().load_state_dict(state)
    return float(np.linalg.norm(single - exact) / np.linalg.norm(exact))
