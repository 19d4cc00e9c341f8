"""Labels of runs in the database.

Guarantees: a run never has more labels than it may, whoever adds some at the same moment: changes of a run's labels are
made in one transaction after another.
Leaves to others: what a label may be (``coordinator.labels``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.tables import run_labels, runs
from coordinator.labels import require_few


def set_labels(
    connection: Connection, run_id: str, labels: Mapping[str, str], *, remove: Collection[str] = ()
) -> dict[str, str]:
    """Change labels of a run, and return all that it has then.

    Args:
        connection: of a transaction that writes.
        run_id: of a run that is there.
        labels: new ones, and values that take the place of others, by key.
        remove: keys; one that the run does not have is passed over.

    Raises:
        LocalError: ``E-USAGE``: they would be too many; nothing is changed.
    """
    connection.execute(sa.select(runs.c.run_id).where(runs.c.run_id == run_id).with_for_update())  # PostgreSQL: wait
    known = labels_of(connection, run_id)
    after = {**{key: value for key, value in known.items() if key not in remove}, **labels}
    require_few(after)
    replaced = [key for key, value in known.items() if after.get(key) != value]
    connection.execute(sa.delete(run_labels).where(run_labels.c.run_id == run_id, run_labels.c.key.in_(replaced)))
    rows = [{"run_id": run_id, "key": key, "value": value} for key, value in after.items() if known.get(key) != value]
    if rows:
        connection.execute(sa.insert(run_labels), rows)
    return after


def labels_of(connection: Connection, run_id: str) -> dict[str, str]:
    """Return a run's labels by key."""
    rows = connection.execute(sa.select(run_labels).where(run_labels.c.run_id == run_id).order_by(run_labels.c.key))
    return {row.key: row.value for row in rows}


def list_labels(connection: Connection) -> dict[str, dict[str, str]]:
    """Return the labels of all runs that have any, by run and key."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in connection.execute(sa.select(run_labels).order_by(run_labels.c.key)):
        found[row.run_id][row.key] = row.value
    return dict(found)
