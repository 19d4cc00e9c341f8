"""``coordinator start``: the process around the runner and the network service.

Guarantees: it says that it is ready only when both listeners are; SIGTERM and SIGINT end it cleanly, and nothing needs
a clean end, since whatever counts is committed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO

import structlog

from coordinator.config import Home, Settings
from coordinator.daemon.runner import Runner
from coordinator.daemon.service import Credentials, serve
from coordinator.daemon.status import DaemonStatus, only_daemon, write_status
from coordinator.database.store import Store
from coordinator.enrolment.authority import Authority
from host.system import SystemClock, SystemRandom
from privacy.secagg import masks

PRESENCE_SECONDS: Final = 0.5


def configure_logs(file: TextIO) -> None:
    """Send structured log lines, one JSON object each, to a stream."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file),
    )


def start(home: Home, settings: Settings, authority: Authority, ready: Callable[[DaemonStatus], None]) -> None:
    """Run the daemon until it is told to stop.

    Args:
        home: its directory.
        settings: coordinator.toml.
        authority: its keys.
        ready: called once when both listeners are up.

    Raises:
        LocalError: ``E-RUNNING``, ``E-PORT``, ``E-STATE-DAMAGED`` or ``E-MASK-STREAM``.
    """
    masks.choose(SystemClock())  # a library whose key streams are wrong is refused at the start, not in a round
    with only_daemon(home):
        store = Store.open(home.database_url(settings))
        try:
            if settings.log.file is None:
                configure_logs(sys.stderr)
                asyncio.run(_serve(home, settings, authority, store, ready))
                return
            with Path(home.directory, settings.log.file).open("a", buffering=1) as log:
                configure_logs(log)
                asyncio.run(_serve(home, settings, authority, store, ready))
        finally:
            store.close()


async def _serve(
    home: Home, settings: Settings, authority: Authority, store: Store, ready: Callable[[DaemonStatus], None]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = Runner(store, home, settings, authority, clock=SystemClock(), random=SystemRandom())
    runner.discover()
    listeners = await serve(
        runner,
        credentials=Credentials(authority.ca_certificate, authority.server_certificate, authority.server_key),
        address=settings.participants.bind,
        enrolment_address=settings.enrolment.bind,
    )
    status = DaemonStatus(
        pid=os.getpid(),
        started_at=int(SystemClock().now()),
        address=listeners.address,
        enrolment_address=listeners.enrolment_address,
    )
    write_status(home, status)
    ready(status)
    work = [asyncio.create_task(runner.serve()), asyncio.create_task(_keep_status(home, status, runner))]
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
    await listeners.stop()
    for task in (*work, stopped):
        task.cancel()
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _keep_status(home: Home, status: DaemonStatus, runner: Runner) -> None:
    while True:
        now = replace(status, live=tuple(sorted(runner.liveness.all_live())))
        if now != status:
            status = now
            write_status(home, status)
        await asyncio.sleep(PRESENCE_SECONDS)
