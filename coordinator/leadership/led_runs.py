"""The runs that a process leads, and those that have ended: found, driven, and dropped when another process leads them.

Guarantees: runs that commands create, pause or end are noticed within :data:`TICK_SECONDS`; one run's trouble never
stops another; a database that is away or busy, or a full disk, is waited out; what is in memory of a run was read under
the lease that holds now, and is never used again after it was lost.
Leaves to others: who leads (``coordinator.leadership.leadership``), runs (``coordinator.runs.lifecycle``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.daemon.polls import Polls
from coordinator.daemon.troubles import Trouble, Troubles
from coordinator.database import lease_rows, run_rows
from coordinator.database.engines import passing
from coordinator.database.lease_rows import Lease
from coordinator.database.run_rows import RunRecord
from coordinator.leadership.leadership import LEASE_SECONDS, Leadership
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.run import Run, RunContext
from host.logs import get_logger
from privacy.errors import LocalError, OnlysumError
from protos.status import led_elsewhere

TICK_SECONDS: Final = 0.25  # how often rows are looked at that commands may have written
TROUBLE_SECONDS: Final = 2.0  # before a run that met a local error, such as a full disk, is tried again
ENDED_SECONDS: Final = 7 * 86_400  # for so long members are told that a run has ended
PATIENCE_SECONDS: Final = LEASE_SECONDS + 4.0  # that a member's message waits for somebody to lead its run
NEVER_LED: Final = 0  # the token of a run that ended before there were leases


class LedRuns:
    """The runs of one process, with one driver task for each that goes on."""

    def __init__(
        self,
        desk: RunContext,
        leadership: Leadership,
        polls: Polls,
        *,
        troubles: Troubles,
        refresh_members: Callable[[], None],
    ) -> None:
        self._desk = desk
        self._leadership = leadership
        self._polls = polls
        self._troubles = troubles
        self._refresh_members = refresh_members
        self._log = get_logger("coordinator")
        self._runs: dict[str, Run] = {}
        self._lives: dict[str, Lifecycle] = {}
        self._unreadable: set[str] = set()
        self._prepared: set[str] = set()  # runs whose first files were brought here, where they are kept elsewhere
        self._not_brought: set[str] = set()  # what the log has said of other runs
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._elsewhere: dict[str, str] = {}
        self._looked = asyncio.Event()  # set, and replaced, with each look at who leads what

    # --- who asks for which ---

    def of(self, member: str) -> list[Run]:
        """Return a member's runs that are led here or have ended, oldest first."""
        runs = (run for run in self._runs.values() if run.concerns(member))
        return sorted(runs, key=lambda run: (run.record.created_at, run.run_id))

    def by_id(self, run_id: str) -> Run | None:
        """Return a run that is led here or has ended."""
        return self._runs.get(run_id)

    def require_here(self, member: str) -> None:
        """Return if this process is the one to talk to for a member: it leads a run of it, or nobody else does.

        Raises:
            NetworkError: ``E-NET-ELSEWHERE``.
        """
        led_here = any(not run.record.state.ended for run in self.of(member))
        if led_here and self._leadership.lapsed:
            raise led_elsewhere(member, "")
        if not led_here and (address := self._leadership.address_for(member)):
            raise led_elsewhere(member, address)

    async def led(self, member: str) -> None:
        """Wait until every run of a member is led, and return if it is here; raises as :meth:`require_here`."""
        self.require_here(member)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self._leaderless(member):
                    await self._looked.wait()
        self.require_here(member)
        if self._leaderless(member):
            raise led_elsewhere(member, "")

    def _leaderless(self, member: str) -> bool:
        """Return whether nobody leads some run of a member, for the moment."""
        known = (self._runs, self._unreadable, self._leadership.elsewhere())
        return any(all(run_id not in led for led in known) for run_id in self._leadership.going_on(member))

    def troubles(self) -> tuple[Trouble, ...]:
        """Return which runs cannot be led, because their files are not where this process looks for them."""
        return tuple(
            Trouble("E-NOT-FOUND", f"the directory {self._desk.home.run(run_id)}: no coordinator can lead that run")
            for run_id in self._leadership.unreachable()
        )

    # --- moving them on ---

    async def serve(self) -> None:
        """Move all runs on until cancelled."""
        preparing = None if self._desk.content is None else asyncio.create_task(self._keep_preparing())
        try:
            while True:
                await self._discover_when_possible()
                for run_id, life in self._lives.items():
                    if run_id not in self._drivers and not self._runs[run_id].over:
                        self._drivers[run_id] = asyncio.create_task(self._drive(self._runs[run_id], life))
                self._drivers = {run_id: task for run_id, task in self._drivers.items() if not task.done()}
                await asyncio.sleep(TICK_SECONDS)
        finally:
            tasks = [*self._drivers.values(), *([preparing] if preparing else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def tick(self) -> None:
        """Move every run as far as it goes now; what :meth:`serve` does, one step at a time."""
        self.discover()
        for run_id, life in self._lives.items():
            run = self._runs[run_id]
            life.look_again()
            run.wakeup.set()
            while run.wakeup.is_set():
                run.wakeup.clear()
                await life.advance()

    def resign(self) -> None:
        """Let other processes lead what this one led: it ends, and moves nothing on any more."""
        self._leadership.hand_over_all()

    def discover(self) -> None:
        """Look for members and runs that commands have added or changed, and who leads them."""
        self._leadership.keep(self._desk.liveness.all_live())
        for error in self._prepare():
            self._troubles.note(error)
        self._catch_up()

    async def _keep_preparing(self) -> None:
        """Bring files here beside the looks at who leads what: a slow storage must not cost a lease."""
        while True:
            errors = await asyncio.to_thread(self._prepare)
            for error in errors:
                self._troubles.note(error)
            await asyncio.sleep(TROUBLE_SECONDS if errors else TICK_SECONDS)

    def _prepare(self) -> list[LocalError]:
        """Bring here what runs begin with that are new here, if it is kept elsewhere; return what went wrong."""
        errors: list[LocalError] = []
        if self._desk.content is None:
            return errors
        try:
            with self._desk.store.read() as connection:
                fresh = [one for one in self._fresh(connection) if one not in self._prepared]
                completed = {one: len(run_rows.list_rounds(connection, one)) for one in fresh}
                going_on = {*run_rows.going_on(connection)}
            for run_id in fresh:
                try:
                    self._bring(run_id, completed[run_id], goes_on=run_id in going_on)
                except LocalError as error:
                    if passing(error):  # the next one would wait as long
                        raise
                    errors.append(error)
        except LocalError as error:
            errors.append(error)
        for met in errors:
            if met.detail not in self._not_brought:
                self._log.warning("run-not-brought", code=met.code, error=met.detail)
        self._not_brought = {met.detail for met in errors}
        return errors

    def _bring(self, run_id: str, completed: int, *, goes_on: bool) -> None:
        if not self._desk.files(run_id).bring_start(completed) and goes_on:
            raise LocalError("E-NOT-FOUND", f"files of run {run_id}: it was created before [storage] was set")
        self._prepared.add(run_id)

    def _fresh(self, connection: Connection) -> dict[str, Lease]:
        """Return the leases of the runs that are led here or have ended, and are not in memory; oldest first."""
        after = self._desk.now() - ENDED_SECONDS
        known, going_on = run_rows.run_ids(connection, ended_after=after), {*run_rows.going_on(connection)}
        fresh = [one for one in known if one not in self._runs and one not in self._unreadable]
        leases = {one: lease for one in fresh if (lease := self._leadership.lease(one)) is not None}
        ended = [one for one in fresh if one not in going_on]
        if ended:
            last = lease_rows.list_leases(connection)
            leases |= {one: Lease(one, last[one].token if one in last else NEVER_LED) for one in ended}
        return {one: leases[one] for one in fresh if one in leases}

    async def _discover_when_possible(self) -> None:
        """Look for changes; a database that cannot be read now is asked again until it can, and said so once."""
        waited = False
        while True:
            try:
                await asyncio.to_thread(self._leadership.keep, self._desk.liveness.all_live())
                self._catch_up()
            except LocalError as error:
                if not passing(error):
                    raise
                if not waited:
                    self._log.warning("database-away", code=error.code, error=error.detail)
                waited = True
                await asyncio.sleep(TROUBLE_SECONDS)
            else:
                if waited:
                    self._log.info("database-back")
                return

    def _catch_up(self) -> None:
        """Drop the runs that were lost, and read those that are new here."""
        self._refresh_members()
        with self._desk.store.read() as connection:
            self._drop_lost({*run_rows.going_on(connection)})
            leases = self._fresh(connection)
            ready = [one for one in leases if self._desk.content is None or one in self._prepared]
            records = [run_rows.find_run(connection, one) for one in ready]
        for record in records:
            self._add(record, leases[record.run_id])
        self._redirect()
        self._looked.set()
        self._looked = asyncio.Event()

    def _add(self, record: RunRecord, lease: Lease) -> None:
        try:
            run = Run(self._desk, record, lease)
        except (OnlysumError, OSError) as error:
            if passing(error):
                raise
            self._unreadable.add(record.run_id)
            self._log.error("run-unreadable", run=record.run_id, error=str(error))
            return
        if record.state.ended:
            run.clear()  # a crash may have come between the end and this
        elif self._desk.store.shared and lease.token > 1:
            self._log.info("run-taken-over", run=record.run_id, token=lease.token)
            self._desk.liveness.settle(self._desk.settings.durations.gather_seconds)
        self._runs[record.run_id], self._lives[record.run_id] = run, Lifecycle(run)
        self._polls.look(run, run.members)

    def _drop_lost(self, going_on: set[str]) -> None:
        lost = [run for one, run in self._runs.items() if one in going_on and self._leadership.lease(one) != run.lease]
        for run in lost:
            self._log.warning("run-led-elsewhere", run=run.run_id)
            del self._runs[run.run_id], self._lives[run.run_id]
            self._prepared.discard(run.run_id)
            driver = self._drivers.pop(run.run_id, None)
            if driver is not None:
                driver.cancel()
            self._polls.wake(run.members)

    def _redirect(self) -> None:
        """Wake the polls of members whose runs another process has begun to lead."""
        elsewhere = dict(self._leadership.elsewhere())
        for run_id, address in elsewhere.items():
            if self._elsewhere.get(run_id) != address:
                self._polls.wake(self._leadership.members(run_id))
        self._elsewhere = elsewhere

    async def _drive(self, run: Run, life: Lifecycle) -> None:
        looked = float("-inf")
        while not run.over:
            run.wakeup.clear()
            now = self._desk.clock.monotonic()
            if now - looked >= TICK_SECONDS:
                looked = now
                life.look_again()
            try:
                await life.advance()
            except Exception as error:  # noqa: BLE001  # a full disk, a damaged file: logged, and tried again
                self._troubles.note(error)
                self._log.error("run-in-trouble", run=run.run_id, error=str(error), exc_info=not passing(error))
                await asyncio.sleep(TROUBLE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(run.wakeup.wait(), TICK_SECONDS)
