"""How an operator's commands open the directory, and read what they are given.

Leaves to others: printing (``host.console``). Heavy modules are imported when a command runs, not for its help.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from host.console import notes_config
from privacy.errors import LocalError, OnlysumError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from coordinator.opened import OpenHome

Directory = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="DIR",
        envvar="ONLYSUM_HOME",
        help="The coordinator's directory.",
        callback=notes_config("coordinator"),
    ),
]
LONGEST: Final = 3650 * 86_400
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def directory(config: Path | None) -> Path:
    """Return the coordinator's directory: ``--config``, ``ONLYSUM_HOME``, or where the command runs."""
    return Path() if config is None else config


def complete_runs(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs whose id begins like this."""
    from coordinator.database import run_rows

    return _known(context, incomplete, lambda connection: [run.run_id for run in run_rows.list_runs(connection)])


def complete_labels(context: typer.Context, incomplete: str) -> list[str]:
    """Return the keys that runs are labelled with, and behind a key its values."""
    from coordinator.database import label_rows

    def read(connection: Connection) -> list[str]:
        pairs = [pair for labels in label_rows.list_labels(connection).values() for pair in labels.items()]
        return sorted({f"{key}={value}" if "=" in incomplete else key for key, value in pairs})

    return _known(context, incomplete, read)


def complete_members(context: typer.Context, incomplete: str) -> list[str]:
    """Return the members whose name begins like this; in a list of names, for the last of them."""
    from coordinator.database import member_rows

    before, comma, last = incomplete.rpartition(",")
    found = _known(context, last, lambda connection: [known.name for known in member_rows.list_members(connection)])
    return [f"{before}{comma}{name}" for name in found]


RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or its beginning.", autocompletion=complete_runs)
]


def _known(context: typer.Context, incomplete: str, read: Callable[[Connection], list[str]]) -> list[str]:
    """Return what the database has; whoever presses Tab gets no errors."""
    try:
        with opened(context.params.get("config")) as coordinator, coordinator.store.read() as connection:
            return [name for name in read(connection) if name.startswith(incomplete)]
    except OnlysumError:
        return []


def opened(config: Path | None) -> AbstractContextManager[OpenHome]:
    """Open the directory for one command.

    Raises:
        LocalError: ``E-CONFIG-*``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    from coordinator.opened import open_home

    return open_home(directory(config))


def seconds(text: str) -> int:
    """Parse a time span such as ``7d``, ``12h`` or ``30m``.

    Raises:
        LocalError: ``E-USAGE``.
    """
    span = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if span is None:
        raise LocalError("E-USAGE", f"{text!r} is no time span; write 30m, 12h, 7d or 2w")
    found = int(span[1]) * _UNITS[span[2]]
    if found > LONGEST:
        raise LocalError("E-USAGE", f"{text} is longer than {LONGEST // _UNITS['d']}d, which is the most")
    return found


def now() -> int:
    """Return the time that rows carry."""
    return int(time.time())
