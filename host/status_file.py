"""What a running daemon says about itself to the commands beside it, as a small JSON file.

Guarantees: the file is replaced whole, except on a full disk, of which it could not tell otherwise; nothing is decided
from it, so a disk that refuses it stops no daemon, and losing it loses nothing; one that does not parse counts as none.
Leaves to others: the fields (``coordinator.daemon.status``, ``participant.daemon.status``), and whether the daemon
still runs, which no file can tell (``host.locks``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from host.durable import FILE_MODE

STATUS_NAME: Final = "daemon.json"
BLOCK_BYTES: Final = 512  # in which stat counts, whatever the disk's own blocks


def write_status_file(path: Path, fields: Mapping[str, Any]) -> None:
    """Replace the file, without waiting for the disk; one that refuses is ignored, a full one written over in place."""
    draft, data = path.with_name(f".{path.name}.new"), json.dumps(fields).encode()
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
            _write_over(path, data)


def _write_over(path: Path, data: bytes) -> None:
    """Write into the blocks that the file has, which a full disk allows; too much for them is not written at all."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        there = os.fstat(descriptor)
        if len(data) <= there.st_blocks * BLOCK_BYTES:
            os.pwrite(descriptor, data.ljust(there.st_size), 0)  # spaces after the end are still JSON
    finally:
        os.close(descriptor)


def read_status_file(path: Path) -> dict[str, Any] | None:
    """Return the fields, or ``None`` where no daemon has written any."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None
