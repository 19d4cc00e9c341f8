"""What a model writes after the prompts of public examples, compared with what is expected.

Guarantees: the likeliest token each time, so that it is the same every time; at most as many examples and tokens as the
constants say, so that measuring a large model ends.
Leaves to others: the figure (``participant.training.metrics``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from participant.training.metrics import rouge_l
from participant.training.tasks.texts import tokenizer_of
from participant.training.tasks.work import IGNORED, TOKEN_MASK, TOKENS
from privacy.evaluation import Metric

if TYPE_CHECKING:
    from participant.training.examples import Examples
    from participant.training.models import Base

MOST_EXAMPLES: Final = 64  # the first ones
MOST_TOKENS: Final = 64  # after each prompt
BATCH: Final = 16


def rouge(model: Any, base: Base, examples: Examples) -> tuple[Metric, ...]:
    """Return the mean ROUGE-L of what is written after the first prompt of each of the first examples.

    Args:
        model: the base with its adapter.
        base: has the tokenizer.
        examples: whose labels are what is expected after each place.
    """
    scores = []
    count = min(MOST_EXAMPLES, len(examples))
    for start in range(0, count, BATCH):
        prompts, expected = zip(
            *(prompt_and_answer(examples, row) for row in range(start, min(start + BATCH, count))), strict=True
        )
        longest = max(len(answer) for answer in expected)
        written = write_on(model, base, list(prompts), min(MOST_TOKENS, max(1, longest)))
        scores += [
            rouge_l(_text(base, own), _text(base, answer))
            for own, answer in zip(written, expected, strict=True)
            if answer
        ]
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
    """Return what a model writes after prompts, the likeliest token each time, without the prompts."""
    width = max(len(prompt) for prompt in prompts)
    inputs = {  # padded in front: what is written follows the prompt
        TOKENS: torch.tensor([[*[base.pad] * (width - len(prompt)), *prompt] for prompt in prompts]),
        TOKEN_MASK: torch.tensor([[*[0] * (width - len(prompt)), *[1] * len(prompt)] for prompt in prompts]),
    }
    device = next(model.parameters()).device
    with torch.no_grad():
        whole = model.generate(
            **{name: value.to(device) for name, value in inputs.items()},
            max_new_tokens=tokens, do_sample=False, num_beams=1, use_cache=True, pad_token_id=base.pad,
            eos_token_id=tokenizer_of(base).eos_token_id,
        )  # fmt: skip
    return [row.tolist() for row in whole[:, width:]]


def _text(base: Base, ids: list[int]) -> str:
    return str(tokenizer_of(base).decode(ids, skip_special_tokens=True))
