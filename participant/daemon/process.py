"""``participant start``: the process around the runner.

Guarantees: one daemon a directory; SIGTERM and SIGINT end it cleanly, and nothing needs a clean end, since whatever
counts is on disk; log lines are JSON, one object each, with ids and counts only.
Leaves to others: the work (``runner``).
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from host.durable import FILE_MODE
from participant.config import load_settings
from participant.daemon.assembly import assemble
from participant.home import Home
from participant.training.progress import bars, silent
from privacy.errors import LocalError


def serve(directory: Path) -> None:
    """Run the daemon until it is told to stop.

    Raises:
        LocalError: ``E-RUNNING``, ``E-CONFIG-*`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    home.check()
    if home.left_mark.exists():
        raise LocalError("E-USAGE", f"this participant has left its federation; remove {home.left_mark} to return")
    configure_logs(load_settings(home).log_level)
    stop = threading.Event()
    with _only_daemon(home):
        runner = assemble(directory, stop, show_progress=bars if sys.stderr.isatty() else silent)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: _end(stop))
        tell_systemd("READY=1")
        runner.run()
        tell_systemd("STOPPING=1")


def _end(stop: threading.Event) -> None:
    """Let the step in hand come to its end; the second time do not wait: state on disk is whole at any moment."""
    if stop.is_set():
        raise KeyboardInterrupt
    stop.set()
    if sys.stderr.isatty():
        sys.stderr.write("Ending after the step in hand; Ctrl-C again ends at once.\n")


def configure_logs(level: str) -> None:
    """Send structured log lines, one JSON object each, to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextmanager
def _only_daemon(home: Home) -> Iterator[None]:
    """Hold the directory's lock, which the operating system gives back however the process ends."""
    descriptor = os.open(home.directory / "daemon.lock", os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError("E-RUNNING", f"a participant in {home.directory}") from None
        yield
    finally:
        os.close(descriptor)


def tell_systemd(state: str) -> None:
    """Send a state to systemd, if it started this process (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.sendall(state.encode())
