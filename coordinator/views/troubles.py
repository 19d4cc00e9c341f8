"""What keeps the coordinator from working, as its operator sees it: first of all a full disk.

Guarantees: a full disk is seen from here, and not only by the daemon, which could not write that down.
Leaves to others: what the daemon noted (``coordinator.daemon.troubles``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import sqlalchemy as sa

from coordinator.daemon.status import DaemonStatus
from coordinator.daemon.troubles import Trouble
from coordinator.opened import OpenHome
from host.checkup import full_disk
from host.rendering import Json
from privacy.errors import LocalError


def current_troubles(opened: OpenHome, daemon: DaemonStatus | None) -> tuple[Trouble, ...]:
    """Return what is wrong now: disks that are full, and what the running daemon met lately."""
    disks = {
        directory.stat().st_dev: directory for directory in reversed([*_directories(opened)]) if directory.exists()
    }
    full = [error for directory in disks.values() if (error := full_disk(directory)) is not None]
    seen = {Trouble(error.code, error.detail): None for error in full}
    return tuple(seen | dict.fromkeys(daemon.troubles if daemon else ()))


def _directories(opened: OpenHome) -> Iterator[Path]:
    yield opened.home.directory
    yield opened.settings.spool_path(opened.home)
    url = sa.make_url(opened.settings.database_url(opened.home))
    if url.get_backend_name() == "sqlite" and url.database:
        yield Path(url.database).parent


def troubles_json(troubles: Iterable[Trouble]) -> Json:
    """Return them for programs."""
    return [{"code": trouble.code, "detail": trouble.detail} for trouble in troubles]


def trouble_lines(troubles: Iterable[Trouble]) -> list[str]:
    """Return them for people, each with its next step."""
    lines: list[str] = []
    for code, detail in troubles:
        explanation = LocalError(code, detail).explanation
        lines.append(f"{code}: {explanation.what}: {detail}. Next: {explanation.next_step}")
    return lines
