"""What a kind of task is to a trainer: rows to inputs, answers to each example's own loss, answers to metrics.

Guarantees: a loss belongs to one example and reads nothing of another, so that each example has a gradient of its own;
inputs of one task have one fixed shape.
Leaves to others: which kind a plan's task is (``participant.training.tasks.kinds``), reading files
(``participant.training.data``).
Source: docs/privacy-accounting.md section 3; ADR 0034.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.data import Table
from privacy.errors import LocalError
from privacy.interfaces import RandomSource

if TYPE_CHECKING:
    from participant.training.examples import Examples
    from participant.training.models import Base
    from privacy.evaluation import Metric

IMAGES: Final = "pixel_values"
TOKENS: Final = "input_ids"
TOKEN_MASK: Final = "attention_mask"  # noqa: S105  the name of a model's input
PAIR: Final = "pair_"  # before the names of the inputs of a second text
IGNORED: Final = -100  # in place of a class, where none is asked for

Inputs = dict[str, torch.Tensor]
Value = TypeVar("Value")


class Reading:
    """Reads a table row by row, and notes what became of its rows.

    Args:
        table: of the dataset.

    Attributes:
        unusable: rows that the plan cannot use; those that the table lacks a value of are not read at all.
        cut: rows that are longer than the plan lets them be.
        notes: what else the owner should know of the rows; nothing of what is in them.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.unusable = table.unusable
        self.cut: set[int] = set()
        self.notes: list[str] = []

    def rows(self, read: Callable[[int, str], Value], *, otherwise: Value) -> list[Value]:
        """Return what each row is read as, or something else where that fails.

        Args:
            read: given a row and the words that name it in a refusal.
            otherwise: of a row that the plan cannot use.
        """
        values = []
        lacking = frozenset(self.table.unusable.numbers)
        for row, where in enumerate(self.table.places):
            try:
                values.append(otherwise if row in lacking else read(row, where))
            except Exception as error:  # noqa: BLE001  whatever a row brings about: nothing of it may show
                self.unusable.note(row, where, error)
                values.append(otherwise)
        return values

    def remarks(self) -> tuple[str, ...]:
        """Return what the owner should know of the rows that were read."""
        count = len(self.table.places)
        cut = [f"{len(self.cut)} of {count} rows are longer than task.max_length, and are cut"] if self.cut else []
        return (*cut, *self.notes)


class Tally(ABC):
    """Adds up what an evaluator measures, batch by batch."""

    @abstractmethod
    def add(self, answers: torch.Tensor, labels: torch.Tensor) -> None:
        """Take a batch, the examples first in both."""

    @abstractmethod
    def metrics(self) -> Iterable[tuple[str, float]]:
        """Yield name and value of each metric."""


class TaskWork(ABC):
    """A kind of task, for the task of one plan.

    Attributes:
        loader: class of transformers that loads a base for it.
        pads: whether the base's own code has to know which tokens are padding.
        cacheable: whether an example's inputs are the same in every step and every use of the model.
    """

    loader: str
    pads: ClassVar[bool] = True
    cacheable: ClassVar[bool] = True

    def options(self) -> dict[str, Any]:
        """Return what the loader is given beside the folder."""
        return {}

    def require_base(self, name: str, base: Base) -> None:  # noqa: B027  most tasks need nothing
        """Refuse a base that lacks what the task needs.

        Raises:
            LocalError: ``E-MODEL-LOAD``.
        """

    @abstractmethod
    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return the inputs of all rows, each with the rows first, and what the loss compares the answers with."""

    @abstractmethod
    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return the same of synthetic rows, of the very shape of real ones."""

    def answers(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what the loss is a function of, the examples first."""
        found: torch.Tensor = model(**inputs).logits
        return found if found.dim() < 3 else own_places(found, inputs)

    @abstractmethod
    def shape(self, base: Base) -> tuple[int, ...]:
        """Return the shape of one example's answers."""

    @abstractmethod
    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each example's own loss, shape (batch,)."""

    def unused(self, key: str) -> bool:
        """Return whether a weight of a base has no part in the answers, by its key: a checkpoint may lack it."""
        return False

    def in_step(self, examples: Examples, rows: NDArray[np.int64], base: Base, random: RandomSource) -> Examples:
        """Return the examples as a step sees some of their rows.

        Args:
            examples: all of them.
            rows: those of the step's batch.
            base: has the tokenizer.
            random: the participant's own.
        """
        return examples

    @abstractmethod
    def tally(self) -> Tally:
        """Return an empty tally of what an evaluator measures."""

    def generated(self, model: Any, base: Base, examples: Examples) -> tuple[Metric, ...]:
        """Return metrics of what a model writes; nothing where it writes nothing."""
        return ()


def own_places(answers: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the answers at a text's own places, shape (batch, length, ...): those at a soft prompt are left out."""
    return answers[:, -inputs[TOKENS].shape[1] :]


def refused_row(where: str, what: str) -> LocalError:
    """Return the refusal of a row that does not fit the plan."""
    return LocalError("E-DATA-MISMATCH", f"{where}: {what}")


def spread_lengths(longest: int, shortest: int, count: int) -> NDArray[np.int64]:
    """Return lengths of synthetic texts from the longest to the shortest: padding and its absence are both met."""
    return np.linspace(longest, shortest, count).astype(np.int64)


def random_tokens(base: Base, random: np.random.Generator, lengths: NDArray[np.int64], longest: int) -> Inputs:
    """Return synthetic texts of some lengths, padded to the longest; shape (count, longest)."""
    ids = random.integers(base.tokenizer_size, size=(len(lengths), longest))
    longest_rows = lengths == longest  # without a token that a base would take for padding: these need every position
    ids[longest_rows] = np.where(ids == base.pad, (base.pad + 1) % base.tokenizer_size, ids)[longest_rows]
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    tokens = np.where(mask == 1, ids, base.pad)
    return {TOKENS: torch.from_numpy(tokens), TOKEN_MASK: torch.from_numpy(mask)}
