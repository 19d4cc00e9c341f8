"""Who leads a run, where several coordinators work on one database.

Guarantees: read from the leases' rows, so that every process says the same.
Leaves to others: who should lead (``coordinator.leadership``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from coordinator.database import coordinator_rows, lease_rows


@dataclass(frozen=True, slots=True)
class Leader:
    """A process that leads a run."""

    address: str  # where members dial it
    live: tuple[str, ...]  # members of the run that poll it, as of a second ago


def leaders(connection: Connection) -> Mapping[str, Leader]:
    """Return the leaders of runs whose leases hold now; none of a database in a file, whose leases do not expire."""
    rows = lease_rows.list_leases(connection)
    if connection.dialect.name == "sqlite":
        return {}
    return {run_id: Leader(row.address, row.live) for run_id, row in rows.items() if row.valid}


def live_anywhere(connection: Connection, here: Collection[str]) -> frozenset[str]:
    """Return who polls this process or another one that runs.

    Args:
        connection: of a transaction.
        here: who polls this process.
    """
    there = [record.live for record in coordinator_rows.list_coordinators(connection) if record.running]
    return frozenset(here).union(*there, *(leader.live for leader in leaders(connection).values()))
