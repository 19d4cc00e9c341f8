"""What is kept of runs outside their directories: names and hashes, without which nothing that is read there counts.

Guarantees: a row is committed in the transaction of what it belongs to, a run, a round or an end; with runs in a
directory of this machine there are none.
Leaves to others: the bytes (``coordinator.storage.content``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.tables import contents


class Kept(NamedTuple):
    """A file of a run that is kept."""

    name: str  # in the run's directory
    sha256: bytes
    length: int  # in bytes


def add(connection: Connection, run_id: str, kept: Collection[Kept]) -> None:
    """Let files belong to a run."""
    rows = [{"run_id": run_id, "name": one.name, "sha256": one.sha256, "length": one.length} for one in kept]
    if rows:
        connection.execute(sa.insert(contents), rows)


def drop(connection: Connection, run_id: str, names: Collection[str]) -> None:
    """Let files belong to a run no longer."""
    if names:
        connection.execute(sa.delete(contents).where(contents.c.run_id == run_id, contents.c.name.in_(names)))


def of_run(connection: Connection, run_id: str) -> dict[str, Kept]:
    """Return the files of a run, by name."""
    query = sa.select(contents).where(contents.c.run_id == run_id).order_by(contents.c.name)
    return {row.name: Kept(row.name, row.sha256, row.length) for row in connection.execute(query)}


def find(connection: Connection, run_id: str, name: str) -> Kept | None:
    """Return a file of a run, or ``None``: it has none of this name."""
    query = sa.select(contents).where(contents.c.run_id == run_id, contents.c.name == name)
    row = connection.execute(query).one_or_none()
    return None if row is None else Kept(row.name, row.sha256, row.length)
