"""The base of the chat example: a small Llama that has read public text alone, trained in a minute.

Guarantees: nothing private is among what it reads; what is written loads with ``from_pretrained``.
Leaves to others: the town's text (``examples.town``), tokenizers and shapes (``examples.bases``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from examples import bases
from examples.town import Town

PUBLIC_SEED: Final = 11
NEWS, CHATS = 3000, 3000
STEPS, BATCH, LENGTH = 300, 24, 56
RATE, WARM_UP = 3e-3, 40
SMOOTHING: Final = 0.1  # of labels: the base shall not be sure of what it has not read
WIDTH, LAYERS = 96, 3
PASSAGE: Final = 240  # characters of other text that make one row


def public_text(tokenizer: Any, town: Town, own: Path | None) -> list[str]:
    """Return what the base reads: the paper, chats of the public page, and the passages of a file, if there is one."""
    texts = [town.news() for _ in range(NEWS)]
    texts += [str(tokenizer.apply_chat_template(town.public_chat(), tokenize=False)) for _ in range(CHATS)]
    return texts + passages(own)


def passages(own: Path | None) -> list[str]:
    """Return a text file in passages of a few lines."""
    text = "" if own is None else own.read_text(encoding="utf-8")
    return [text[start : start + PASSAGE] for start in range(0, len(text), PASSAGE)]


def build(folder: Path, own: Path | None, progress: Callable[[int, int], None]) -> None:
    """Learn a tokenizer, train the base, and write both.

    Args:
        folder: to write into.
        own: a text file that is public too; none is needed.
        progress: told the steps done, of how many.
    """
    town = Town(PUBLIC_SEED)
    words = [town.news() for _ in range(1000)] + [turn["content"] for _ in range(500) for turn in town.public_chat()]
    tokenizer = bases.write_tokenizer(folder, words + passages(own)[:2000])
    model = bases.writer(tokenizer, width=WIDTH, layers=LAYERS)
    train(model, tokenizer, public_text(tokenizer, town, own), progress)
    model.save_pretrained(folder)


def train(model: Any, tokenizer: Any, texts: Sequence[str], progress: Callable[[int, int], None]) -> None:
    """Train a model on texts, each a row of its own."""
    special = str(tokenizer.bos_token)
    coded = tokenizer(
        [text.removeprefix(special) for text in texts], truncation=True, padding="max_length", max_length=LENGTH,
        return_tensors="pt", return_token_type_ids=False,
    )  # fmt: skip
    labels = coded["input_ids"].masked_fill(coded["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _factor)
    random = torch.Generator().manual_seed(PUBLIC_SEED)
    model.train()
    for done in range(1, STEPS + 1):
        rows = torch.randint(len(labels), (BATCH,), generator=random)
        inputs = {name: values[rows] for name, values in coded.items()}
        optimizer.zero_grad()
        _loss(model(**inputs).logits, labels[rows]).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(done, STEPS)
    model.train(mode=False)


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean smoothed cross-entropy of the next tokens."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, label_smoothing=SMOOTHING
    )


def _factor(step: int) -> float:
    """Return the factor of the learning rate: a linear warm-up, then half a cosine down to zero."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (STEPS - WARM_UP)))
