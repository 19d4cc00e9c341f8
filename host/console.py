"""How the commands of both daemons print.

Guarantees: with ``--json`` one JSON document on standard output and nothing else there; without it plain lines that fit
80 columns where names do. Whatever a line holds, no character of it can rewrite the terminal: plans, settings and
messages are checked where they are read, and what got past that (rows of an older version) is escaped here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from privacy.printable import printable

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(value: Json, lines: Sequence[str], *, as_json: bool) -> None:
    """Print a value as JSON, or its lines."""
    say(json.dumps(value, indent=2) if as_json else "\n".join(lines))


def say(text: str, *, to_error: bool = False) -> None:
    """Print a text, with what must not reach a terminal written as escapes."""
    typer.echo(printable(text, line_breaks=True), err=to_error)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of left-aligned columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def moment(at: int | None) -> str:
    """Return a time as people read it, in UTC."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
