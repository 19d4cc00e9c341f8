"""How commands open a coordinator's directory and print.

Guarantees: with ``--json`` one JSON document on standard output and nothing else there; without it plain lines that
fit 80 columns where names do; colours and bars only on a terminal, and never with ``NO_COLOR`` set.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from privacy.errors import LocalError

if TYPE_CHECKING:
    from coordinator.authority import Authority
    from coordinator.config import Home, Settings
    from coordinator.store import Store

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

Directory = Annotated[
    Path, typer.Option("--config", metavar="DIR", envvar="ONLYSUM_HOME", help="The coordinator's directory.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HERE: Final = Path()

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True)
class Opened:
    """A coordinator's directory with its configuration and database."""

    home: Home
    settings: Settings
    store: Store

    def authority(self) -> Authority:
        """Load the keys."""
        from coordinator.authority import load_authority

        return load_authority(self.home.authority)


@contextmanager
def opened(directory: Path) -> Iterator[Opened]:
    """Open a directory for one command.

    Raises:
        LocalError: ``E-CONFIG-*`` or ``E-STATE-DAMAGED``.
    """
    from coordinator.config import Home, load
    from coordinator.store import Store

    home = Home(directory)
    settings = load(home)
    store = Store.open(home.database_url(settings))
    try:
        yield Opened(home, settings, store)
    finally:
        store.close()


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


def seconds(text: str) -> int:
    """Parse a time span such as ``7d``, ``12h`` or ``30m``.

    Raises:
        LocalError: ``E-USAGE``.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", text)
    if found is None:
        raise LocalError("E-USAGE", f"{text!r} is no time span; write 30m, 12h, 7d or 2w")
    return int(found[1]) * _UNITS[found[2]]


def moment(at: int | None) -> str:
    """Return a time as people read it, in UTC."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def now() -> int:
    """Return the time that rows carry."""
    return int(time.time())
