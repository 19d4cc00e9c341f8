"""Files that are whole or absent after a crash.

Guarantees: when :func:`write` returns, the new bytes survive a power cut; before, the old ones do.
"""

from __future__ import annotations

import os
from pathlib import Path

from privacy.errors import LocalError


def write(path: Path, data: bytes | memoryview, *, mode: int = 0o644) -> None:
    """Replace a file: a temporary file in the same directory, fsync, rename, fsync of the directory.

    Raises:
        LocalError: ``E-DISK-FULL`` when it cannot be written.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(mode=mode, exist_ok=False)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise LocalError("E-DISK-FULL", f"{path.name} could not be written: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
