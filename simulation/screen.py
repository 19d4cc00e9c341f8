"""What the demo shows: steps with their time, and a bar over the rounds where there is a terminal.

Guarantees: without a terminal there are plain lines only, no colours and no bars; ``NO_COLOR`` is respected.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

PLAIN_WIDTH = 100  # columns where there is no terminal
TAIL_LINES = 4  # of each log, after a failure
LONGEST_LINE = 400


class Screen:
    """Prints the demo's story."""

    def __init__(self) -> None:
        self.console = Console(no_color="NO_COLOR" in os.environ, highlight=False)
        if not self.console.is_terminal:
            self.console = Console(no_color=True, highlight=False, width=PLAIN_WIDTH, color_system=None)
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the first line."""
        return time.monotonic() - self._begin

    @property
    def blocks(self) -> bool:
        """Whether the screen has characters beyond ASCII."""
        return self.console.encoding.lower().startswith("utf")

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print what happened within a step."""
        self.say(f"[{self.seconds:4.0f} s]   {text}")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Name a step when it begins; on a terminal with a sign that it goes on."""
        self.say(f"[{self.seconds:4.0f} s] {text}")
        if self.console.is_terminal:
            with self.console.status(""):
                yield
        else:
            yield

    def show_logs(self, logs: Path) -> None:
        """Print the end of every log, so that a failure can be understood from the screen."""
        for log in sorted(logs.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            self.say("\n".join((f"--- {log}", *(line[:LONGEST_LINE] for line in lines))))

    @contextmanager
    def rounds(self, total: int) -> Iterator[Rounds]:
        """Show a bar over the rounds where there is a terminal."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            yield Rounds(self, bar, bar.add_task("the owners' policies look at the plan", total=total))


class Rounds:
    """The bar over the rounds; lines about the rounds go above it."""

    def __init__(self, screen: Screen, bar: Progress, task: TaskID) -> None:
        self._screen = screen
        self._bar = bar
        self._task = task

    def phase(self, text: str) -> None:
        """Show what happens in the open round, on the bar alone."""
        self._bar.update(self._task, description=text)

    def completed(self, number: int, text: str) -> None:
        """Move the bar; without a terminal print the line, if there is one."""
        self._bar.update(self._task, completed=number)
        if text and not self._screen.console.is_terminal:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._screen.say(f"[{self._screen.seconds:4.0f} s] {text}")
