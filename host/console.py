"""How the commands of both daemons print.

Guarantees: with ``--json`` one JSON document on standard output and nothing else there; without it plain lines that fit
80 columns where names do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(value: Json, lines: Sequence[str], *, as_json: bool) -> None:
    """Print a value as JSON, or its lines."""
    typer.echo(json.dumps(value, indent=2) if as_json else "\n".join(lines))


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
