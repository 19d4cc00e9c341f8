"""How a released adapter is used: what its numbers mean travels beside it, and the card's own lines read it.

Guarantees: labels with their order and number, and the preprocessing, are the plan's; the lines load the adapter on its
base, also where the base has other labels, and give names, numbers, vectors or text.
Leaves to others: tensors (``methods``), the rest of the card (``release``).
"""

from __future__ import annotations

import json
from typing import Final, assert_never

from privacy.adapter_options import BottleneckOptions
from privacy.plan import Plan
from privacy.task_parts import (
    CausalLanguageModelling,
    ImageClassification,
    MaskedLanguageModelling,
    MultiLabel,
    Pooling,
    Regression,
    SentenceEmbedding,
    Task,
    TextClassification,
    TokenClassification,
)

TASK_FILE: Final = "task.json"  # beside the adapter

_HEAD: Final = """\
import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import {classes}
{own}
base = {base}  # the folder of the base model
adapter = "adapter"  # this folder
task = json.loads(Path(adapter, "task.json").read_text(encoding="utf-8"))
{options}model = {loader}.from_pretrained(base{given})
model = PeftModel.from_pretrained(model, adapter).eval()
"""
_OWN: Final = """
import onlysum

onlysum.register_peft_types()
"""
_LABELS: Final = """\
names = dict(enumerate(task["labels"]))
numbers = {name: number for number, name in names.items()}
options = {"num_labels": len(names), "id2label": names, "label2id": numbers, "ignore_mismatched_sizes": True}
"""
_NUMBER: Final = """\
options = {"num_labels": 1, "ignore_mismatched_sizes": True}
"""
_TOKENIZER: Final = """
tokenizer = AutoTokenizer.from_pretrained(base)
"""
_INPUTS: Final = (
    _TOKENIZER
    + """\
length = {"padding": "max_length", "truncation": True, "max_length": task["max_length"]}
inputs = tokenizer(["a text"], return_tensors="pt", return_token_type_ids=False, **length)
with torch.no_grad():
    answers = model(**inputs)
"""
)
_LOGITS: Final = {
    "model": "logits = answers.logits\n",
    "mean": """\
mask = inputs["attention_mask"][:, :, None]
logits = (answers.logits * mask).sum(dim=1) / mask.sum(dim=1)  # the mean of a text's tokens
""",
    "cls": "logits = answers.logits[:, 0]\n",
    "last": """\
last = inputs["attention_mask"].sum(dim=1) - 1  # padding stands behind
logits = answers.logits[torch.arange(len(last)), last]
""",
}
_CLASS: Final = """\
print([names[number] for number in logits.argmax(dim=1).tolist()])
"""
_SEVERAL: Final = """\
print([[names[number] for number in row.nonzero()[:, 0].tolist()] for row in logits > 0])
"""
_VALUE: Final = """\
print(logits[:, 0].tolist())
"""
_WORDS: Final = (
    _TOKENIZER
    + """\
words = ["a", "text"]
inputs = tokenizer([words], is_split_into_words=True, truncation=True, max_length=task["max_length"],
                   return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    numbers = model(**inputs).logits[0].argmax(dim=1).tolist()
owners = inputs.word_ids(0)  # a word's label stands at its first token
print([(word, names[numbers[owners.index(place)]]) for place, word in enumerate(words) if place in owners])
"""
)
_WRITE: Final = """\
with torch.no_grad():
    written = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print(tokenizer.decode(written[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
_PROMPT: Final = """\
inputs = tokenizer(["a text"], return_tensors="pt", return_token_type_ids=False)
"""
_CHAT: Final = """\
chat = [{"role": "user", "content": "a question"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
_HIDDEN: Final = (
    _TOKENIZER
    + """\
inputs = tokenizer([f"a {tokenizer.mask_token} text"], return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    answers = model(**inputs).logits
hidden = inputs["input_ids"] == tokenizer.mask_token_id
print(tokenizer.convert_ids_to_tokens(answers[hidden].argmax(dim=1).tolist()))
"""
)
_VECTOR: Final = {
    "model": "vectors = answers.pooler_output\n",
    "mean": """\
mask = inputs["attention_mask"][:, :, None]
vectors = (answers.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
""",
    "cls": "vectors = answers.last_hidden_state[:, 0]\n",
    "last": """\
last = inputs["attention_mask"].sum(dim=1) - 1  # padding stands behind
vectors = answers.last_hidden_state[torch.arange(len(last)), last]
""",
}
_SHOWN_VECTOR: Final = """\
print(torch.nn.functional.normalize(vectors).tolist())
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
    answers = model(pixel_values=(pixels / scale - mean) / std)
"""


def task_json(plan: Plan) -> bytes:
    """Return the plan's task for programs: labels in the order of the answers, and how rows become inputs."""
    return json.dumps(plan.recipe.task.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"


def needs(plan: Plan) -> str:
    """Return a sentence about what reading the adapter needs beside PEFT; empty where that is nothing."""
    if not _is_own(plan):
        return ""
    kind = plan.recipe.adapter.options.peft_type
    return f"PEFT itself has no type `{kind}`: reading it takes the package onlysum with its extra `participant`."


def _is_own(plan: Plan) -> bool:
    """Return whether an adapter is of a type that PEFT does not bring (``participant.training.tuners``)."""
    return isinstance(plan.recipe.adapter.options, BottleneckOptions)


def use_lines(plan: Plan) -> str:
    """Return lines of Python that load the adapter and show what it answers."""
    loader, options, body = _lines(plan.recipe.task)
    classes = loader if body.startswith(_IMAGE) else f"{loader}, AutoTokenizer"
    given = ", **options" if options else ""
    base, own = json.dumps(plan.recipe.base.name), _OWN if _is_own(plan) else ""
    return _HEAD.format(classes=classes, own=own, base=base, options=options, loader=loader, given=given) + body


def _lines(task: Task) -> tuple[str, str, str]:
    """Return the class that loads the base, the lines of what it is given, and those that use it."""
    match task:
        case ImageClassification():
            return "AutoModelForImageClassification", _LABELS, _IMAGE + _LOGITS["model"] + _CLASS
        case TextClassification():
            return _class_for(task.pooling), _LABELS, _INPUTS + _LOGITS[task.pooling] + _CLASS
        case MultiLabel():
            return _class_for(task.pooling), _LABELS, _INPUTS + _LOGITS[task.pooling] + _SEVERAL
        case Regression():
            return _class_for(task.pooling), _NUMBER, _INPUTS + _LOGITS[task.pooling] + _VALUE
        case TokenClassification():
            return "AutoModelForTokenClassification", _LABELS, _WORDS
        case CausalLanguageModelling():
            return "AutoModelForCausalLM", "", _TOKENIZER + (_CHAT if task.form == "chat" else _PROMPT) + _WRITE
        case MaskedLanguageModelling():
            return "AutoModelForMaskedLM", "", _HIDDEN
        case SentenceEmbedding():
            return "AutoModel", "", _INPUTS + _VECTOR[task.pooling] + _SHOWN_VECTOR
        case _ as unknown:
            assert_never(unknown)


def _class_for(pooling: Pooling) -> str:
    """Return the class that reads a text with a head: of tokens, where their answers are pooled afterwards."""
    return "AutoModelForSequenceClassification" if pooling == "model" else "AutoModelForTokenClassification"
