"""A coordinator's directory with its configuration and database open: what commands, views and backups start from.

Guarantees: an empty database is begun for a coordinator that has never opened one, and for no other.
Leaves to others: the daemon, which opens the same database for itself (``coordinator.daemon.process``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.config import Settings, load_settings
from coordinator.database.store import Store
from coordinator.enrolment.authority import Authority, load_authority
from coordinator.home import Home
from host import durable


@dataclass(frozen=True, slots=True)
class OpenHome:
    """An open directory."""

    home: Home
    settings: Settings
    store: Store

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
