"""``backup`` and ``restore``: a coordinator's directory as one archive.

Guarantees: the copy of the database is consistent while the daemon writes, and the run files that it refers to are in
the archive; what is restored never goes on with an attempt that participants may have passed.
Leaves to others: databases that are not SQLite (their own tools); masked uploads, which a backup never holds.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from coordinator.commands.console import Opened
from coordinator.config import CONFIG_NAME, Home, load
from coordinator.database import attempt_rows, member_rows
from coordinator.database.store import Store, copy_sqlite
from host import durable
from host.credentials import DIRECTORY_MODE
from privacy.errors import LocalError

DATABASE: Final = "coordinator.db"
TRIES: Final = 5  # a round that completes meanwhile removes files of an older one: then the copy is made again


def write_backup(here: Opened, file: Path) -> int:
    """Write the archive (0600) and return its size in bytes.

    Raises:
        LocalError: ``E-EXISTS``, or ``E-USAGE`` for a database that is not SQLite.
    """
    for left in reversed(range(TRIES)):
        try:
            _write(here, file)
            return file.stat().st_size
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError("unreachable")


def _write(here: Opened, file: Path) -> None:
    source = _sqlite_path(here)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        copy = Path(scratch) / DATABASE
        copy_sqlite(source, copy)
        with durable.new_archive(file) as archive:
            archive.add(here.home.config, CONFIG_NAME)
            archive.add(here.home.authority, "authority")
            archive.add(copy, DATABASE)
            if here.home.runs.exists():
                archive.add(here.home.runs, "runs")


def _sqlite_path(here: Opened) -> Path:
    url = sa.make_url(here.home.database_url(here.settings))
    if url.get_backend_name() != "sqlite" or url.database is None:
        raise LocalError("E-USAGE", "this database is not SQLite: back it up with its own tools, and this directory")
    return Path(url.database)


def read_backup(file: Path, directory: Path, now: int) -> int:
    """Restore an archive into a directory without a coordinator; return how many open attempts were given up.

    Raises:
        LocalError: ``E-EXISTS``, ``E-NOT-FOUND`` or ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    if home.config.exists() or home.authority.exists():
        raise LocalError("E-EXISTS", f"{directory} holds a coordinator already")
    if not file.is_file():
        raise LocalError("E-NOT-FOUND", f"no file {file}")
    with durable.new_directory(directory) as draft:
        draft.chmod(DIRECTORY_MODE)
        durable.extract(file, draft)
        return _take_up(Home(draft), now)


def _take_up(home: Home, now: int) -> int:
    """Make what came out of an archive a coordinator again; return how many open attempts were given up."""
    home.authority.chmod(DIRECTORY_MODE)
    for path in home.authority.iterdir():
        path.chmod(durable.FILE_MODE)
    url = home.database_url(load(home))
    database = sa.make_url(url).database
    if database is not None and Path(database) != (home.directory / DATABASE).resolve():
        if Path(database).exists():
            raise LocalError("E-EXISTS", f"{database}, which coordinator.toml names; move it away first")
        shutil.move(home.directory / DATABASE, database)
    store = Store.open(url)
    with store.begin() as connection:
        given_up = attempt_rows.abort_open_attempts(connection, now, "restored from a backup")
        member_rows.log_security(connection, now, "restored", load(home).federation, f"{given_up} attempts given up")
    store.close()
    return given_up
