"""What the running coordinator says about itself: its process, its addresses, who is connected, and what is wrong.

Leaves to others: the file (``host.status_file``), one daemon per directory, and whether it runs (``host.locks``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from coordinator.daemon.troubles import Trouble
from coordinator.home import Home
from host.locks import daemon_runs
from host.status_file import read_status_file, write_status_file


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """A running daemon."""

    pid: int
    started_at: int
    address: str
    enrolment_address: str
    live: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    admin_address: str = ""  # empty: no dashboard is served


def write_status(home: Home, status: DaemonStatus) -> None:
    """Replace the status."""
    write_status_file(home.status_file, asdict(status))


def read_status(home: Home) -> DaemonStatus | None:
    """Return the running daemon's status, or ``None`` if none runs."""
    fields = read_status_file(home.status_file)
    if fields is None or not daemon_runs(home.directory):
        return None
    try:
        troubles = tuple(Trouble(str(code), str(detail)) for code, detail in fields["troubles"])
        return DaemonStatus(**{**fields, "live": tuple(fields["live"]), "troubles": troubles})
    except (KeyError, TypeError, ValueError):
        return None


def live_members(home: Home) -> tuple[str, ...]:
    """Return who is connected to the running daemon; nobody where none runs."""
    status = read_status(home)
    return status.live if status else ()
