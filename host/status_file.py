"""What a running daemon says about itself to the commands beside it, as a small JSON file.

Guarantees: the file is replaced whole; nothing is decided from it, so a disk that refuses it stops no daemon, and
losing it loses nothing; a file that does not parse counts as none.
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


def write_status_file(path: Path, fields: Mapping[str, Any]) -> None:
    """Replace the file, without waiting for the disk; one that refuses is ignored."""
    draft = path.with_name(f".{path.name}.new")
    with suppress(OSError):
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(descriptor, "w") as file:
            json.dump(fields, file)
        draft.replace(path)


def read_status_file(path: Path) -> dict[str, Any] | None:
    """Return the fields, or ``None`` where no daemon has written any."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None
