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
class Presence:
    """A running daemon: its process, where it listens, and which members are there."""

    pid: int
    started_at: int
    address: str
    enrolment_address: str
    live: tuple[str, ...] = ()


@contextmanager
def only_daemon(home: Home) -> Iterator[None]:
    """Hold the directory's lock, and remove the presence at the end.

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
            home.presence.unlink(missing_ok=True)


def write_presence(home: Home, presence: Presence) -> None:
    """Replace the presence."""
    draft = home.presence.with_suffix(".new")
    draft.write_text(json.dumps(asdict(presence)))
    draft.replace(home.presence)


def read_presence(home: Home) -> Presence | None:
    """Return the running daemon's presence, or ``None`` if none runs."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(home.presence.read_text())
        found["live"] = tuple(found["live"])
        presence = Presence(**found)
        os.kill(presence.pid, 0)
        return presence
    return None
