"""On a machine with CUDA: ``python -m tests.gpu_check``. Is each example's gradient there what it is on the CPU?

No test runner is needed, and no weights: a BERT of MiniLM's shape and a ViT-Tiny, both random. It prints errors and
times of steps. It exits with 1 if an error is too large, if an example's bits depend on its company or differ when they
are computed again, or if the clip on the device gives other integers than numpy's. (Bits that differ from slot to slot
are no fault: the self-check then gives each row a slot of its own.)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from bench.dp_step import CASES, CLIP_NORM, SENSITIVITY, Case, error_of, prepared, steps_of
from bench.harness import table
from participant.adapters.fast import FastEngine
from participant.adapters.gradients import GradientEngine
from participant.adapters.reference import OpacusEngine
from participant.examples import Examples
from privacy.dp.clipping import integer_clip
from privacy.dp.torch_clipping import clipped_sum

DEVICE = "cuda"
TURNS = 15
SELF_CHECK_TOLERANCE = 1e-4  # of participant.selfcheck
BETWEEN_DEVICES = 1e-4  # relative: the forward passes themselves round differently
LABELS = 77


def bert(folder: Path) -> Path:
    """Write a random BERT of MiniLM's shape with a vocabulary of made-up words."""
    path = folder / "bert"
    if path.exists():
        return path
    path.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(2000))]
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(vocab=str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        id2label={number: str(number) for number in range(LABELS)},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    return path


ALL = {
    "bert": Case("text", LABELS, 32, ("query", "value"), "max_length = 64", bert),
    "bert_batch256": Case("text", LABELS, 256, ("query", "value"), "max_length = 64", bert),
    "vit": CASES["vit"],
}


def seconds(steps: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return each step's seconds in each turn, the device's queue emptied before and after."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TURNS + 3):
        for name, step in steps.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            torch.cuda.synchronize()
            found[name].append(time.perf_counter() - began)
    return {name: values[3:] for name, values in found.items()}


def same_clip(engine: GradientEngine, batch: Examples) -> bool:
    """Say whether the clip on the device gives numpy's integers."""
    rows = engine.rows(batch)
    there = clipped_sum(rows, sensitivity=SENSITIVITY, clip_norm=CLIP_NORM).cpu().numpy()
    here = integer_clip(rows.cpu().numpy(), sensitivity=SENSITIVITY, clip_norm=CLIP_NORM).sum(axis=0)
    return np.array_equal(there, here)


def same_in_company(engine: GradientEngine, batch: Examples) -> bool:
    """Say whether an example's bits are the same with others in the other slots, and when computed again."""
    places = np.arange(len(batch))
    rows, again = engine.rows(batch), engine.rows(batch)
    others = engine.rows(batch.take(np.where(places % 2 == 0, places, -1)))
    return torch.equal(rows, again) and torch.equal(rows[::2], others[::2])


def same_in_every_slot(engine: GradientEngine, batch: Examples) -> bool:
    """Say whether an example's bits are the same in every slot; where they are not, rows get home slots."""
    rows = engine.rows(batch.take(np.zeros(len(batch), dtype=np.int64)))
    return bool((rows == rows[0]).all())


def check(name: str) -> tuple[bool, list[str]]:
    """Return whether a case is right, and its line of the table."""
    with tempfile.TemporaryDirectory(prefix="onlysum-gpu-check-") as folder:
        adapted, batch = prepared(name, ALL[name], Path(folder))
        here = FastEngine(adapted("cpu"))
        fast, opacus = FastEngine(adapted(DEVICE)), OpacusEngine(adapted(DEVICE))
    there = batch.to(torch.device(DEVICE))
    few = np.arange(min(8, len(batch)))
    expected, rows = here.per_example(batch.take(few)), fast.per_example(there.take(few))
    between = float(max(np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)))
    single, theirs = error_of(fast, there), error_of(opacus, there)
    facts = {
        "same clip": same_clip(fast, there),
        "company": same_in_company(fast, there),
        "slots": same_in_every_slot(fast, there),
    }
    times = seconds(steps_of(fast, opacus, there))
    plain = times.pop("plain")
    ratios = {
        step: statistics.median(one / other for one, other in zip(values, plain, strict=True))
        for step, values in times.items()
    }
    good = between <= BETWEEN_DEVICES and single <= SELF_CHECK_TOLERANCE and facts["same clip"] and facts["company"]
    words = [
        name,
        f"{between:.1e}",
        f"{single:.1e}",
        f"{theirs:.1e}",
        *("yes" if fact else "no" for fact in facts.values()),
    ]
    return good, [*words, f"{statistics.median(plain) * 1e3:.1f}", *(f"{ratio:.3f}" for ratio in ratios.values())]


def main() -> int:
    """Check every case and print the table."""
    if not torch.cuda.is_available():
        print("there is no CUDA device here")
        return 1
    torch.set_num_threads(4)
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    checked = [check(name) for name in ALL]
    heads = ["case", "cuda-cpu", "cuda-single", "opacus-single", "same clip", "company", "slots", "plain ms"]
    print(table([*heads, "fast", "private", "opacus", "private opacus"], [line for _, line in checked]))
    return 0 if all(good for good, _ in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
