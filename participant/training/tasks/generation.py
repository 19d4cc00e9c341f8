"""What a model writes after the prompts of public examples, compared with what is expected.

Guarantees: the likeliest token each time, so that it is the same every time; at most as many examples and tokens as the
constants say, so that measuring a large model ends.
Leaves to others: the figure (``participant.training.metrics``).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

from participant.training.metrics import rouge_l
from participant.training.tasks.texts import tokenizer_of
from participant.training.tasks.work import IGNORED, TOKENS
from privacy.evaluation import Metric

if TYPE_CHECKING:
    from participant.training.examples import Examples
    from participant.training.models import Base

MOST_EXAMPLES: Final = 64  # the first ones
MOST_TOKENS: Final = 64  # after each prompt


def rouge(model: Any, base: Base, examples: Examples) -> tuple[Metric, ...]:
    """Return the mean ROUGE-L of what is written after the first prompt of each of the first examples.

    Args:
        model: the base with its adapter.
        base: has the tokenizer.
        examples: whose labels are what is expected after each place.
    """
    by_length: dict[int, list[tuple[list[int], list[int]]]] = {}
    for row in range(min(MOST_EXAMPLES, len(examples))):
        prompt, answer = prompt_and_answer(examples, row)
        if answer:
            by_length.setdefault(len(prompt), []).append((prompt, answer))
    scores = []
    for alike in by_length.values():
        prompts, expected = zip(*alike, strict=True)
        most = min(MOST_TOKENS, max(len(answer) for answer in expected))
        for own, answer in zip(write_on(model, base, list(prompts), most), expected, strict=True):
            scores.append(rouge_l(_text(base, own), _text(base, answer)))
    found = Metric.of("rouge-l", sum(scores) / len(scores) if scores else math.nan)
    return () if found is None else (found,)


def prompt_and_answer(examples: Examples, row: int) -> tuple[list[int], list[int]]:
    """Return the tokens before the first one that is asked for, and those that are asked for from there on end to end.

    A chat's later turns are not written: the first answer is.
    """
    ids, labels = examples.inputs[TOKENS][row].tolist(), examples.labels[row].tolist()
    first = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
    end = next((place for place in range(first, len(labels)) if labels[place] == IGNORED), len(labels))
    return ids[: first + 1], labels[first:end]


def write_on(model: Any, base: Base, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Return what a model writes after prompts, the likeliest token each time, without the prompts.

    Args:
        model: the base with its adapter.
        base: has the tokenizer.
        prompts: all of one length, so that none is padded: not every adapter knows where padding ends.
        tokens: how many are written at most.
    """
    ids = torch.tensor(prompts, device=next(model.parameters()).device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of positions, which are those of the tokens without padding
        whole = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, num_beams=1,
            use_cache=True, pad_token_id=base.pad, eos_token_id=tokenizer_of(base).eos_token_id,
        )  # fmt: skip
    return [row.tolist() for row in whole[:, ids.shape[1] :]]


def _text(base: Base, ids: list[int]) -> str:
    return str(tokenizer_of(base).decode(ids, skip_special_tokens=True))
