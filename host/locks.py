"""One daemon per directory.

Guarantees: while the block runs no other process of this machine enters it for the same directory; the operating system
releases the lock however the process ends.
Leaves to others: what the directory holds. File systems without ``flock`` are not supported.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from host.durable import FILE_MODE
from privacy.errors import LocalError

LOCK_NAME: Final = "daemon.lock"


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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError("E-RUNNING", f"a {kind} in {directory}") from None
        yield
    finally:
        os.close(descriptor)
