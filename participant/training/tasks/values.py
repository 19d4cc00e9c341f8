"""Texts with a number, with any number of labels, or with a label for each word."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from participant.training.rows.cells import BETWEEN_LABELS, name_text
from participant.training.tasks.classes import LabelNumbers, label_options
from participant.training.tasks.losses import several_losses, squared_losses, token_losses
from participant.training.tasks.pooling import loader_for, pooled_answers
from participant.training.tasks.tallies import ClassTally, NumberTally, SeveralTally
from participant.training.tasks.texts import mask_of, padded, read_texts, tokenizer_of
from participant.training.tasks.work import (
    IGNORED,
    TOKEN_MASK,
    TOKENS,
    Inputs,
    Reading,
    TaskWork,
    random_tokens,
    refused_row,
    spread_lengths,
)
from privacy.errors import LocalError
from privacy.task_parts import MultiLabel, Regression, TokenClassification

if TYPE_CHECKING:
    from participant.training.models import Base

LARGEST: Final = 1e18  # of a number to be learnt: its square is finite in float32


class Numbers(TaskWork):
    """Regression: a number for each text."""

    def __init__(self, task: Regression) -> None:
        self.task = task
        self.loader = loader_for(task.pooling)

    def answers(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what the head answers to each text."""
        return pooled_answers(model, inputs, self.task.pooling)

    def options(self) -> dict[str, Any]:
        """Return that there is one answer."""
        return {"num_labels": 1}

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return texts of the plan's length, and their numbers, shape (count,)."""
        values = reading.table.labels
        numbers = reading.rows(lambda row, where: number_of(values[row], where), otherwise=0.0)
        return read_texts(reading, base, self.task.max_length, reading.table.inputs), torch.tensor(numbers)

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return texts of all lengths with random numbers."""
        numbers, longest = random.normal(size=count).astype(np.float32), self.task.max_length
        return random_tokens(base, random, spread_lengths(longest, 1, count), longest), torch.from_numpy(numbers)

    def shape(self, base: Base) -> tuple[int, ...]:
        """Return one answer."""
        return (1,)

    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each example's squared error."""
        return squared_losses(answers, labels)

    def tally(self) -> NumberTally:
        """Return guesses beside values."""
        return NumberTally()


class SeveralLabels(TaskWork):
    """Any number of labels for each text."""

    def __init__(self, task: MultiLabel) -> None:
        self.task = task
        self.loader = loader_for(task.pooling)

    def answers(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what the head answers to each text."""
        return pooled_answers(model, inputs, self.task.pooling)

    def options(self) -> dict[str, Any]:
        """Return number and names of the labels."""
        return label_options(self.task.labels)

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return texts of the plan's length, and 1 for each label that a text has, shape (count, labels)."""
        table, numbers = reading.table, LabelNumbers(self.task.labels, reading.table.renamed)

        def labels_of(row: int, where: str) -> list[int]:
            return [
                numbers.number(name_text(entry), where) for entry in list_of(table.labels[row], BETWEEN_LABELS, where)
            ]

        found = reading.rows(labels_of, otherwise=list[int]())
        reading.notes += numbers.missing({number for row in found for number in row})
        labels = torch.zeros(len(found), len(self.task.labels))
        for row, present in enumerate(found):
            labels[row, present] = 1
        return read_texts(reading, base, self.task.max_length, table.inputs), labels

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return texts of all lengths with random labels."""
        labels, longest = random.integers(2, size=(count, len(self.task.labels))), self.task.max_length
        inputs = random_tokens(base, random, spread_lengths(longest, 1, count), longest)
        return inputs, torch.from_numpy(labels.astype(np.float32))

    def shape(self, base: Base) -> tuple[int, ...]:
        """Return one answer for each label."""
        return (len(self.task.labels),)

    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each example's mean binary cross-entropy over the labels."""
        return several_losses(answers, labels)

    def tally(self) -> SeveralTally:
        """Return counts of every label."""
        return SeveralTally(len(self.task.labels))


class WordLabels(TaskWork):
    """Token classification: a label for each word, asked for at the word's first token."""

    loader: str = "AutoModelForTokenClassification"

    def __init__(self, task: TokenClassification) -> None:
        self.task = task

    def options(self) -> dict[str, Any]:
        """Return number and names of the labels."""
        return label_options(self.task.labels)

    def require_base(self, name: str, base: Base) -> None:
        """Refuse a tokenizer that does not tell which token is of which word."""
        if not getattr(base.tokenizer, "is_fast", False):
            raise LocalError("E-MODEL-LOAD", f"{name}: labels of words need a fast tokenizer; save its tokenizer.json")

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return token ids and mask, and the class of each word at its first token; all (count, length)."""
        table, longest = reading.table, self.task.max_length
        numbers, tokenizer = LabelNumbers(self.task.labels, table.renamed), tokenizer_of(base)

        def tokens_of(row: int, where: str) -> tuple[list[int], list[int]]:
            words = list_of(table.inputs[row], None, where)
            tags = [numbers.number(name_text(tag), where) for tag in list_of(table.labels[row], None, where)]
            if len(words) != len(tags) or not words or not all(isinstance(word, str) for word in words):
                raise refused_row(where, f"it has {len(words)} words and {len(tags)} labels; each word has one")
            if not all(word.strip() for word in words):
                raise refused_row(where, "one of its words is empty; leave it out, and its label")
            coded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=longest)
            owners = coded.word_ids()
            if max((owner for owner in owners if owner is not None), default=-1) < len(words) - 1:
                reading.cut.add(row)
            first = [owner is not None and owner not in owners[:place] for place, owner in enumerate(owners)]
            if not any(first):
                raise refused_row(where, "none of its words has a token; leave it out")
            return list(coded[TOKENS]), [
                tags[owner] if is_first else IGNORED for owner, is_first in zip(owners, first, strict=True)
            ]

        read = reading.rows(tokens_of, otherwise=(list[int](), list[int]()))
        ids, labels = [row for row, _ in read], [row for _, row in read]
        reading.notes += numbers.missing({number for row in labels for number in row})
        inputs = {TOKENS: padded(ids, longest, base.pad), TOKEN_MASK: mask_of(ids, longest)}
        return inputs, padded(labels, longest, IGNORED)

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return texts of all lengths with a random label at every token."""
        longest = self.task.max_length
        inputs = random_tokens(base, random, spread_lengths(longest, 1, count), longest)
        labels = torch.from_numpy(random.integers(len(self.task.labels), size=(count, longest)))
        return inputs, torch.where(inputs[TOKEN_MASK] == 1, labels, IGNORED)

    def shape(self, base: Base) -> tuple[int, ...]:
        """Return one answer for each place and label."""
        return (self.task.max_length, len(self.task.labels))

    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each example's mean cross-entropy over its own words."""
        return token_losses(answers, labels)

    def tally(self) -> ClassTally:
        """Return counts of every label over all words, and of texts with every word right."""
        return ClassTally(len(self.task.labels), whole=True)


def number_of(value: Any, where: str) -> float:
    """Return a finite number.

    Raises:
        LocalError: ``E-DATA-MISMATCH``.
    """
    try:
        if not isinstance(value, bool | np.bool_) and isinstance(value, str | int | float | Decimal | np.number):
            number = math.nan if isinstance(value, str) and "_" in value else float(value)  # Python reads 1_5 as 15
            if abs(number) <= LARGEST:
                return number
    except (ValueError, OverflowError):
        pass
    raise refused_row(where, f"its label is not a number of at most {LARGEST:.0e}")


def list_of(value: Any, separator: str | None, where: str) -> Sequence[Any]:
    """Return the entries of a list, of one in JSON, or of a text that a separator divides (``None``: spaces).

    Raises:
        LocalError: ``E-DATA-MISMATCH``.
    """
    if hasattr(value, "tolist"):  # an array of a columnar file
        value = value.tolist()
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = None
        else:
            value = [part for part in value.split(separator) if part.strip()]
    if not isinstance(value, list | tuple):
        raise refused_row(where, "a list is expected in it")
    return value
