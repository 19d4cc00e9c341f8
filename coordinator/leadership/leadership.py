"""The leases of one process: taken, renewed, handed over, and lost.

Guarantees: a run is led by one process at a time: each transaction of a run shows the token of its lease
(``coordinator.database.lease_rows``), and whoever takes the lease counts the token up, so that a process that slept
through its end commits nothing any more; such a process also stops by itself, by its own monotonic clock, as soon as it
runs again. The run of a process that was killed is taken over within :data:`LEASE_SECONDS` and a little more.
Leaves to others: which leases to take (``claims``), what a leader does (``coordinator.daemon.runner``). A database in a
file belongs to the one daemon that holds the directory's lock: its leases never expire, and are taken at once by the
next daemon.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.database import lease_rows, run_rows
from coordinator.database.lease_rows import Lease
from coordinator.database.store import Store
from coordinator.leadership.claims import Claims, LedRun, decide
from privacy.errors import PlanError
from privacy.interfaces import Clock, RandomSource

LEASE_SECONDS: Final = 6.0
RENEW_SECONDS: Final = 1.5
HOLDER_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Leading:
    """Who leads what, as last read."""

    mine: Mapping[str, Lease] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # run -> address of the process that leads it
    unreachable: tuple[str, ...] = ()  # runs that nobody leads and whose files are not here


@dataclass(frozen=True, slots=True)
class _Look:
    """What one transaction reads."""

    claims: Claims
    leading: _Leading


class Leadership:
    """What one process leads; :meth:`keep` is called a few times a second."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        random: RandomSource,
        address: str,
        files: Callable[[str], Path] | None,
    ) -> None:
        """Lead nothing yet.

        Args:
            store: the database.
            clock: the daemon's.
            random: the process's name is drawn from it.
            address: where members dial this process.
            files: returns the directory of a run; ``None``: all files can be brought here.
        """
        self._store = store
        self._clock = clock
        self._holder = random.token_bytes(HOLDER_BYTES).hex()
        self._address = address
        self._files = files
        self._leading = _Leading()
        self._renewed = float("-inf")
        self._rosters: dict[str, frozenset[str]] = {}
        self._keeping = threading.Lock()

    @property
    def holder(self) -> str:
        """The name that this process drew, as the holder of its leases."""
        return self._holder

    @property
    def lapsed(self) -> bool:
        """Whether this process has renewed nothing for so long that others may lead what it led."""
        return self._store.shared and self._clock.monotonic() - self._renewed >= LEASE_SECONDS

    def lease(self, run_id: str) -> Lease | None:
        """Return the lease under which this process leads a run now, or ``None``."""
        return None if self.lapsed else self._leading.mine.get(run_id)

    def address_for(self, member: str) -> str:
        """Return where a run of a member is led by another process; empty if none is."""
        led = self._leading.elsewhere.items()
        return next((address for run_id, address in led if member in self._rosters.get(run_id, ())), "")

    def going_on(self, member: str) -> list[str]:
        """Return a member's runs that go on, whoever leads them."""
        return [run_id for run_id, members in self._rosters.items() if member in members]

    def elsewhere(self) -> Mapping[str, str]:
        """Return the addresses at which other processes lead runs, by run."""
        return self._leading.elsewhere

    def members(self, run_id: str) -> frozenset[str]:
        """Return who takes part in a run that goes on."""
        return self._rosters.get(run_id, frozenset())

    def unreachable(self) -> tuple[str, ...]:
        """Return the runs that nobody leads, and whose files are not here either."""
        return self._leading.unreachable

    def keep(self, live: Collection[str] = ()) -> None:
        """Look who leads what; take, renew and hand over what is due.

        Args:
            live: who polls this process.

        Raises:
            LocalError: the database cannot be read or written now.
        """
        with self._keeping:
            with self._store.read() as connection:
                seen = self._look(connection)
            if seen.claims.any or self._renewal_due(seen.leading.mine):
                seen = self._take_and_renew(frozenset(live))
            self._leading = seen.leading

    def hand_over_all(self) -> None:
        """Let others lead at once what this process leads: it ends."""
        with self._keeping:
            mine, self._leading = self._leading.mine, _Leading()
            if mine and self._store.shared:
                with self._store.begin() as connection:
                    lease_rows.hand_over(connection, tuple(mine.values()))

    def _renewal_due(self, mine: Mapping[str, Lease]) -> bool:
        return self._store.shared and bool(mine) and self._clock.monotonic() - self._renewed >= RENEW_SECONDS

    def _take_and_renew(self, live: frozenset[str]) -> _Look:
        begun = self._clock.monotonic()
        with self._store.begin() as connection:
            seen = self._look(connection)
            mine = dict(seen.leading.mine)
            lease_rows.hand_over(connection, [mine.pop(run_id) for run_id in seen.claims.hand_over])
            of_runs = {run_id: self._rosters[run_id] & live for run_id in mine}
            lease_rows.renew(connection, tuple(mine.values()), seconds=LEASE_SECONDS, live=of_runs)
            for run_id in seen.claims.take:
                mine[run_id] = lease_rows.take(
                    connection, run_id, holder=self._holder, address=self._address, seconds=LEASE_SECONDS
                )
        self._renewed = begun  # before the database's own now, so that here it ends no later than there
        return _Look(Claims((), ()), replace(seen.leading, mine=MappingProxyType(mine)))

    def _look(self, connection: Connection) -> _Look:
        going_on, leases = run_rows.going_on(connection), lease_rows.list_leases(connection)
        self._read_rosters(connection, going_on)
        mine: dict[str, Lease] = {}
        elsewhere: dict[str, str] = {}
        runs: list[LedRun] = []
        for run_id in going_on:
            record, holder = leases.get(run_id), ""
            if record is not None and record.holder == self._holder:
                mine[run_id], holder = Lease(run_id, record.token), self._holder  # expired perhaps, and not taken
            elif record is not None and record.valid and self._store.shared:
                elsewhere[run_id], holder = record.address, record.holder
            here = bool(holder) or not self._store.shared or self._files is None or self._files(run_id).is_dir()
            runs.append(LedRun(run_id, self._rosters[run_id], holder, here))
        leading = _Leading(
            MappingProxyType(mine),
            MappingProxyType(elsewhere),
            tuple(run.run_id for run in runs if not run.reachable),
        )
        return _Look(decide(runs, self._holder), leading)

    def _read_rosters(self, connection: Connection, going_on: Collection[str]) -> None:
        fresh = {run_id: _members(connection, run_id) for run_id in going_on if run_id not in self._rosters}
        if fresh or len(self._rosters) > len(going_on):
            known = {**self._rosters, **fresh}
            self._rosters = {run_id: known[run_id] for run_id in going_on}


def _members(connection: Connection, run_id: str) -> frozenset[str]:
    """Return who takes part in a run; nobody if its plan does not parse, which its leader says."""
    try:
        plan = run_rows.find_run(connection, run_id).parsed()
    except PlanError:
        return frozenset()
    return frozenset(
        [*(member.id for member in plan.roster), *(evaluator.id for evaluator in plan.evaluation.evaluators)]
    )
