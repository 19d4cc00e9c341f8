"""How a text becomes one vector, or one answer: by the model's own code, or from its tokens'.

A head of our own before which texts are pooled is the base's class for token classification, whose head is linear: the
mean of the tokens' answers is the answer to the mean of their vectors. So PEFT and transformers load the result with
classes that they have, and one line averages.

Guarantees: padding and soft prompts have no part in a text's vector or answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from participant.training.tasks.work import TOKEN_MASK, own_places
from privacy.task_parts import Pooling

OF_TEXTS: Final = "AutoModelForSequenceClassification"
OF_TOKENS: Final = "AutoModelForTokenClassification"


def loader_for(pooling: Pooling) -> str:
    """Return the class of transformers that loads a base with a head."""
    return OF_TEXTS if pooling == "model" else OF_TOKENS


def pooled_answers(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], pooling: Pooling) -> torch.Tensor:
    """Return what a head answers to each text, shape (batch, labels)."""
    found: torch.Tensor = model(**inputs).logits
    return found if pooling == "model" else pooled(own_places(found, inputs), inputs[TOKEN_MASK], pooling)


def pooled(values: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return one vector for each text.

    Args:
        values: of each token, shape (batch, length, width).
        mask: 1 where there is a token, shape (batch, length), each with one at least.
        pooling: ``mean`` of all, the first (``cls``) or the ``last``.
    """
    wide = mask[:, :, None].to(values.dtype)
    match pooling:
        case "mean":
            return (values * wide).sum(dim=1) / wide.sum(dim=1)
        case "cls":
            return values[:, 0]
        case _:
            last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
            return values[torch.arange(len(values), device=values.device), last]
