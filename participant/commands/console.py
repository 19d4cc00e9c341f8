"""How an owner's commands open the directory, and the options that they share.

Leaves to others: printing (``host.console``). Heavy modules are imported when a command runs, not for its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import notes_config

if TYPE_CHECKING:
    from participant.opened import OpenHome

Directory = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="DIR",
        envvar="ONLYSUM_HOME",
        help="The participant's directory.",
        callback=notes_config("participant"),
    ),
]
RunName = Annotated[str, typer.Argument(metavar="PLAN", help="The run's id, or its beginning.")]
LocalName = Annotated[str, typer.Argument(metavar="NAME", help="Local name: a-z, 0-9, dot, dash, underscore.")]


def directory(config: Path | None) -> Path:
    """Return the participant's directory: ``--config``, ``ONLYSUM_HOME``, or where the command runs."""
    return Path() if config is None else config


def opened(config: Path | None) -> OpenHome:
    """Open the directory for one command.

    Raises:
        LocalError: ``E-CONFIG-*`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    from participant.opened import open_home

    return open_home(directory(config).resolve())
