"""How commands print.

Guarantees: with ``--json`` one JSON document on standard output and nothing else there; without it plain lines.
Leaves to others: what is shown (``host.rendering``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from host.rendering import Json, View

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(value: Json, lines: Sequence[str], *, as_json: bool) -> None:
    """Print a value as JSON, or its lines."""
    typer.echo(json.dumps(value, indent=2) if as_json else "\n".join(lines))


def show_view(view: View, *, as_json: bool) -> None:
    """Print a view as JSON, or its lines."""
    show(view.to_json(), view.to_lines(), as_json=as_json)
