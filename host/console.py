"""How commands print.

Guarantees: with ``--json`` one JSON document on standard output and nothing else there; without it plain lines.
Whatever a line holds, no character of it can rewrite the terminal: plans, settings and messages are checked where they
are read, and what got past that (rows of an older version) is escaped here.
Leaves to others: what is shown (``host.rendering``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from host.rendering import Json, View
from privacy.printable import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(value: Json, lines: Sequence[str], *, as_json: bool) -> None:
    """Print a value as JSON, or its lines."""
    say(json.dumps(value, indent=2) if as_json else "\n".join(lines))


def say(text: str, *, to_error: bool = False) -> None:
    """Print a text, with what must not reach a terminal written as escapes."""
    typer.echo(printable(text, line_breaks=True), err=to_error)


def show_view(view: View, *, as_json: bool) -> None:
    """Print a view as JSON, or its lines."""
    show(view.to_json(), view.to_lines(), as_json=as_json)
