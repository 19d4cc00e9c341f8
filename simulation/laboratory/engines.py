"""Where participants train: one after the other in this process, or wherever an engine sends them.

Guarantees: updates come in the order of the names, so that whoever takes them one by one holds few at a time.
Leaves to others: a cluster (``ray_engine``), the training itself (``training``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from simulation.laboratory.training import NOTHING, AtHome, Training, TrainingSet, Update, Vector


class Engine(Protocol):
    """Computes updates; a context manager, which ends what it started."""

    elsewhere: bool  # whether other processes than this one train

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def updates(self, number: int, adapter: Vector, names: Sequence[str], kept: Kept) -> Iterator[Update]:
        """Yield the updates of some participants to a round, in their order; ``kept`` is what is with whom."""
        ...


Kept = Mapping[str, AtHome]
Prepare = Callable[[TrainingSet, Path], Engine]  # what trains, and a directory of its own


class InProcess:
    """Trains in this process."""

    elsewhere = False

    def __init__(self, work: TrainingSet, directory: Path) -> None:
        self._training: Training = work.load(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to end."""

    def updates(self, number: int, adapter: Vector, names: Sequence[str], kept: Kept) -> Iterator[Update]:
        """Yield updates as :class:`Engine` says."""
        return (self._training.update(name, number, adapter, kept.get(name, NOTHING)) for name in names)
