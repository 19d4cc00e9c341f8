"""Sentence embedding: two texts are as near as their similarity says.

The loss of a pair is the squared distance of the two vectors' cosine from its similarity. Losses that take the other
texts of a batch for unlike ones are not offered: they would couple the examples, and no example would have a gradient
of its own.

Guarantees: padding has no part in a vector.
Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, arXiv:1908.10084, the regression objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from participant.training.tasks.losses import cosine_losses
from participant.training.tasks.pooling import pooled
from participant.training.tasks.tallies import PairTally
from participant.training.tasks.texts import read_texts
from participant.training.tasks.values import number_of
from participant.training.tasks.work import (
    PAIR,
    TOKEN_MASK,
    Inputs,
    Reading,
    TaskWork,
    own_places,
    random_tokens,
    refused_row,
    spread_lengths,
)
from privacy.errors import LocalError
from privacy.task_parts import SentenceEmbedding

if TYPE_CHECKING:
    from participant.training.models import Base


class NearTexts(TaskWork):
    """Pairs of texts with a similarity from -1 to 1."""

    loader: str = "AutoModel"
    cacheable: ClassVar[bool] = False  # the model is used twice

    def __init__(self, task: SentenceEmbedding) -> None:
        self.task = task

    def unused(self, key: str) -> bool:
        """Return whether a weight of the base has no part in the vectors: its own pooling, where ours is meant."""
        return self.task.pooling != "model" and "pooler" in key.split(".")

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return both texts of each pair, and their similarities, shape (count,)."""
        table, longest = reading.table, self.task.max_length
        similarities = reading.rows(lambda row, where: _similarity(table.labels[row], where), otherwise=0.0)
        first = read_texts(reading, base, longest, table.inputs)
        second = read_texts(reading, base, longest, table.pairs)
        return {**first, **_named_pair(second)}, torch.tensor(similarities)

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return pairs of texts of all lengths, a long one beside a short one."""
        longest = self.task.max_length
        lengths = spread_lengths(longest, 1, count)
        first, second = (random_tokens(base, random, some, longest) for some in (lengths, lengths[::-1]))
        return {**first, **_named_pair(second)}, torch.from_numpy(random.uniform(-1, 1, count).astype(np.float32))

    def answers(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the vectors of both texts, shape (batch, 2, width)."""
        first = {name: value for name, value in inputs.items() if not name.startswith(PAIR)}
        second = {name.removeprefix(PAIR): value for name, value in inputs.items() if name.startswith(PAIR)}
        return torch.stack([self._vectors(model, texts) for texts in (first, second)], dim=1)

    def shape(self, base: Base) -> tuple[int, ...]:
        """Return two vectors."""
        return (2, int(base.model.config.hidden_size))

    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each pair's squared distance of its cosine from its similarity."""
        return cosine_losses(answers, labels)

    def tally(self) -> PairTally:
        """Return cosines beside similarities."""
        return PairTally()

    def _vectors(self, model: torch.nn.Module, texts: Inputs) -> torch.Tensor:
        found = model(**texts)
        if self.task.pooling == "model":
            own: torch.Tensor | None = getattr(found, "pooler_output", None)
            if own is None:
                raise LocalError("E-MODEL-LOAD", "the base has no pooling of its own; task.pooling: mean, cls or last")
            return own
        return pooled(own_places(found.last_hidden_state, texts), texts[TOKEN_MASK], self.task.pooling)


def _similarity(value: Any, where: str) -> float:
    number = number_of(value, where)
    if not -1 <= number <= 1:
        raise refused_row(where, "its similarity is not from -1 to 1")
    return number


def _named_pair(inputs: Inputs) -> Inputs:
    return {f"{PAIR}{name}": value for name, value in inputs.items()}
