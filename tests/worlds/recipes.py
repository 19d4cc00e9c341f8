"""Recipes: as a researcher writes one, and as plans have them, of any method on one small LoRA."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

import methods
from methods.layout import Sizes
from privacy import canonical
from privacy.adapter_parts import Adapter
from privacy.draft import Recipe
from tests.worlds.plans import plan_document

RECIPE: Final = """\
title = "Digits"
purpose = "Recognise digits"
method = "ffa-lora"
rounds = 20

[base]
name = "digits-vit"
path = "base"

[task]
kind = "image-classification"
data = "digits"
labels = ["0", "1"]
image_mean = 0.5

[adapter]
rank = 4
alpha = 16
target_modules = ["q_proj"]

[privacy]
mode = "distributed"
epsilon = 8
delta = 1e-5
sampling_rate = 0.5

[training]
learning_rate = 0.1

[evaluation]
data = "held-out"
"""

FACTOR_A, FACTOR_B = "base_model.model.layer.q_proj.lora_A.weight", "base_model.model.layer.q_proj.lora_B.weight"
HEAD = "base_model.model.classifier.weight"
SHAPES: dict[str, tuple[int, ...]] = {FACTOR_A: (2, 8), FACTOR_B: (6, 2), HEAD: (3, 6)}
LORA = {"peft_type": "LORA", "rank": 2, "alpha": "4", "target_modules": ["q_proj"], "layers": []}


def recipe_of(
    name: str,
    *,
    mask: float | None = None,
    sketch: int | None = None,
    opening_rounds: int | None = None,
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    **changes: Any,
) -> Recipe:
    """A recipe of a method whose adapter is one small LoRA with a head, or of other shapes."""
    method = methods.get(name)
    document: Any = plan_document()["recipe"]
    adapter = document["adapter"] | {
        "method": name,
        "options": changes.pop("options", LORA),
        "tensors": [{"key": "any", "shape": [1], "stream": "frozen", "part": "adapter"}],
    }
    beside = method.beside_model({key: np.zeros(shape) for key, shape in shapes.items()})
    shapes = shapes | {key: value.shape for key, value in beside.items()}
    manifest = method.manifest(shapes, Adapter.model_validate_json(canonical.encode(adapter)))
    state = method.state(manifest)
    upload = method.upload_of(state, Sizes(mask=mask, sketch=sketch, opening_rounds=opening_rounds), manifest)
    adapter["tensors"] = [tensor.model_dump(mode="json") for tensor in manifest]
    document |= {
        "adapter": adapter,
        "state": [stream.model_dump(mode="json") for stream in state],
        "turns": [turn.model_dump(mode="json") for turn in method.turns_of(state, upload, manifest)],
        "schedule": method.schedule.model_dump(mode="json"),
        "counts": method.counts,
        "upload": upload.model_dump(mode="json"),
    }
    document |= changes
    return Recipe.model_validate_json(canonical.encode(document))
