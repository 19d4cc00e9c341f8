"""When each member was last connected, kept in its row: an operator asks since when somebody is away.

Guarantees: a member that goes away is noted at once, one that stays every :data:`EVERY_SECONDS`, so that a daemon that
is killed loses no more; a database that refuses is tried again, and nothing else waits for it.
Leaves to others: who is connected (``coordinator.runs.liveness``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from coordinator.database import member_rows
from coordinator.database.store import Store
from privacy.errors import LocalError
from privacy.interfaces import Clock

EVERY_SECONDS: Final = 60.0


class Sightings:
    """Remembers who was there at the last look."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._there: frozenset[str] = frozenset()
        self._noted = clock.monotonic()

    def note(self, live: Collection[str]) -> None:
        """Note who is connected now."""
        there = frozenset(live)
        due = self._clock.monotonic() - self._noted >= EVERY_SECONDS
        seen = (self._there - there) | (there - self._there) | (there if due else frozenset())
        if not seen:
            return
        try:
            with self._store.begin() as connection:
                member_rows.saw_members(connection, seen, int(self._clock.now()))
        except LocalError:
            return  # the runs meet it too, and say so
        self._there = there
        if due:
            self._noted = self._clock.monotonic()
