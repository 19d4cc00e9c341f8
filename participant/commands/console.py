"""How an owner's commands open the directory, and write files for the owner.

Leaves to others: printing (``host.console``). Heavy modules are imported when a command runs, not for its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from privacy.errors import LocalError

if TYPE_CHECKING:
    from participant.daemon.assembly import Opened

Directory = Annotated[
    Path | None, typer.Option("--config", metavar="DIR", envvar="ONLYSUM_HOME", help="The participant's directory.")
]
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
    from participant.daemon.assembly import open_home

    return open_home(directory(config).resolve())


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
