"""A coordinator's process says that it runs: in the database, and in the directory that it shares with others.

Guarantees: what it writes into the directory is there before the row that says so, and both count up, so that whoever
reads the row and does not find the file looks into another directory, also into a copy of the same.
Leaves to others: what follows from it (``coordinator.leadership.examination``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from coordinator.database import coordinator_rows, lease_rows
from coordinator.database.coordinator_rows import Beat
from coordinator.database.store import Store
from host import durable
from privacy import canonical
from privacy.errors import LocalError
from privacy.interfaces import Clock

EVERY_SECONDS: Final = 5.0
DIRECTORY: Final = "coordinators"  # within the shared one
MOST_BYTES: Final = 1000  # of a file that a process leaves there


@dataclass(frozen=True, slots=True)
class Mark:
    """What a process leaves in the shared directory."""

    process: str
    beat: int


class Presence:
    """What one process says of itself; :meth:`say` is called every :data:`EVERY_SECONDS`."""

    def __init__(self, store: Store, *, clock: Clock, process: str, address: str, shared: Path | None) -> None:
        """Say nothing yet.

        Args:
            store: the database.
            clock: of this machine.
            process: as the holder of leases.
            address: where members dial it.
            shared: the directory that it shares with others, if there are others.
        """
        self._store = store
        self._clock = clock
        self._process = process
        self._address = address
        self._shared = shared
        self._beat = 0

    def say(self, live: Collection[str] = ()) -> None:
        """Say that this process runs; a directory that takes no file is for others to find.

        Args:
            live: members that poll it.

        Raises:
            LocalError: the database cannot be written now.
        """
        if not self._store.shared:
            return
        self._beat += 1
        if self._shared is not None:
            with suppress(LocalError):
                write_mark(self._shared, self._address, Mark(self._process, self._beat))
        beat = Beat(
            process=self._process,
            address=self._address,
            version=version("onlysum"),
            number=self._beat,
            clock_ms=round(1000 * clock_ahead(self._store, self._clock)),
            live=tuple(live),
        )
        with self._store.begin() as connection:
            coordinator_rows.say_running(connection, beat)

    def end(self) -> None:
        """Say that it ends.

        Raises:
            LocalError: as :meth:`say`.
        """
        if self._store.shared:
            with self._store.begin() as connection:
                coordinator_rows.say_ended(connection, self._process)


def clock_ahead(store: Store, clock: Clock) -> float:
    """Return by how many seconds a machine's clock is ahead of the database's, to half the time of an answer."""
    with store.read() as connection:
        lease_rows.clock(connection)  # what connecting takes counts for neither
        before = clock.now()
        there = lease_rows.clock(connection) / lease_rows.MILLISECONDS
        return (before + clock.now()) / 2 - there


def mark_file(shared: Path, address: str) -> Path:
    """Return where the process at an address leaves its mark."""
    return shared / DIRECTORY / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.json"


def write_mark(shared: Path, address: str, mark: Mark) -> None:
    """Leave a mark.

    Raises:
        LocalError: ``E-DISK-*``.
    """
    file = mark_file(shared, address)
    with durable.disk_errors(file):
        durable.make_directory(file.parent, mode=0o700)
    durable.write(file, canonical.encode({"address": address, "beat": mark.beat, "process": mark.process}))


def read_mark(shared: Path, address: str) -> Mark | None:
    """Return the mark of the process at an address; ``None`` where there is none, or none that can be read."""
    try:
        with mark_file(shared, address).open("rb") as file:
            fields = json.loads(file.read(MOST_BYTES))
        return Mark(str(fields["process"]), int(fields["beat"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
