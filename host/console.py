"""How commands print.

Guarantees: with ``--json`` one JSON document on standard output and nothing else there; without it lines that break
between words, at the terminal's width, at ``COLUMNS``, or at 80. Whatever a line holds, no character of it can rewrite
the terminal: plans, settings and messages are checked where they are read, and what got past that (rows of an older
version) is escaped here. A command that a line or an error tells to run next names the directory as it was given.
Leaves to others: what is shown (``host.rendering``).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final

import typer

from host.rendering import Json, Line, Table, View, wrapped
from privacy.printable import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Progress = Callable[[int, int], object]  # how much is done, of how much

COLUMNS: Final = 80  # where neither a terminal nor COLUMNS says how wide
NARROWEST: Final = 20
# A command in a sentence stands in backquotes, or goes from a colon to the end of the line.
_COMMAND: Final = re.compile(
    r"(?<=`)onlysum (coordinator|participant) [^`\n]+|(?<=: )onlysum (coordinator|participant) .+"
)
_NO_CONFIG: Final = re.compile(r"onlysum coordinator (init|security check)\b")  # these have no such option

_given: ContextVar[tuple[str, str]] = ContextVar("given", default=("", ""))  # package, and its --config as typed


def notes_config(package: str) -> Callable[[typer.Context, Path | None], Path | None]:
    """Return the callback of a package's ``--config``: what next steps say is the directory as it was typed.

    A directory from ``ONLYSUM_HOME`` is not repeated: the next command finds it there too.
    """

    def note(context: typer.Context, value: Path | None) -> Path | None:
        source = context.get_parameter_source("config")
        typed = value is not None and source is not None and source.name == "COMMANDLINE"
        _given.set((package, str(value)) if typed else ("", ""))
        return value

    return note


def with_config(text: str) -> str:
    """Return a text whose commands name the directory, where ``--config`` was typed and they have none."""
    package, given = _given.get()

    def complete(command: re.Match[str]) -> str:
        if package not in command.groups() or " --config " in command[0] or _NO_CONFIG.match(command[0]):
            return command[0]
        return f"{command[0]} --config {shlex.quote(given)}"

    return _COMMAND.sub(complete, text) if package else text


def columns() -> int:
    """Return how many columns a line may have."""
    return max(NARROWEST, shutil.get_terminal_size((COLUMNS, 24)).columns)


def laid_out(line: Line) -> list[str]:
    """Return a line or a table as it is printed here."""
    if isinstance(line, Table):
        return line.fit(columns())
    return [part for whole in with_config(line).split("\n") for part in wrapped(whole, columns())]


def show(value: Json, lines: Sequence[Line], *, as_json: bool) -> None:
    """Print a value as JSON, or its lines."""
    if as_json:
        echo(json.dumps(value, indent=2))
    else:
        say(*lines)


def say(*lines: Line, to_error: bool = False) -> None:
    """Print lines, with what must not reach a terminal written as escapes."""
    for line in lines:
        echo("\n".join(laid_out(line)), to_error=to_error)


def echo(text: str, *, to_error: bool = False) -> None:
    """Print a text that must not be broken: JSON, a token, an event of a log."""
    typer.echo(printable(text, line_breaks=True), err=to_error)


@contextmanager
def working(what: str) -> Iterator[Progress]:
    """Show what takes long while the block runs: on a terminal, on standard error, and gone afterwards.

    Yields:
        A callback that takes how much is done of how much; a bar appears with its first call.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    plain = Console(stderr=True, no_color="NO_COLOR" in os.environ)
    shown = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bars(*shown, console=plain, transient=True) as bars:
        task = bars.add_task(printable(what), total=None)
        yield lambda done, whole: bars.update(task, completed=done, total=whole)


def _nothing(done: int, whole: int) -> None:
    """Show nothing."""


def show_view(view: View, *, as_json: bool) -> None:
    """Print a view as JSON, or its lines."""
    show(view.to_json(), view.to_lines(), as_json=as_json)
