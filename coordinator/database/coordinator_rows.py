"""Coordinators' processes in the database: who says that it runs, where several work on one.

Guarantees: ages are by the database's clock, so that the clocks of processes need not agree.
Leaves to others: how often a process says so (``coordinator.leadership.presence``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.lease_rows import MILLISECONDS, clock, joined, names
from coordinator.database.tables import coordinators

GONE_SECONDS: Final = 20.0  # a process that has said nothing for so long does not run, or hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a process says each time."""

    process: str  # as the holder of a lease
    address: str  # where members dial it
    version: str
    number: int  # 1 is the first one
    clock_ms: int  # by how much its clock is ahead of the database's
    live: tuple[str, ...]  # members that poll it


@dataclass(frozen=True, slots=True)
class CoordinatorRecord:
    """A process that has said that it runs."""

    process: str
    address: str
    version: str
    started_at: int  # milliseconds since the Unix epoch, by the database's clock
    seen_at: int  # likewise
    age: float  # seconds since then
    beat: int
    clock_ms: int
    live: tuple[str, ...]  # members that polled it when it said so

    @property
    def running(self) -> bool:
        """Whether it has said so lately."""
        return self.age <= GONE_SECONDS


def say_running(connection: Connection, beat: Beat) -> None:
    """Note that a process runs, and forget those of the same address that have long said nothing.

    Args:
        connection: of a transaction that writes.
        beat: what it says.
    """
    now, mine = clock(connection), coordinators.c.process == beat.process
    gone = coordinators.c.seen_at < now - int(GONE_SECONDS * MILLISECONDS)
    connection.execute(sa.delete(coordinators).where(coordinators.c.address == beat.address, gone, ~mine))
    values = {"address": beat.address, "seen_at": now, "beat": beat.number, "clock_ms": beat.clock_ms}
    values["live"] = joined(beat.live)
    if connection.execute(sa.update(coordinators).where(mine).values(**values)).rowcount:
        return
    values |= {"process": beat.process, "version": beat.version, "started_at": now}
    connection.execute(sa.insert(coordinators).values(**values))


def say_ended(connection: Connection, process: str) -> None:
    """Forget a process, which ends."""
    connection.execute(sa.delete(coordinators).where(coordinators.c.process == process))


def list_coordinators(connection: Connection) -> tuple[CoordinatorRecord, ...]:
    """Return all processes that have not said that they end, by address; of one address the last one seen first."""
    now = clock(connection)
    found = [
        CoordinatorRecord(
            row.process,
            row.address,
            row.version,
            row.started_at,
            row.seen_at,
            max(0, now - row.seen_at) / MILLISECONDS,
            row.beat,
            row.clock_ms,
            names(row.live),
        )
        for row in connection.execute(sa.select(coordinators))
    ]
    return tuple(sorted(found, key=lambda record: (record.address, -record.seen_at, record.process)))
