"""How a released adapter is used: what its numbers mean travels beside it, and the card's own lines read it.

Guarantees: labels with their order and number, and the preprocessing, are the plan's; the lines load the adapter on its
base, also where the base has other labels, and give names.
Leaves to others: tensors (``methods``), the rest of the card (``release``).
"""

from __future__ import annotations

import json
from typing import Final

from privacy.plan import Plan
from privacy.task_parts import ImageClassification, TextClassification

TASK_FILE: Final = "task.json"  # beside the adapter

_LOAD: Final = """\
import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import {classes}

base = {base}  # the folder of the base model
adapter = "adapter"  # this folder
task = json.loads(Path(adapter, "task.json").read_text(encoding="utf-8"))
names = dict(enumerate(task["labels"]))
numbers = {{name: number for number, name in names.items()}}
options = {{"num_labels": len(names), "id2label": names, "label2id": numbers, "ignore_mismatched_sizes": True}}
model = {loader}.from_pretrained(base, **options)
model = PeftModel.from_pretrained(model, adapter).eval()
"""
_TEXT: Final = """
tokenizer = AutoTokenizer.from_pretrained(base)
length = {"padding": "max_length", "truncation": True, "max_length": task["max_length"]}
inputs = tokenizer(["a text"], return_tensors="pt", return_token_type_ids=False, **length)
with torch.no_grad():
    answers = model(**inputs).logits
print([names[number] for number in answers.argmax(dim=1).tolist()])
"""
_IMAGE: Final = """
import numpy as np
from PIL import Image, ImageOps

channels, size = getattr(model.config, "num_channels", 3), model.config.image_size
image = ImageOps.exif_transpose(Image.open("image.png")).convert("L" if channels == 1 else "RGB")
pixels = torch.from_numpy(np.asarray(image, dtype=np.float32).reshape(image.height, image.width, channels))
pixels = torch.nn.functional.interpolate(pixels.permute(2, 0, 1)[None], size=size, mode="bilinear", antialias=True)
scale, mean, std = (float(task[key]) for key in ("image_scale", "image_mean", "image_std"))
with torch.no_grad():
    answers = model(pixel_values=(pixels / scale - mean) / std).logits
print([names[number] for number in answers.argmax(dim=1).tolist()])
"""
_OTHER: Final = """\
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "adapter")
"""


def task_json(plan: Plan) -> bytes:
    """Return the plan's task for programs: labels in the order of the answers, and how rows become inputs."""
    return json.dumps(plan.recipe.task.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"


def use_lines(plan: Plan) -> str:
    """Return lines of Python that load the adapter and name what it answers."""
    base = json.dumps(plan.recipe.base.name)
    match plan.recipe.task:
        case TextClassification():
            loader = "AutoModelForSequenceClassification"
            return _LOAD.format(classes=f"{loader}, AutoTokenizer", loader=loader, base=base) + _TEXT
        case ImageClassification():
            loader = "AutoModelForImageClassification"
            return _LOAD.format(classes=loader, loader=loader, base=base) + _IMAGE
        case _:
            return _OTHER
