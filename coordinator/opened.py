"""A coordinator's directory with its configuration and database open: what commands, views and backups start from.

Leaves to others: the daemon, which opens the same database by itself (``coordinator.daemon.process``).
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
        LocalError: ``E-CONFIG-*``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    settings = load_settings(home)
    store = Store.open(settings.database_url(home))
    try:
        yield OpenHome(home, settings, store)
    finally:
        store.close()
