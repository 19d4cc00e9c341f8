"""``backup`` and ``restore``: a coordinator's directory as one archive.

Guarantees: the copy of the database is consistent while the daemon writes, and the run files that it refers to are in
the archive; what is restored never goes on with an attempt that participants may have passed.
Leaves to others: PostgreSQL (pg_dump); masked uploads, which a backup never holds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from coordinator.config import load_settings
from coordinator.database import attempt_rows, member_rows
from coordinator.database.store import Store, copy_sqlite, sqlite_path
from coordinator.home import CONFIG_NAME, Home
from coordinator.opened import OpenHome
from host.archives import move_to_configured, new_archive, restored
from host.state_format import FORMAT_NAME
from privacy.errors import LocalError

DATABASE: Final = "coordinator.db"
TRIES: Final = 5  # a round that completes meanwhile removes files of an older one: the copy is then made again


def write_backup(opened: OpenHome, file: Path) -> int:
    """Write the archive (0600) and return its size in bytes.

    Raises:
        LocalError: ``E-EXISTS``, or ``E-USAGE`` for a database on a server.
    """
    for left in reversed(range(TRIES)):
        try:
            _write(opened, file)
            return file.stat().st_size
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError("unreachable")


def _write(opened: OpenHome, file: Path) -> None:
    source = _sqlite_path(opened)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        copy = Path(scratch) / DATABASE
        copy_sqlite(source, copy)
        with new_archive(file) as archive:
            archive.add(opened.home.config, CONFIG_NAME)
            archive.add(opened.home.directory / FORMAT_NAME, FORMAT_NAME)
            archive.add(opened.home.authority, "authority")
            archive.add(copy, DATABASE)
            if opened.home.runs.exists():
                archive.add(opened.home.runs, "runs")


def _sqlite_path(opened: OpenHome) -> Path:
    path = sqlite_path(opened.settings.database_url(opened.home))
    if path is None:
        how = "back it up by pg_dump, then copy this directory, which holds the keys and the adapters of runs"
        raise LocalError("E-USAGE", f"this database is PostgreSQL, on a server of its own: {how}")
    return path


def read_backup(file: Path, directory: Path, now: int) -> int:
    """Restore an archive into a directory without a coordinator; return how many open attempts were given up.

    Raises:
        LocalError: ``E-EXISTS``, ``E-NOT-FOUND`` or ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    if home.config.exists() or home.authority.exists():
        raise LocalError("E-EXISTS", f"{directory} holds a coordinator already")
    with restored(file, directory) as draft:
        return _take_up(Home(draft), now)


def _take_up(home: Home, now: int) -> int:
    """Make an extracted directory a coordinator again; return how many open attempts were given up."""
    settings = load_settings(home)
    url = settings.database_url(home)
    path = sqlite_path(url)
    if path is not None:
        move_to_configured(home.directory / DATABASE, path, file=CONFIG_NAME)
    store = Store.open(url)
    with store.begin() as connection:
        given_up = attempt_rows.abort_open_attempts(connection, now, attempt_rows.RESTORED)
        member_rows.log_security(connection, now, "restored", settings.federation, f"{given_up} attempts given up")
    store.close()
    return given_up
