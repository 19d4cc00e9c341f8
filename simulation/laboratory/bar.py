"""The bar of a simulation: how many updates are done, and how long the rest will take.

Guarantees: on a terminal a bar, on standard error and gone afterwards; otherwise lines, one a while.
"""

from __future__ import annotations

import os
import time
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from host.console import say
from simulation.laboratory.spec import Cell

LINE_SECONDS: Final = 30.0  # between two lines where there is no terminal


class Bar:
    """A bar over the updates of a run with the time that is left, on standard error; without a terminal, lines."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, no_color="NO_COLOR" in os.environ, highlight=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(
            *columns,
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._begun: float | None = None
        self._done, self._before, self._updates = 0, 0, 0
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line."""
        if self._console.is_terminal:
            self._console.print(text, markup=False)
        else:
            say(text, to_error=True)

    def begin(self, cell: Cell, *, updates: int, done: int) -> None:
        """Begin a run's bar."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(f"simulation {cell.id}", total=updates, completed=done)
        self._begun, self._done, self._before, self._updates = None, done, done, updates

    def trained(self, count: int) -> None:
        """Move it."""
        self._done += count
        if self._task is not None:
            self._bars.update(self._task, completed=self._done)
        now = time.monotonic()
        if self._begun is None:  # what comes before the first is loading
            self._begun, self._before = now, self._done
        elif not self._console.is_terminal and now - self._said >= LINE_SECONDS:
            self._said = now
            left = (now - self._begun) / (self._done - self._before) * max(0, self._updates - self._done)
            self.note(f"{self._done} of {self._updates} updates, about {left:.0f} s left")
