"""Reading report files, and finding the report of a run in a daemon's directory.

Guarantees: a report is never read beyond a size that a run could give.
Leaves to others: whether it is genuine (``verify``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from privacy.errors import LocalError, VerificationError

MOST_BYTES: Final = 2**28  # 256 MiB: 4096 participants over some hundred rounds
REPORT_FILE: Final = "report.json"
Maker = Literal["coordinator", "participant"]


def read(path: Path) -> bytes:
    """Return a report file's bytes.

    Raises:
        LocalError: ``E-NOT-FOUND`` or ``E-PERMISSIONS``.
        VerificationError: ``E-REPORT-MALFORMED``, it is larger than any report.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise VerificationError("E-REPORT-MALFORMED", f"{path} is larger than a report can be")
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise LocalError("E-NOT-FOUND", f"there is no file {path}") from None
    except PermissionError:
        raise LocalError("E-PERMISSIONS", f"{path} cannot be read") from None


def of_run(home: Path | None, run: str, place: Maker | None) -> Path:
    """Return the report file of a run in a daemon's directory.

    Args:
        home: the directory, of a coordinator or of a participant.
        run: the run's id, or enough of its beginning to be the only one.
        place: whose directory it should be; None takes what it is.

    Raises:
        LocalError: ``E-CONFIG-MISSING``, ``E-NOT-FOUND`` or ``E-USAGE``.
    """
    if home is None:
        raise LocalError("E-CONFIG-MISSING", "no directory was named: pass --config DIR or set ONLYSUM_HOME")
    wanted = (place,) if place else ("coordinator", "participant")
    if not any((home / f"{kind}.toml").is_file() for kind in wanted):
        raise LocalError("E-CONFIG-MISSING", f"{home} holds no {' or '.join(f'{kind}.toml' for kind in wanted)}")
    runs = home / "runs"
    names = (
        sorted(folder.name for folder in runs.iterdir() if folder.name.startswith(run)) if runs.is_dir() and run else []
    )
    if not names:
        raise LocalError("E-NOT-FOUND", f"there is no run {run} in {home}")
    if len(names) > 1:
        raise LocalError("E-USAGE", f"{len(names)} runs begin with {run}: {', '.join(names[:5])}")
    report = runs / names[0] / REPORT_FILE
    if not report.is_file():
        raise LocalError("E-NOT-FOUND", f"run {names[0]} has no report yet: it is made when the run ends")
    return report
