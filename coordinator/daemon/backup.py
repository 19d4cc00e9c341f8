"""``backup`` and ``restore``: a coordinator's directory as one archive.

Guarantees: the copy of the database is consistent while the daemon writes, and the run files that it refers to are in
the archive, also those that are kept in a storage, to which a restored coordinator puts back what is missing there;
what is restored never goes on with an attempt that participants may have passed.
Leaves to others: PostgreSQL (pg_dump); masked uploads, which a backup never holds.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tarfile import TarFile
from typing import Final

from coordinator.config import Settings, load_settings
from coordinator.database import attempt_rows, member_rows, run_rows
from coordinator.database.store import Store, copy_sqlite, sqlite_path
from coordinator.home import CONFIG_NAME, Home
from coordinator.opened import OpenHome, open_content
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
        except LocalError as error:  # likewise of files that are kept in a storage
            if error.code != "E-STORAGE-DAMAGED" or not left:
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
            if (own := _own_credentials(opened)) is not None:
                archive.add(own, own.name)
            archive.add(copy, DATABASE)
            _add_runs(opened, copy, archive)


def _own_credentials(opened: OpenHome) -> Path | None:
    """Return the file of a storage's credentials, if it lies in the directory."""
    storage = opened.settings.storage
    if storage is None or not storage.credentials or Path(storage.credentials).is_absolute():
        return None
    return opened.home.directory / storage.credentials


def _add_runs(opened: OpenHome, copy: Path, archive: TarFile) -> None:
    """Add the files of runs: those of the directory, or those in the storage that the copy of the database names."""
    if opened.content is None:
        if opened.home.runs.exists():
            archive.add(opened.home.runs, "runs")
        return
    with closing(Store.open(f"sqlite:///{copy}")) as store:
        content = replace(opened.content, store=store, compared={})
        with store.read() as connection:
            runs = [run.run_id for run in run_rows.list_runs(connection)]
        for run_id in runs:
            for name in content.of(run_id).known():
                archive.add(content.of(run_id).fetch(name), f"runs/{run_id}/{name}")


def _sqlite_path(opened: OpenHome) -> Path:
    path = sqlite_path(opened.settings.database_url(opened.home))
    if path is None:
        runs = " and the adapters of runs"
        if opened.content is not None:
            runs = f"; adapters and sums lie in {opened.content.blobs.place}, which has to keep versions of its own"
        how = f"back it up by pg_dump, then copy this directory, which holds the keys{runs}"
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
    try:
        _put_back(home, settings, store)
    finally:
        store.close()
    return given_up


def _put_back(home: Home, settings: Settings, store: Store) -> None:
    """Put files of runs into the storage that are not there any more: what is there stays as it is."""
    content = open_content(home, settings, store)
    if content is None:
        return
    with store.read() as connection:
        runs = [run.run_id for run in run_rows.list_runs(connection)]
    for run_id in runs:
        files = content.of(run_id)
        files.keep(files.directory, files.missing())
