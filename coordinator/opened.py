"""A coordinator's directory with its configuration and database open: what commands, views and backups start from.

Guarantees: an empty database is begun for a coordinator that has never opened one, and for no other.
Leaves to others: the daemon, which opens the same database for itself (``coordinator.daemon.process``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.config import Settings, load_settings
from coordinator.database.store import Store
from coordinator.enrolment.authority import Authority, load_authority
from coordinator.home import Home
from coordinator.runs.global_adapter import RunFiles
from coordinator.storage.configured import open_blobs
from coordinator.storage.content import Content
from host import durable
from privacy.errors import LocalError


@dataclass(frozen=True, slots=True)
class OpenHome:
    """An open directory."""

    home: Home
    settings: Settings
    store: Store
    _content: list[Content] = field(
        default_factory=list, repr=False, compare=False
    )  # opened when it is first asked for

    @property
    def content(self) -> Content | None:
        """Where files of runs are kept, if not in the directory alone.

        Raises:
            LocalError: as :func:`coordinator.storage.configured.open_blobs`.
        """
        if not self._content and (content := open_content(self.home, self.settings, self.store)) is not None:
            self._content.append(content)
        return self._content[0] if self._content else None

    def files(self, run_id: str) -> RunFiles:
        """Return the files of a run; raises as :attr:`content`."""
        content = self.content
        return RunFiles(self.home.run(run_id), None if content is None else content.of(run_id))

    def authority(self) -> Authority:
        """Load the keys.

        Raises:
            LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
            VerificationError: ``E-STATE-DAMAGED``.
        """
        return load_authority(self.home.authority)


@contextmanager
def open_home(directory: Path) -> Iterator[OpenHome]:
    """Open a directory until the block ends.

    Raises:
        LocalError: ``E-CONFIG-*``, or as :meth:`Store.open`.
    """
    home = Home(directory)
    settings = load_settings(home)
    home, store = settings.placed(home), open_store(home, settings)
    try:
        yield OpenHome(home, settings, store)
    finally:
        store.close()


def open_content(home: Home, settings: Settings, store: Store) -> Content | None:
    """Return where files of runs are kept, if not in the directory alone; nothing is asked of it yet.

    Raises:
        LocalError: as :func:`coordinator.storage.configured.open_blobs`.
    """
    if settings.storage is None:
        return None
    return Content(open_blobs(settings.storage, home.directory), store, home.runs)


def require_content(home: Home, settings: Settings, store: Store) -> Content:
    """Return where files of runs are kept, as :func:`open_content`, of a coordinator that has such a place."""
    content = open_content(home, settings, store)
    if content is None:
        raise LocalError("E-BUG", "coordinator.toml names no storage")
    return content


def open_store(home: Home, settings: Settings) -> Store:
    """Open the configured database; the first time after ``init``, an empty one on a server is begun.

    Raises:
        LocalError: as :meth:`Store.open`.
    """
    unused = home.unused.exists()
    store = Store.open(settings.database_url(home), unused=unused)
    if unused:
        with durable.disk_errors(home.unused):
            home.unused.unlink(missing_ok=True)
            durable.sync_directory(home.directory)
    return store
