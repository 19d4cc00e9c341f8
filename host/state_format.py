"""Which form a daemon's directory has: a number in a file of its own, written when the directory is made.

Guarantees: a directory of another form is refused before anything in it is read, so that state is never half
understood; 0.1 wrote no such file.
Leaves to others: the schema of the coordinator's database, which is upgraded in place (``coordinator.database.store``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from host import durable
from privacy.errors import LocalError

FORMAT: Final = 2  # plans of version 2; journals, drafts and reports that embed them
FORMAT_NAME: Final = "format"


def write_format(directory: Path, form: int = FORMAT) -> None:
    """Mark a new directory as one of this version.

    Raises:
        LocalError: ``E-DISK-FULL`` or ``E-DISK-FAILED``.
    """
    durable.write(directory / FORMAT_NAME, f"{form}\n".encode())


def require_format(directory: Path, settings: Path, form: int = FORMAT) -> None:
    """Refuse a directory that another version made.

    Args:
        directory: of a daemon.
        settings: its configuration file; where there is none, there is no directory to judge.
        form: that this version reads.

    Raises:
        LocalError: ``E-STATE-VERSION``.
    """
    if not settings.exists():
        return
    path = directory / FORMAT_NAME
    with durable.disk_errors(path):
        written = path.read_text(errors="replace").strip()[:20] if path.exists() else "1"
    if written != str(form):
        detail = f"{directory} has state of format {written!r}; this version reads format {form}"
        raise LocalError("E-STATE-VERSION", detail)
