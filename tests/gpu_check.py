"""Is each example's gradient on a GPU what it is on the CPU, and in bfloat16 nearly what it is in float32?

``python -m tests.gpu_check [cuda|cpu]``: on the CPU only the small cases, and no times. No test runner is needed, and
no weights: a BERT of MiniLM's shape, a ViT-Tiny and a bfloat16 Llama, all random, the last also packed into 4 bits. It
prints errors, and times of steps. It exits with 1 if an error is too large, if an example's bits depend on its company
or differ when they are computed again, or if the clip on the device gives other integers than numpy's. (Bits that
differ from slot to slot are no fault: the self-check then gives each row a slot of its own.) What a machine could not
show is said at the end.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bench.dp_step import CASES, CLIP_NORM, SENSITIVITY, Case, error_of, labels_line, prepared, steps_of
from bench.harness import table
from participant.training.adapters.device import find_device
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.gradients import GradientEngine
from participant.training.adapters.reference import OpacusEngine
from participant.training.adapters.sums import EMPTY_SLOT
from participant.training.examples import Examples
from participant.training.selfcheck import BFLOAT16_TOLERANCE, GRADIENT_TOLERANCE
from participant.training.trainer import Precision, Weights
from privacy.dp.clipping import integer_clip
from privacy.dp.torch_clipping import clipped_sum

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TURNS = 15
SMALL = ("bert", "vit", "llama")
SINGLE_EXAMPLES = 3  # compared one by one
BETWEEN = {"float32": 1e-4, "bfloat16": 3e-2}  # relative to float32 on the CPU: forward passes round differently
ALONE = {"float32": GRADIENT_TOLERANCE, "bfloat16": BFLOAT16_TOLERANCE}  # an example in a batch of one
LABELS = 77


def bert(folder: Path) -> Path:
    """Write a random BERT of MiniLM's shape with a vocabulary of synthetic words."""
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


def llama(folder: Path) -> Path:
    """Write a random Llama of four layers, in bfloat16."""
    path = folder / "llama"
    if not path.exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=2000, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
            intermediate_size=1408, pad_token_id=0, id2label={number: str(number) for number in range(LABELS)},
        )  # fmt: skip
        model: Any = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]
        model.to(torch.bfloat16).save_pretrained(path)
        words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(2000)}, unk_token="w1"))
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(path)  # type: ignore[no-untyped-call]
    return path


def bert_case(batch: int) -> Case:
    """Return BERT with a batch of texts."""
    task = f"{labels_line(LABELS)}\nmax_length = 64"
    return Case("text-classification", task, batch, ("query", "value"), ("classifier",), bert)


STEPS = ("plain ms", "fast", "private", "opacus", "private opacus")
ALL = {
    "bert": bert_case(32),
    "bert_batch256": bert_case(256),
    "vit": CASES["vit"],
    "llama": Case(
        "text-classification", f"{labels_line(LABELS)}\nmax_length = 32", 8, ("q_proj", "v_proj"), ("score",), llama
    ),
    "causal": CASES["llama"],
}
# A base, the precision of its products, and how it lies in memory: the Llama has bfloat16 weights of its own.
CHECKS: list[tuple[str, Precision, Weights]] = [
    *((name, precision, "own") for name in ALL for precision in PRECISIONS),
    ("llama", "float32", "4-bit"),
    ("llama", "bfloat16", "4-bit"),
]


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


def times(steps: dict[str, Callable[[], object]]) -> list[str]:
    """Return milliseconds of a plain step, and what the others take over it."""
    found = seconds(steps)
    plain = found.pop("plain")
    ratios = [
        statistics.median(one / other for one, other in zip(values, plain, strict=True)) for values in found.values()
    ]
    return [f"{statistics.median(plain) * 1e3:.1f}", *(f"{ratio:.3f}" for ratio in ratios)]


def distance(rows: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest relative distance of a row from the one expected."""
    return float(max(np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)))


def alone_in_a_micro_batch(engine: GradientEngine, batch: Examples, few: np.ndarray) -> np.ndarray:
    """Return each example's own gradient by torch alone, in a micro-batch that nothing else is in."""
    places = np.arange(len(batch))
    only = [np.where(places == place, places, EMPTY_SLOT) for place in few]
    return np.stack([engine.summed(batch.take(slots), slots != EMPTY_SLOT) for slots in only])


def same_clip(engine: GradientEngine, batch: Examples) -> bool:
    """Return whether the clip on the device gives numpy's integers."""
    rows = engine.rows(batch)
    there = clipped_sum(rows, sensitivity=SENSITIVITY, clip_norm=CLIP_NORM).cpu().numpy()
    here = integer_clip(rows.cpu().numpy(), sensitivity=SENSITIVITY, clip_norm=CLIP_NORM).sum(axis=0)
    return np.array_equal(there, here)


def same_in_company(engine: GradientEngine, batch: Examples) -> bool:
    """Return whether an example's bits are the same with others in the other slots, and when computed again."""
    places = np.arange(len(batch))
    rows, again = engine.rows(batch), engine.rows(batch)
    others = engine.rows(batch.take(np.where(places % 2 == 0, places, -1)))
    return torch.equal(rows, again) and torch.equal(rows[::2], others[::2])


def same_in_every_slot(engine: GradientEngine, batch: Examples) -> bool:
    """Return whether an example's bits are the same in every slot; where they are not, rows get home slots."""
    rows = engine.rows(batch.take(np.zeros(len(batch), dtype=np.int64)))
    return bool((rows == rows[0]).all())


def check(name: str, device: str, precision: Precision, weights: Weights) -> tuple[bool, list[str]]:
    """Return whether a case is right, and its line of the table."""
    with tempfile.TemporaryDirectory(prefix="onlysum-gpu-check-") as folder:
        adapted, batch = prepared(name, ALL[name], Path(folder))
        here = FastEngine(adapted("cpu", "float32", weights))
        fast, opacus = (engine(adapted(device, precision, weights)) for engine in (FastEngine, OpacusEngine))
    there = batch.to(torch.device(device))
    few = np.arange(SINGLE_EXAMPLES)
    rows = fast.per_example(there)[few]
    errors = {
        "between": (distance(rows, here.per_example(batch)[few]), BETWEEN[precision]),
        "single": (error_of(fast, there), ALONE[precision]),
        "opacus": (error_of(opacus, there), ALONE[precision]),
        "alone": (distance(rows, alone_in_a_micro_batch(fast, there, few)), GRADIENT_TOLERANCE),
    }
    facts = {"same clip": same_clip(fast, there), "company": same_in_company(fast, there)}
    slots = same_in_every_slot(fast, there)
    words = [name, precision, weights, *(f"{error:.1e}" for error, _ in errors.values())]
    words += ["yes" if fact else "no" for fact in (*facts.values(), slots)]
    words += ["-"] * len(STEPS) if device == "cpu" else times(steps_of(fast, opacus, there))
    return all(error <= most for error, most in errors.values()) and all(facts.values()), words


def not_run(device: str, *, packed: bool) -> Iterator[str]:
    """Yield what this machine could not show."""
    if device == "cpu":
        yield "anything on a GPU: gradients, the integer clip and times there, with bases of 32, 16 and 4 bits"
    if torch.cuda.device_count() < 2:
        yield "a base over several GPUs, which this version refuses"
    if not packed:
        yield "a base of 4 bits: pip install bitsandbytes"


def main() -> int:
    """Check every case and print the table."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda" if torch.cuda.is_available() else "cpu"
    find_device(device)
    torch.set_num_threads(4 if device != "cpu" else 1)
    print(torch.cuda.get_device_name() if device.startswith("cuda") else device, "torch", torch.__version__)
    cases = [one for one in CHECKS if device != "cpu" or one[0] in SMALL]
    skipped = {one for one in CHECKS if find_spec("bitsandbytes") is None and one[2] == "4-bit"}
    checked = [
        check(name, device, precision, weights)
        for name, precision, weights in cases
        if (name, precision, weights) not in skipped
    ]
    heads = [
        "case",
        "precision",
        "weights",
        "from cpu",
        "from single",
        "opacus",
        "from alone",
        "same clip",
        "company",
        "slots",
    ]
    print(table([*heads, *STEPS], [line for _, line in checked]))
    for line in not_run(device, packed=not skipped):
        print(f"not run: {line}")
    return 0 if all(good for good, _ in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
