"""How an operator's commands open the directory, and read what they are given.

Leaves to others: printing (``host.console``). Heavy modules are imported when a command runs, not for its help.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from privacy.errors import LocalError

if TYPE_CHECKING:
    from coordinator.config import Home, Settings
    from coordinator.database.store import Store
    from coordinator.enrolment.authority import Authority

Directory = Annotated[
    Path, typer.Option("--config", metavar="DIR", envvar="ONLYSUM_HOME", help="The coordinator's directory.")
]
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
        from coordinator.enrolment.authority import load_authority

        return load_authority(self.home.authority)


@contextmanager
def opened(directory: Path) -> Iterator[Opened]:
    """Open a directory for one command.

    Raises:
        LocalError: ``E-CONFIG-*`` or ``E-STATE-DAMAGED``.
    """
    from coordinator.config import Home, load
    from coordinator.database.store import Store

    home = Home(directory)
    settings = load(home)
    store = Store.open(home.database_url(settings))
    try:
        yield Opened(home, settings, store)
    finally:
        store.close()


def seconds(text: str) -> int:
    """Parse a time span such as ``7d``, ``12h`` or ``30m``.

    Raises:
        LocalError: ``E-USAGE``.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", text)
    if found is None:
        raise LocalError("E-USAGE", f"{text!r} is no time span; write 30m, 12h, 7d or 2w")
    return int(found[1]) * _UNITS[found[2]]


def now() -> int:
    """Return the time that rows carry."""
    return int(time.time())
