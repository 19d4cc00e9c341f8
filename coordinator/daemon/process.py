"""``coordinator start``: the process around the runner and the network service.

Guarantees: one daemon per directory; it is ready only when both listeners are; SIGTERM and SIGINT end it within 3
seconds, and nothing needs a clean end, since whatever counts is committed.
Leaves to others: the work (``runner``).
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from coordinator.config import Settings
from coordinator.daemon import admin
from coordinator.daemon.runner import Runner
from coordinator.daemon.service import Credentials, Listeners, serve
from coordinator.daemon.status import DaemonStatus, write_status
from coordinator.database.store import Store
from coordinator.enrolment.authority import Authority
from coordinator.enrolment.notices import tell_of_replicas
from coordinator.enrolment.renewal import with_valid_server
from coordinator.enrolment.sightings import Sightings
from coordinator.events.watch import LOOK_SECONDS, EventWatch
from coordinator.home import Home
from coordinator.leadership import presence
from coordinator.opened import OpenHome, open_store
from host import garbage
from host.events.announcer import FILE_NAME, Announcer, Told
from host.events.signature import load_secret
from host.locks import only_daemon
from host.logs import get_logger, logging_to
from host.service_manager import GRACE_SECONDS, READY, STOPPING, StopSignals, notify
from host.system import SystemClock, SystemRandom
from privacy.errors import LocalError
from privacy.secagg import masks

STATUS_SECONDS: Final = 0.5
CERTIFICATES_SECONDS: Final = 10.0  # between looks at what `coordinator renew` has written, and at what ends


def start(home: Home, settings: Settings, authority: Authority, ready: Callable[[DaemonStatus], None]) -> None:
    """Run the daemon until it is told to stop.

    Args:
        home: its directory.
        settings: coordinator.toml.
        authority: its keys.
        ready: called once when both listeners are up.

    Raises:
        LocalError: ``E-RUNNING``, ``E-CERTIFICATE``, ``E-PORT``, ``E-STATE-DAMAGED``, ``E-DATABASE-AWAY``,
            ``E-MASK-STREAM``, or as :func:`host.events.signature.load_secret`.
    """
    _raise_descriptor_limit()
    load_secret(home.directory, settings.events)  # one that is missing is refused now, not when something happens
    masks.choose(SystemClock())  # a library whose key streams are wrong is refused at the start, not in a round
    with only_daemon(home.directory, "coordinator"), logging_to(settings.log, home.directory, tracebacks=True):
        home.status_file.unlink(missing_ok=True)  # of a daemon that was killed
        authority = with_valid_server(home, settings, authority, SystemRandom(), SystemClock().now())
        tell_of_replicas(home, settings, authority.operator, now=int(SystemClock().now()))
        store = open_store(home, settings)
        try:
            asyncio.run(_serve(home, settings, authority, store, ready))
        finally:
            store.close()
            home.status_file.unlink(missing_ok=True)


def _raise_descriptor_limit() -> None:
    """Allow as many open connections as the system lets this process have; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems refuse an unlimited number: then what there is must do
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    home: Home, settings: Settings, authority: Authority, store: Store, ready: Callable[[DaemonStatus], None]
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    StopSignals(lambda: loop.call_soon_threadsafe(stop.set), at_most=GRACE_SECONDS).install()
    runner = Runner(store, home, settings, authority, clock=SystemClock(), random=SystemRandom())
    if settings.storage is None:  # which may take long to answer
        runner.discover()
    keeper, (address, *former) = runner.authority, settings.participants.binds

    def current() -> Credentials:
        authority, now = keeper.current, SystemClock().now()
        return Credentials(authority.trusted(now), authority.chain(now), authority.server_key)

    listeners = await serve(
        runner,
        credentials=current(),
        address=address,
        former=former,
        enrolment_address=settings.enrolment.bind,
        renewed=current,
    )
    opened = OpenHome(home, settings, store)
    try:
        async with admin.serving(opened, runner.refusals) as admin_address:
            garbage.look_seldom()
            await _run(stop, runner, listeners, opened, admin_address, ready)
    except LocalError:  # the page's port is taken
        await listeners.stop()
        raise


async def _run(
    stop: asyncio.Event,
    runner: Runner,
    listeners: Listeners,
    opened: OpenHome,
    admin_address: str,
    ready: Callable[[DaemonStatus], None],
) -> None:
    status = DaemonStatus(
        pid=os.getpid(),
        started_at=int(SystemClock().now()),
        address=listeners.address,
        enrolment_address=listeners.enrolment_address,
        admin_address=admin_address,
    )
    write_status(opened.home, status)
    ready(status)
    notify(READY)
    keeping = (runner.serve(), _keep_status(opened, status, runner), _keep_certificates(runner), _keep_saying(runner))
    work = [asyncio.create_task(task) for task in keeping]
    if opened.settings.events.wanted:
        work.append(asyncio.create_task(_tell_events(opened, runner)))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
    notify(STOPPING)
    await listeners.stop()
    for task in (*work, stopped):
        task.cancel()
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    with suppress(LocalError):  # a database that is away: the leases end by themselves
        await asyncio.to_thread(runner.resign)
        await asyncio.to_thread(runner.presence.end)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


async def _keep_certificates(runner: Runner) -> None:
    while True:
        await asyncio.sleep(CERTIFICATES_SECONDS)
        await asyncio.to_thread(runner.authority.look)


async def _keep_saying(runner: Runner) -> None:
    """Say to the other coordinators that this one runs, as often as the database takes it."""
    while True:
        with suppress(LocalError):  # a database that is away: the runs' own work says so
            await asyncio.to_thread(runner.presence.say, runner.liveness.all_live())
        await asyncio.sleep(presence.EVERY_SECONDS)


async def _keep_status(opened: OpenHome, status: DaemonStatus, runner: Runner) -> None:
    sightings = Sightings(opened.store, SystemClock())
    while True:
        current = replace(status, live=tuple(sorted(runner.liveness.all_live())), troubles=runner.troubles())
        await asyncio.to_thread(sightings.note, current.live)
        if current != status:
            status = current
            write_status(opened.home, status)
        await asyncio.sleep(STATUS_SECONDS)


async def _tell_events(opened: OpenHome, runner: Runner) -> None:
    """Tell what an operator should hear of; nothing that goes wrong here stops the daemon."""
    log, told = get_logger("coordinator"), Told(opened.home.directory / FILE_NAME)
    secret = load_secret(opened.home.directory, opened.settings.events)
    announcer = Announcer(opened.settings.events, told, secret=secret)
    announcer.start()
    watch = EventWatch(opened, announcer, told, clock=SystemClock())
    try:
        while True:
            try:
                await asyncio.to_thread(watch.look, runner.liveness.all_live())
            except Exception as error:  # noqa: BLE001  a database that is away, a damaged row: looked at again
                log.warning("events-not-looked-at", kind=type(error).__name__)  # its words may be a database's
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        announcer.close()
