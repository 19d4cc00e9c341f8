"""What many members send at a time, committed together: few transactions, and nobody's lock waits for a disk.

Guarantees: what is added is committed in the order in which it was added; :meth:`Writer.written` returns when all that
was added before is durable; what is added for a run is committed only while its lease is the one that was taken last,
which the same transaction looks at. Where a commit fails, nothing that was added until then is written any more, so
that what is durable is always a beginning of what was added; who added it hears of it in the same step of the event
loop, whether or not anybody still waits.
Leaves to others: what follows from a failure (``coordinator.runs.run``), transactions (``store``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection

from coordinator.database.attempt_rows import Rows
from coordinator.database.lease_rows import Lease
from coordinator.database.store import Store

Write = Callable[[Connection], object]


@dataclass(slots=True)
class _Batch:
    """What the next transaction writes, and who waits for it."""

    leases: set[Lease] = field(default_factory=set)  # of the runs that it is about
    rows: Rows = field(default_factory=Rows)
    others: list[Write] = field(default_factory=list)
    on_failure: set[Callable[[], None]] = field(default_factory=set)
    done: asyncio.Future[None] | None = None

    @property
    def empty(self) -> bool:
        return self.rows.empty and not self.others

    def write(self, store: Store) -> None:
        with store.begin() as connection:
            for lease in sorted(self.leases, key=lambda lease: lease.run_id):
                lease.require(connection)
            self.rows.write(connection)
            for write in self.others:
                write(connection)

    def waiting(self) -> asyncio.Future[None]:
        if self.done is None:
            self.done = asyncio.get_running_loop().create_future()
        return self.done

    def end(self, error: BaseException | None) -> None:
        """Tell who added to the batch, and who waits for it."""
        if error is not None:
            for failed in self.on_failure:
                failed()
        if self.done is None or self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
            self.done.exception()  # looked at: perhaps nobody waits any more


class Writer:
    """The one writer of a daemon's event loop to its database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = _Batch()
        self._under_way: _Batch | None = None
        self._committing: asyncio.Task[None] | None = None

    def rows(self, lease: Lease, on_failure: Callable[[], None]) -> Rows:
        """Return the rows of attempts that are committed next, to add to.

        Args:
            lease: of the run to which the attempts belong.
            on_failure: called if they cannot be committed; what was taken into memory is then ahead of the rows.
        """
        self._next.leases.add(lease)
        self._next.on_failure.add(on_failure)
        return self._next.rows

    def also(self, lease: Lease | None, write: Write, on_failure: Callable[[], None] = lambda: None) -> None:
        """Add any other statement, which is executed after the rows of its transaction.

        Args:
            lease: of the run that it is about; ``None`` for what any process may write, which is about no run.
            write: executes it.
            on_failure: as of :meth:`rows`.
        """
        if lease is not None:
            self._next.leases.add(lease)
        self._next.on_failure.add(on_failure)
        self._next.others.append(write)

    async def written(self) -> None:
        """Wait until all that was added is durable.

        Raises:
            LocalError: ``E-DISK-FULL``, ``E-STATE-BUSY`` or another of the database's refusals; nothing of it is there.
        """
        if self._next.empty:
            if self._under_way is not None:
                await asyncio.shield(self._under_way.waiting())
            return
        done = self._next.waiting()
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        await asyncio.shield(done)

    async def _commit(self) -> None:
        while not self._next.empty:
            batch, self._next = self._next, _Batch()
            self._under_way = batch
            error: BaseException | None = None
            try:
                await asyncio.to_thread(batch.write, self._store)
            except BaseException as raised:  # noqa: BLE001  # handed to all who wait
                error = raised
            self._under_way = None
            batch.end(error)
            if error is not None:  # what was added since then builds on what is not there
                after, self._next = self._next, _Batch()
                after.end(error)
