"""Leases in the database: which process leads each run, until when, and by which fencing token.

Guarantees: a token is never given out twice for a run, and each one is higher than those before; a transaction in which
:func:`require` returns is of the process that took the lease last, since whoever takes it waits for that transaction's
end; time is the database's own, so that the clocks of processes need not agree.
Leaves to others: who takes which lease, and when it counts as lost (``coordinator.leadership``).
Source: Gray and Cheriton, Leases (SOSP 1989); for the token, Burrows, The Chubby lock service (OSDI 2006), section 2.4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.tables import leases
from privacy.errors import LocalError

NOBODY: Final = ""  # the holder of a lease that was handed over
MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Lease:
    """What a process that leads a run shows in each of its transactions; tokens begin at 1."""

    run_id: str
    token: int

    def require(self, connection: Connection) -> None:
        """Return if this is still the lease that was taken last; it stays so until the transaction ends.

        Raises:
            LocalError: ``E-LEASE-LOST``: another process leads the run, and the transaction is to be undone.
        """
        query = sa.select(leases.c.token).where(leases.c.run_id == self.run_id).with_for_update()
        if connection.execute(query).scalar() != self.token:
            raise LocalError("E-LEASE-LOST", f"another process has taken over run {self.run_id}")


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease as its row has it."""

    run_id: str
    holder: str
    address: str
    token: int
    valid: bool  # by the database's clock
    live: tuple[str, ...]


def clock(connection: Connection) -> int:
    """Return the database's time, in milliseconds since the Unix epoch."""
    if connection.dialect.name == "sqlite":
        query = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    else:
        query = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
    return int(connection.exec_driver_sql(query).scalar_one())


def list_leases(connection: Connection) -> dict[str, LeaseRecord]:
    """Return every lease that was ever taken, by run."""
    now = clock(connection)
    return {
        row.run_id: LeaseRecord(
            row.run_id,
            row.holder,
            row.address,
            row.token,
            row.holder != NOBODY and row.expires_at > now,
            names(row.live),
        )
        for row in connection.execute(sa.select(leases))
    }


def take(connection: Connection, run_id: str, *, holder: str, address: str, seconds: float) -> Lease:
    """Take a run's lease, from whomever has it; the caller has seen that nobody may have it any more.

    Args:
        connection: of a transaction that writes.
        run_id: the run.
        holder: 32 hex digits that a process drew when it started.
        address: where members dial it.
        seconds: for which it holds from now.
    """
    token = connection.execute(sa.select(leases.c.token).where(leases.c.run_id == run_id)).scalar()
    values = {"holder": holder, "address": address, "expires_at": _end(connection, seconds), "live": ""}
    if token is None:
        connection.execute(sa.insert(leases).values(run_id=run_id, token=1, **values))
        return Lease(run_id, 1)
    connection.execute(sa.update(leases).where(leases.c.run_id == run_id).values(token=token + 1, **values))
    return Lease(run_id, token + 1)


def renew(
    connection: Connection, mine: Collection[Lease], *, seconds: float, live: Mapping[str, Collection[str]]
) -> None:
    """Hold leases longer that nobody else has taken, and note who polls.

    Args:
        connection: of a transaction that writes.
        mine: the leases.
        seconds: for which they hold from now.
        live: members that poll this process, by run.
    """
    end = _end(connection, seconds)
    for lease in mine:
        connection.execute(_of(lease).values(expires_at=end, live=joined(live.get(lease.run_id, ()))))


def hand_over(connection: Connection, mine: Collection[Lease]) -> None:
    """Let anybody take leases at once."""
    for lease in mine:
        connection.execute(_of(lease).values(holder=NOBODY, expires_at=0, live=""))


def joined(members: Collection[str]) -> str:
    """Return names as a row has them."""
    return ",".join(sorted(members))


def names(row: str) -> tuple[str, ...]:
    """Return what :func:`joined` made of them."""
    return tuple(name for name in row.split(",") if name)


def _of(lease: Lease) -> sa.Update:
    return sa.update(leases).where(leases.c.run_id == lease.run_id, leases.c.token == lease.token)


def _end(connection: Connection, seconds: float) -> int:
    return clock(connection) + int(seconds * MILLISECONDS)
