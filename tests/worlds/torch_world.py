"""Tiny base models, datasets and plans for tests that train: a transformer of width 16 learns in a second.

Guarantees: the same arguments give the same files and plan; a plan is calibrated as ``run create`` does it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
)

import methods
from authoring.draft import INITIAL_FILE, build_draft
from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.turns import TurnEngines
from participant.training.data import Columns
from participant.training.examples import Examples, load_examples
from participant.training.models import Base, load_base
from participant.training.torch_trainer import Materials, TorchTrainer
from participant.training.trainer import Precision
from privacy.dp.calibration import calibrate
from privacy.dp.signal import Setting
from privacy.draft import Draft
from privacy.interfaces import RandomSource
from privacy.plan import Plan, default_survivors, threshold
from privacy.plan_parts import Evaluation, Graph, Member, MemberOptions
from privacy.task_parts import Task
from tests.worlds.plans import CREATED_AT, EXPIRES_AT, names, signing_key
from tests.worlds.seeded import SeededRandom

IMAGE_SIDE = 8
LABELS = ("a", "b", "c")
WORDS = ("pain", "fever", "cough", "rash", "calm", "fine", "well", "good")
ROWS = 24
TRAINING = {  # what methods need there
    "count-sketch": "sketch = 40",
    "droppeft": "mask = 0.5",
    "fedask": "sketch = 8",
    "fedprox": "proximal = 0.5",
    "lora-a2": "mask = 0.5",
    "random-mask": "mask = 0.5",
    "slora": "mask = 0.5\nopening_rounds = 1",
}


def image_base(folder: Path) -> Path:
    """Write a vision transformer of width 16 with two layers."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=IMAGE_SIDE, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, initializer_range=0.2, id2label=dict(enumerate(LABELS)),
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


def text_base(folder: Path) -> Path:
    """Write a BERT of width 16 with two layers, and its tokenizer."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, initializer_range=0.2, id2label=dict(enumerate(LABELS)),
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def image_rows(path: Path, *, rows: int = ROWS, seed: int = 0, **columns: Any) -> Path:
    """Write images whose brightness tells the label."""
    random = np.random.default_rng(seed)
    labels = random.integers(len(LABELS), size=rows)
    noise = random.normal(size=(rows, IMAGE_SIDE, IMAGE_SIDE)) * 20
    images = np.clip(60 + 70 * labels[:, None, None] + noise, 0, 255).astype(np.uint8)
    np.savez(path, image=images, label=np.array(LABELS)[labels], **columns)
    return path


def text_rows(path: Path, *, rows: int = ROWS, seed: int = 0) -> Path:
    """Write lines of words; the first word tells the label, users hold three lines each."""
    random = np.random.default_rng(seed)
    with path.open("w") as file:
        for row in range(rows):
            label = int(random.integers(len(LABELS)))
            words = [WORDS[label], *random.choice(WORDS[3:], size=int(random.integers(1, 6)))]
            json.dump({"text": " ".join(words), "label": LABELS[label], "person": f"u{row // 3}"}, file)
            file.write("\n")
    return path


def adapter_text(method: str, kind: str, layers: tuple[int, ...] = (), targets: tuple[str, ...] | None = None) -> str:
    """Return the keys of ``[adapter]`` that belong to the PEFT type of a method, for a tiny model of a kind."""
    images = kind == "image"
    names = targets or (("q_proj", "v_proj") if images else ("query", "value"))
    modules = {"target_modules": list(names)}
    sized = {"rank": 2, "alpha": 8, **modules}
    dense = ["layers.1.mlp"] if images else ["layer.1.intermediate"]
    given: dict[str, dict[str, Any]] = {
        "LORA": {**sized, "layers": list(layers)},
        "LORA_CORE": {**sized, "layers": list(layers)},
        "LORA_HEADS": {"heads": 3, **sized, "layers": list(layers)},
        "LOKR": sized,
        "LOHA": sized,
        "ADALORA": {**sized, "rank": 3, "target_rank": 2},
        "VERA": {"rank": 4, **modules},
        "OFT": {"block_size": 4, **modules},
        "LN_TUNING": {"target_modules": ["layernorm_before"] if images else ["output.LayerNorm"]},
        "WHOLE": {"target_modules": dense},
        "SEEDS": {"directions": 4, "target_modules": dense},
        "BIAS": {},
        "HEAD": {},
        "IA3": {**modules, "feedforward_modules": ["fc2"] if images else ["output.dense"]},
        "BOTTLENECK": {"bottleneck_dim": 3, "target_modules": ["fc2"] if images else ["output.dense"]},
        "PROMPT_TUNING": {"tokens": 3},
        "PREFIX_TUNING": {"tokens": 3},
        "P_TUNING": {"tokens": 3, "hidden_size": 4},
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in given[methods.get(method).peft_type].items())


def recipe_text(
    kind: str = "image",
    *,
    method: str = "ffa-lora",
    mode: str = "none",
    layers: tuple[int, ...] = (),
    optimizer: str = "",
    **privacy: Any,
) -> str:
    """Return the recipe of a tiny run; ``privacy`` adds to or replaces keys of its section.

    Args:
        kind: image or text.
        method: by its name.
        mode: of privacy.
        layers: that are adapted; all if empty.
        optimizer: its section, with the heading.
        privacy: keys of its section.
    """
    images = kind == "image"
    section = {"mode": mode, "sampling_rate": 0.5, "local_steps": 1 if mode.startswith("distributed") else 2}
    if mode != "none":
        section |= {"epsilon": 8, "delta": 1e-5}
    section |= privacy
    task = (
        'input_column = "image"\nimage_scale = 255\nimage_mean = 0.5\nimage_std = 0.5\n'
        if images
        else 'input_column = "text"\nmax_length = 8\n'
    )
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
    return f"""
title = "Tiny"
purpose = "A tiny run for tests"
method = "{method}"
rounds = 3

[base]
name = "tiny-{kind}"
path = "base"

[task]
kind = "{kind}-classification"
data = "rows"
labels = {json.dumps(LABELS)}
{task}
[adapter]
{adapter_text(method, kind, layers)}head_modules = ["classifier"]
seed = 7

[privacy]
{lines}
[training]
learning_rate = 0.5
head_learning_rate = 0.25
micro_batch = 8
{TRAINING.get(method, "")}

{optimizer}
[evaluation]
data = "public"
"""


def plan_of(draft: Draft, *, n: int = 3, f: int = 1, units: int = ROWS) -> Plan:
    """Bind a draft to the tests' members, calibrated."""
    survivors = default_survivors(n, f)
    recipe = draft.recipe
    smaller = MemberOptions(rank=1) if recipe.counts == "rank" else MemberOptions()  # of the first member
    roster = tuple(
        Member(id=name, identity_key=signing_key(name).public.hex(), units=units, options=options)
        for name, options in zip(names(n), (smaller, *[MemberOptions()] * (n - 1)), strict=True)
    )
    setting = Setting.of(recipe, roster, f=f, min_survivors=survivors)
    privacy, encoding = calibrate(draft.privacy, setting)
    return Plan(
        federation="test-federation", operator="Test Operator", run_id="00" * 16, created_at=CREATED_AT,
        expires_at=EXPIRES_AT, recipe=recipe, privacy=privacy, encoding=encoding,
        evaluation=Evaluation(data=draft.evaluation_data), roster=roster, f=f, shamir_threshold=threshold(n, f),
        quorum=threshold(n, f), min_survivors=survivors, graph=Graph(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """A base, a dataset, a draft and a plan in one directory."""

    directory: Path
    plan: Plan
    dataset: Path
    columns: Columns

    @property
    def initial(self) -> Path:
        return self.directory / "draft" / INITIAL_FILE

    def materials(self, **changes: Any) -> Materials:
        given = {
            "plan": self.plan, "me": "alice", "model": self.directory / "base", "dataset": self.dataset,
            "columns": self.columns, "initial_adapter": self.initial,
        }  # fmt: skip
        return Materials(**{**given, **changes})

    def trainer(self, random: RandomSource | None = None, **changes: Any) -> TorchTrainer:
        """Return a trainer that was prepared."""
        trainer = TorchTrainer(self.materials(**changes), random or SeededRandom(1))
        trainer.prepare()
        return trainer

    @property
    def task(self) -> Task:
        """The plan's task."""
        return self.plan.recipe.task

    def base(self) -> Base:
        recipe = self.plan.recipe
        return load_base(
            self.directory / "base",
            recipe.base,
            recipe.task,
            head_modules=recipe.adapter.head_modules,
            seed=recipe.adapter.seed,
        )

    def measured(self) -> Examples:
        """Return examples to measure on: images that nobody trains on; of texts the dataset's own.

        A text model of random weights, which has never read, learns nothing of new texts from a few.
        """
        if self.dataset.suffix != ".npz":
            return load_examples(self.dataset, self.columns, self.task, self.base())
        held_out = image_rows(self.directory / "held-out.npz", rows=2 * ROWS, seed=1)
        return load_examples(held_out, self.columns, self.task, self.base())

    def adapted(self, precision: Precision = "float32") -> AdaptedModel:
        recipe = self.plan.recipe
        initial = read_initial(self.initial, recipe.adapter)
        return AdaptedModel.attach(self.base().model, recipe, initial, torch.device("cpu"), precision=precision)


def make_world(directory: Path, kind: str = "image", *, units: int = ROWS, **recipe: Any) -> World:
    """Write everything that a trainer needs."""
    (image_base if kind == "image" else text_base)(directory / "base")
    dataset = image_rows(directory / "rows.npz") if kind == "image" else text_rows(directory / "rows.jsonl")
    columns = Columns("image", "label") if kind == "image" else Columns("text", "label", "person")
    (directory / "recipe.toml").write_text(recipe_text(kind, **recipe))
    draft = build_draft(directory / "recipe.toml", directory / "draft", self_check=False)
    return World(directory, plan_of(draft, units=units), dataset, columns)


class OneEngine(TurnEngines):
    """The very engine of a test, in every turn."""

    def __init__(self, engine: GradientEngine) -> None:
        self.adapted = engine.adapted
        self._engine = engine

    def enter(self, turn: int) -> GradientEngine:
        return self._engine
