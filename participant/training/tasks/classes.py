"""Classification: one label for each picture or each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from participant.training.rows.cells import name_text
from participant.training.rows.pictures import pixels
from participant.training.tasks.losses import class_losses
from participant.training.tasks.pooling import loader_for, pooled_answers
from participant.training.tasks.tallies import ClassTally
from participant.training.tasks.texts import read_texts
from participant.training.tasks.work import (
    IMAGES,
    Inputs,
    Reading,
    TaskWork,
    random_tokens,
    refused_row,
    spread_lengths,
)
from privacy.task_parts import ImageClassification, TextClassification

if TYPE_CHECKING:
    from participant.training.models import Base

IMPOSSIBLE: Final = -1  # the class of a row that has none
SHOWN_LABELS: Final = 20  # of those that no row has


def label_options(labels: Sequence[str]) -> dict[str, Any]:
    """Return how many answers a base gives, and their names."""
    names = dict(enumerate(labels))
    return {"num_labels": len(names), "id2label": names, "label2id": {name: place for place, name in names.items()}}


class LabelNumbers:
    """Labels by their text; both sides alike: composed, and no 1.0 beside 1.

    Args:
        labels: the plan's.
        renamed: the plan's label by an owner's own spelling of it.
    """

    def __init__(self, labels: Sequence[str], renamed: Mapping[str, str]) -> None:
        self._labels, self._renamed = labels, renamed
        self._numbers = {name_text(label): number for number, label in enumerate(labels)}

    def number(self, label: str | None, where: str) -> int:
        """Return a label's number.

        Raises:
            LocalError: ``E-DATA-MISMATCH``, the plan has no such label.
        """
        number = None if label is None else self._numbers.get(name_text(self._renamed.get(label, label)))
        if number is None:
            raise refused_row(where, "its label is not among the plan's; `dataset map` translates an own spelling")
        return number

    def missing(self, present: set[int]) -> list[str]:
        """Return a remark on the labels that no row has, if there are any."""
        absent = [label for number, label in enumerate(self._labels) if number not in present]
        more = f" and {len(absent) - SHOWN_LABELS} more" if len(absent) > SHOWN_LABELS else ""
        return [f"no row has label {', '.join(absent[:SHOWN_LABELS])}{more}"] if absent else []


class _Classes(TaskWork):
    """What both kinds have in common."""

    task: ImageClassification | TextClassification

    def options(self) -> dict[str, Any]:
        """Return number and names of the labels."""
        return label_options(self.task.labels)

    def read_labels(self, reading: Reading) -> torch.Tensor:
        """Return the class of each row, shape (count,)."""
        numbers, labels = LabelNumbers(self.task.labels, reading.table.renamed), reading.table.labels
        found = reading.rows(lambda row, where: numbers.number(labels[row], where), otherwise=IMPOSSIBLE)
        reading.notes += numbers.missing(set(found))
        return torch.tensor(found, dtype=torch.int64).clamp(min=0)

    def random_labels(self, random: np.random.Generator, count: int) -> torch.Tensor:
        """Return synthetic labels."""
        return torch.from_numpy(random.integers(len(self.task.labels), size=count))

    def shape(self, base: Base) -> tuple[int, ...]:
        """Return one answer for each label."""
        return (len(self.task.labels),)

    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each example's cross-entropy."""
        return class_losses(answers, labels)

    def tally(self) -> ClassTally:
        """Return counts of every class."""
        return ClassTally(len(self.task.labels))


class ImageClasses(_Classes):
    """One label for each picture."""

    loader: str = "AutoModelForImageClassification"

    def __init__(self, task: ImageClassification) -> None:
        self.task: ImageClassification = task

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return pictures of the base's size, and labels."""
        labels = self.read_labels(reading)
        images = torch.zeros(len(labels), base.channels, *base.image_size)
        values = reading.table.inputs
        reading.rows(lambda row, where: images[row].copy_(self._image(values[row], base, where)), otherwise=None)
        return {IMAGES: images}, labels

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return pictures of noise."""
        labels = self.random_labels(random, count)
        images = random.normal(size=(count, base.channels, *base.image_size)).astype(np.float32)
        return {IMAGES: torch.from_numpy(images)}, labels

    def _image(self, value: Any, base: Base, where: str) -> torch.Tensor:
        task = self.task
        scale, mean, std = float(task.image_scale), float(task.image_mean), float(task.image_std)
        array = pixels(value, base.channels, where)
        image = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
        return (_resized(image, base.image_size) / scale - mean) / std


class TextClasses(_Classes):
    """One label for each text."""

    def __init__(self, task: TextClassification) -> None:
        self.task: TextClassification = task
        self.loader = loader_for(task.pooling)

    def answers(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what the head answers to each text."""
        return pooled_answers(model, inputs, self.task.pooling)

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return texts of the plan's length, and labels."""
        labels = self.read_labels(reading)
        return read_texts(reading, base, self.task.max_length, reading.table.inputs), labels

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return texts of all lengths."""
        labels, longest = self.random_labels(random, count), self.task.max_length
        return random_tokens(base, random, spread_lengths(longest, 1, count), longest), labels


def _resized(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if image.shape[1:] == size:
        return image
    stretched = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)
    return stretched[0]
