"""One daemon per directory, and one at a time where several write.

Guarantees: while the block runs no other process of this machine enters it for the same directory; the operating system
releases the lock however the process ends, so that the lock, and no process id, tells whether a daemon runs.
Leaves to others: what the directory holds. File systems without ``flock`` are not supported.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from host.durable import FILE_MODE, disk_errors
from privacy.errors import LocalError

LOCK_NAME: Final = "daemon.lock"
TRIES: Final = 20  # whoever only looks holds the lock for a moment
PAUSE_SECONDS: Final = 0.02


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting until no other thread or process does; the file is made and stays.

    Raises:
        LocalError: ``E-DISK-*``.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        with disk_errors(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def only_daemon(directory: Path, kind: str) -> Iterator[None]:
    """Hold a directory's lock.

    Args:
        directory: the daemon's directory.
        kind: what runs there, for the message: ``coordinator`` or ``participant``.

    Raises:
        LocalError: ``E-RUNNING``, another daemon holds it.
    """
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        tries = TRIES
        while not _lock(descriptor, fcntl.LOCK_EX):
            tries -= 1
            if not tries:
                raise LocalError("E-RUNNING", f"a {kind} in {directory}")
            time.sleep(PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def daemon_runs(directory: Path) -> bool:
    """Return whether a daemon holds the directory's lock now."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False  # none has started here, or it is another user's
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
