"""How much memory a participant takes to train a rank-8 adapter on a bfloat16 Llama of a billion parameters.

The real path from a recipe to clipped integer gradients, with random weights and synthetic rows: the base is loaded,
the adapter attached, and steps are taken on a micro-batch. Each case has a process of its own, whose memory is what the
kernel counts for it (the proportional set size: pages of the mapped checkpoint among them), less what the process had
before a base was loaded. ``resident_over_checkpoint`` is that after a step, when activations are gone;
``peak_over_checkpoint`` is the most at any time, activations among it. For ``second_base_over_checkpoint`` a clean base
is loaded and run while the first is there, as the self-check does.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import harness

PACKAGES: Final = ("torch", "transformers", "peft", "bitsandbytes", "numpy")
MARK: Final = 1.3  # times the checkpoint's size, beside activations
MIB: Final = 2**20
CASES: Final[dict[str, dict[str, Any]]] = {
    "own": {},
    "own_checkpointing": {"checkpointing": True},
    "4-bit": {"weights": "4-bit"},
    "float32": {"weights": "float32"},
}
SHAPES: Final = {
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8},
}
BATCH, LENGTH, STEPS = 2, 32, 2
WORDS: Final = 32_000

_RECIPE: Final = f"""
title = "Large base"
purpose = "Measure memory"
method = "fedit"
rounds = 1
[base]
name = "llama"
path = "base"
[task]
kind = "text-classification"
data = "synthetic"
labels = ["a", "b", "c"]
max_length = {LENGTH}
[adapter]
rank = 8
alpha = 16
target_modules = ["q_proj", "v_proj"]
head_modules = ["score"]
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


def prepare(folder: Path, shape: str) -> dict[str, float]:
    """Write a Llama with random bfloat16 weights in several files, a tokenizer of whole words, and a draft."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    from authoring.draft import build_draft

    sizes: dict[str, Any] = {**SHAPES[shape], "num_labels": 3}
    config = LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=WORDS, pad_token_id=0)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder / "base", max_shard_size="500MB")
    torch.set_default_dtype(torch.float32)
    words = Tokenizer(models.WordLevel({f"w{place}": place for place in range(WORDS)}, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(folder / "base")  # type: ignore[no-untyped-call]
    (folder / "recipe.toml").write_text(_RECIPE)
    build_draft(folder / "recipe.toml", folder / "draft")
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


class MemoryWatch:
    """Samples how much memory the kernel counts for this process, every few milliseconds."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, memory())


def memory() -> int:
    """Return the proportional set size of this process, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure(folder: Path, case: str) -> dict[str, float]:
    """Return the figures of a case, in this process."""
    import torch

    from authoring.draft import INITIAL_FILE
    from participant.training.adapters.adapted import AdaptedModel, read_initial
    from participant.training.adapters.fast import FastEngine
    from participant.training.adapters.sums import GradientSums
    from participant.training.bases.checkpointing import run_blocks_again
    from participant.training.bases.memory import Memory
    from participant.training.examples import synthetic_examples
    from participant.training.models import Base, load_base
    from privacy.draft import Draft

    torch.set_num_threads(1)
    wanted = Memory(**CASES[case])
    recipe = Draft.from_bytes((folder / "draft" / "draft.json").read_bytes()).recipe
    task = recipe.task

    def loaded() -> Base:
        return load_base(folder / "base", recipe.base, task, head_modules=["score"], seed=0, weights=wanted.weights)

    checkpoint = sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors"))
    before = memory()
    with MemoryWatch() as watch:
        began = time.perf_counter()
        base = loaded()
        loading = time.perf_counter() - began
        initial = read_initial(folder / "draft" / INITIAL_FILE, recipe.adapter)
        adapted = AdaptedModel.attach(base.model, recipe, initial, torch.device("cpu"))
        if wanted.checkpointing:
            run_blocks_again(adapted.model, recipe.adapter)
        examples = synthetic_examples(base, task, BATCH)
        sums = GradientSums(FastEngine(adapted), examples, BATCH)
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            total = sums.clipped(np.arange(BATCH), sensitivity=10_000, clip_norm=1.0)
            seconds.append(time.perf_counter() - began)
        if not total.any():
            raise SystemExit("the step moved nothing")
        gc.collect()
        resident = memory()
        peak = watch.peak
        clean = loaded().model
        with torch.no_grad():
            clean(**examples.take(np.arange(1)).inputs)
    return {
        "checkpoint_mib": round(checkpoint / MIB),
        "resident_over_checkpoint": round((resident - before) / checkpoint, 3),
        "peak_over_checkpoint": round((peak - before) / checkpoint, 3),
        "second_base_over_checkpoint": round((watch.peak - before) / checkpoint, 3),
        "load_seconds": round(loading, 1),
        "step_seconds": round(min(seconds), 2),
        "entries": recipe.entries,
    }


def main() -> int:
    """Measure the cases, each in a process of its own; print the table and the JSON line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--shape", choices=SHAPES, default="1b")
    arguments.add_argument("--cases", nargs="*", choices=CASES, default=["own", "own_checkpointing"])
    arguments.add_argument("--folder", type=Path, help="of a base and a draft; set for the processes that measure")
    options = arguments.parse_args()
    if options.folder is not None:
        work = measure if (options.folder / "draft").exists() else prepare
        print(json.dumps(work(options.folder, options.cases[0] if work is measure else options.shape)))
        return 0
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="onlysum-large-base-") as directory:
        command = [sys.executable, "-m", "bench.large_base", "--folder", directory]
        subprocess.run([*command, "--shape", options.shape], check=True)
        for case in options.cases:
            done = subprocess.run([*command, "--cases", case], check=True, stdout=subprocess.PIPE, text=True)
            print(case, done.stdout.splitlines()[-1], flush=True)
            figures |= {f"{case}.{key}": value for key, value in json.loads(done.stdout.splitlines()[-1]).items()}
    keys = list(dict.fromkeys(key.partition(".")[2] for key in figures))
    rows = [[case, *(f"{figures[f'{case}.{key}']:g}" for key in keys)] for case in options.cases]
    print(harness.table(["case", *keys], rows))
    ratio = figures.get("own.resident_over_checkpoint", float("inf"))
    print(f"own.resident_over_checkpoint {ratio:g}, mark {MARK:g}: {'met' if ratio <= MARK else 'MISSED'}")
    harness.publish("large_base", figures, packages=PACKAGES, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
