"""What the doctor looks at where several coordinators work on one database.

Guarantees: nothing is written; a directory counts as shared only when what each of the others wrote there within the
last minutes is found, so that neither a copy nor a directory of another machine under the same name passes.
Leaves to others: the other checks (``coordinator.daemon.doctor``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

from coordinator.config import Settings
from coordinator.database import coordinator_rows, lease_rows
from coordinator.database.coordinator_rows import CoordinatorRecord
from coordinator.database.store import Store
from coordinator.leadership.leadership import LEASE_SECONDS
from coordinator.leadership.presence import clock_ahead, read_mark
from privacy.errors import LocalError
from privacy.interfaces import Clock

BEATS_BEHIND: Final = 24  # two minutes: a network file system may show an older file for one
SHOWN_ID: Final = 8


def coordinators(settings: Settings, store: Store) -> str:
    """Return which coordinators run and lead what.

    Raises:
        LocalError: ``E-REPLICA-TWICE``, ``E-REPLICA-UNKNOWN`` or ``E-REPLICA-AWAY``.
    """
    with store.read() as connection:
        known, leases = coordinator_rows.list_coordinators(connection), lease_rows.list_leases(connection)
    _require_apart(known)
    running = _running(known)
    led = {record.process: _led(record, leases) for record in running}
    own, others = settings.participants.addresses, settings.replicas.addresses if settings.replicas else ()
    if unknown := sorted({record.address for record in running} - {*own, *others}):
        raise LocalError(
            "E-REPLICA-UNKNOWN", f"{unknown[0]} works on this database, and [replicas] here does not name it"
        )
    if away := [address for address in others if address not in {record.address for record in running}]:
        raise LocalError("E-REPLICA-AWAY", f"{away[0]} {_last_seen(known, away[0])}")
    shown = [f"{_name(record, own)} leads {led[record.process]}" for record in running]
    return "; ".join(shown) or "none runs, and no other one is to"


def shared_directory(settings: Settings, store: Store) -> str:
    """Return whether the directory is one that all coordinators see.

    Raises:
        LocalError: ``E-REPLICA-DIRECTORY``.
    """
    assert settings.replicas is not None
    shared, own = Path(settings.replicas.directory), settings.participants.addresses
    if not shared.is_dir():
        raise LocalError("E-REPLICA-DIRECTORY", f"{shared} is not there")
    with store.read() as connection:
        running = _running(coordinator_rows.list_coordinators(connection))
    for record in running:
        mark = read_mark(shared, record.address)
        if mark is None or mark.process != record.process or mark.beat < record.beat - BEATS_BEHIND:
            raise LocalError("E-REPLICA-DIRECTORY", f"{shared} has not what {_name(record, own)} has just written")
    seen = [record.address for record in running if record.address not in own]
    return f"{shared}, also seen from {', '.join(seen)}" if seen else f"{shared}; nobody else runs who could show it"


def clocks(settings: Settings, store: Store, clock: Clock) -> str:
    """Return how far the clocks of the coordinators are from the database's.

    Raises:
        LocalError: ``E-REPLICA-CLOCK``: further than a lease holds.
    """
    ahead = {"this machine": clock_ahead(store, clock)}
    with store.read() as connection:
        running = _running(coordinator_rows.list_coordinators(connection))
    own = settings.participants.addresses
    ahead |= {record.address: record.clock_ms / 1000 for record in running if record.address not in own}
    if wrong := {name: seconds for name, seconds in ahead.items() if abs(seconds) > LEASE_SECONDS}:
        words = ", ".join(f"{name} {abs(s):.0f} s {'ahead of' if s > 0 else 'behind'} it" for name, s in wrong.items())
        raise LocalError("E-REPLICA-CLOCK", f"by the database's clock: {words}; {LEASE_SECONDS:.0f} s are allowed")
    return f"within {max(map(abs, ahead.values())):.1f} s of the database's: {', '.join(ahead)}"


def _running(known: Sequence[CoordinatorRecord]) -> list[CoordinatorRecord]:
    """Return those that run; of one address the last one seen, since one that was killed has not said so."""
    last = {record.address: record for record in reversed(known)}
    return sorted((record for record in last.values() if record.running), key=lambda record: record.address)


def _require_apart(known: Sequence[CoordinatorRecord]) -> None:
    """Refuse two processes of one address, each of which was seen after the other had started."""
    for first, second in combinations([record for record in known if record.running], 2):
        together = first.seen_at > second.started_at and second.seen_at > first.started_at
        if first.address == second.address and together:
            raise LocalError(
                "E-REPLICA-TWICE", f"two coordinators that run say that members dial them at {first.address}"
            )


def _led(record: CoordinatorRecord, leases: Mapping[str, lease_rows.LeaseRecord]) -> str:
    """Return which runs a process leads, in words."""
    runs = sorted(
        lease.run_id[:SHOWN_ID] for lease in leases.values() if lease.valid and lease.holder == record.process
    )
    return f"{', '.join(runs)}" if runs else "no run"


def _name(record: CoordinatorRecord, own: Sequence[str]) -> str:
    return f"{record.address} ({'this one, ' if record.address in own else ''}{record.version})"


def _last_seen(known: Sequence[CoordinatorRecord], address: str) -> str:
    ages = [record.age for record in known if record.address == address]
    return f"has said nothing for {min(ages):.0f} s" if ages else "does not run, or not on this database"
