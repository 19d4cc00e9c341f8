"""How an owner's commands open the directory and print.

Guarantees: with ``--json`` one JSON document on standard output and nothing else there; without it plain lines that
fit 80 columns where names do. Heavy modules are imported when a command runs, not for its help.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from privacy.errors import LocalError

if TYPE_CHECKING:
    from participant.daemon import Opened

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

Directory = Annotated[
    Path | None, typer.Option("--config", metavar="DIR", envvar="ONLYSUM_HOME", help="The participant's directory.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[str, typer.Argument(metavar="PLAN", help="The run's id, or its beginning.")]
As = Annotated[str, typer.Option("--as", metavar="NAME", help="Who decides; by default the user who is logged in.")]
HERE: Final = Path()


def directory(config: Path | None) -> Path:
    """Return the participant's directory: ``--config``, ``ONLYSUM_HOME``, or where the command runs."""
    return HERE if config is None else config


def opened(config: Path | None) -> Opened:
    """Open the directory for one command.

    Raises:
        LocalError: ``E-CONFIG-*`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    from participant.daemon import open_home

    return open_home(directory(config).resolve())


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


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet.

    Raises:
        LocalError: ``E-EXISTS``, or ``E-NOT-FOUND``: its directory is missing.
    """
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise LocalError("E-EXISTS", f"{path} is there already") from None
    except FileNotFoundError:
        raise LocalError("E-NOT-FOUND", f"there is no directory {path.parent}") from None
