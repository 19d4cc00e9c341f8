"""What an evaluator adds up over its public examples, one tally for each form of answers.

Guarantees: the same whatever the batches are, to rounding of the losses.
Leaves to others: the figures' definitions (``participant.training.metrics``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training import metrics
from participant.training.tasks.losses import class_losses, cosine_losses, cosines, several_losses
from participant.training.tasks.work import IGNORED, Tally

HALF: Final = 0.0  # a label is meant where its logit is above: a probability of more than a half

Named = Iterator[tuple[str, float]]


class ClassTally(Tally):
    """One class for each example, or for each of its places; ``IGNORED`` where none is asked for.

    Args:
        classes: how many there are; F1 is told where it is not 0.
        perplexity: whether the classes are tokens.
        whole: whether it is told how many examples are right in every place.
    """

    def __init__(self, classes: int, *, perplexity: bool = False, whole: bool = False) -> None:
        self._classes, self._perplexity, self._whole = classes, perplexity, whole
        self._loss, self._asked, self._right = 0.0, 0, 0
        self._examples, self._exact = 0, 0
        self._counts = np.zeros((3, classes), dtype=np.int64)  # right, guessed, there

    def add(self, answers: torch.Tensor, labels: torch.Tensor) -> None:
        """Take a batch: answers (batch, classes) or (batch, places, classes)."""
        asked = labels != IGNORED
        chosen, wanted = answers[asked], labels[asked]
        guesses = chosen.argmax(dim=-1)
        self._loss += float(class_losses(chosen, wanted).double().sum())
        self._asked += len(wanted)
        self._right += int((guesses == wanted).sum())
        if self._whole:
            some = asked.any(dim=1)
            wrong = ((answers.argmax(dim=-1) != labels) & asked).any(dim=1)
            self._examples += int(some.sum())
            self._exact += int((some & ~wrong).sum())
        if self._classes:
            found = (wanted[guesses == wanted], guesses, wanted)
            self._counts += np.stack([np.bincount(some.cpu().numpy(), minlength=self._classes) for some in found])

    def metrics(self) -> Named:
        """Yield loss and accuracy over all places, and what else was asked for."""
        if not self._asked:
            return
        loss = self._loss / self._asked
        yield "loss", loss
        yield "accuracy", self._right / self._asked
        if self._classes:
            yield "f1", metrics.macro_f1(*self._counts)
        if self._perplexity:
            yield "perplexity", metrics.perplexity(loss)
        if self._whole and self._examples:
            yield "exact-match", self._exact / self._examples


class SeveralTally(Tally):
    """Any number of labels for each example; answers and labels of shape (batch, labels)."""

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._loss, self._examples, self._right, self._exact = 0.0, 0, 0, 0
        self._counts = np.zeros((3, labels), dtype=np.int64)  # right, guessed, there

    def add(self, answers: torch.Tensor, labels: torch.Tensor) -> None:
        """Take a batch."""
        guesses, meant = answers > HALF, labels > 0
        self._loss += float(several_losses(answers, labels).double().sum())
        self._examples += len(labels)
        self._right += int((guesses == meant).sum())
        self._exact += int((guesses == meant).all(dim=1).sum())
        self._counts += torch.stack([guesses & meant, guesses, meant]).sum(dim=1).cpu().numpy()

    def metrics(self) -> Named:
        """Yield loss, accuracy of single decisions, F1, and the part of examples with all labels right."""
        if self._examples:
            yield "loss", self._loss / self._examples
            yield "accuracy", self._right / (self._examples * self._labels)
            yield "f1", metrics.macro_f1(*self._counts)
            yield "exact-match", self._exact / self._examples


class _ValueTally(Tally):
    """Keeps a guess and a value of each example."""

    def __init__(self) -> None:
        self._guesses: list[NDArray[np.float64]] = [np.empty(0)]
        self._values: list[NDArray[np.float64]] = [np.empty(0)]

    def keep(self, guesses: torch.Tensor, values: torch.Tensor) -> None:
        """Keep a batch's, both of shape (batch,)."""
        self._guesses.append(guesses.double().cpu().numpy())
        self._values.append(values.double().cpu().numpy())

    @property
    def pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All guesses and all values."""
        return np.concatenate(self._guesses), np.concatenate(self._values)


class NumberTally(_ValueTally):
    """A number for each example; answers (batch, 1), labels (batch,)."""

    def add(self, answers: torch.Tensor, labels: torch.Tensor) -> None:
        """Take a batch."""
        self.keep(answers[:, 0], labels)

    def metrics(self) -> Named:
        """Yield the mean squared and absolute error, and the part of the variance that is explained."""
        guesses, values = self.pairs
        if values.size:
            yield "loss", float(np.mean((guesses - values) ** 2))
            yield "mean-absolute-error", float(np.mean(np.abs(guesses - values)))
            yield "r2", metrics.r_squared(guesses, values)


class PairTally(_ValueTally):
    """A similarity of two texts for each example; answers (batch, 2, width), labels (batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self._loss = 0.0

    def add(self, answers: torch.Tensor, labels: torch.Tensor) -> None:
        """Take a batch."""
        self._loss += float(cosine_losses(answers, labels).double().sum())
        self.keep(cosines(answers), labels)

    def metrics(self) -> Named:
        """Yield the mean squared error of cosines, and the correlation of their ranks with the similarities'."""
        guesses, values = self.pairs
        if values.size:
            yield "loss", self._loss / values.size
            yield "spearman", metrics.spearman(guesses, values)
