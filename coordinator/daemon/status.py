"""What the running daemon says about itself, for commands on the same machine.

Guarantees: one daemon a directory; a file left by a dead process counts as no daemon.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from coordinator.config import Home
from privacy.errors import LocalError

LOCK_NAME = "daemon.lock"


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """A running daemon: its process, where it listens, and which members are there."""

    pid: int
    started_at: int
    address: str
    enrolment_address: str
    live: tuple[str, ...] = ()


@contextmanager
def only_daemon(home: Home) -> Iterator[None]:
    """Hold the directory's lock, and remove the status at the end.

    Raises:
        LocalError: ``E-EXISTS``: another daemon runs on this directory.
    """
    with (home.directory / LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError("E-RUNNING", f"a coordinator in {home.directory}") from None
        try:
            yield
        finally:
            home.status.unlink(missing_ok=True)


def write_status(home: Home, status: DaemonStatus) -> None:
    """Replace the status."""
    draft = home.status.with_suffix(".new")
    draft.write_text(json.dumps(asdict(status)))
    draft.replace(home.status)


def read_status(home: Home) -> DaemonStatus | None:
    """Return the running daemon's status, or ``None`` if none runs."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(home.status.read_text())
        found["live"] = tuple(found["live"])
        status = DaemonStatus(**found)
        os.kill(status.pid, 0)
        return status
    return None
