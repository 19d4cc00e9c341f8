"""``participant start``: the process around the runner.

Guarantees: one daemon per directory; SIGTERM and SIGINT end it within 3 seconds, and nothing needs a clean end, since
whatever counts is on disk; log lines hold ids, codes and counts only, and no traceback, which could show data.
Leaves to others: the work (``runner``), putting it together (``assembly``).
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from host.certificates import require_valid
from host.events.signature import load_secret
from host.locks import only_daemon
from host.logs import logging_to
from host.service_manager import GRACE_SECONDS, READY, STOPPING, StopSignals, notify
from host.system import SystemClock
from participant.config import load_settings
from participant.daemon.assembly import assemble
from participant.daemon.events import EventThread
from participant.daemon.status import StatusFile
from participant.home import Home
from participant.link.identity import load_identity
from participant.link.renewal import load_next
from participant.opened import open_home
from participant.training.progress import bars, silent
from privacy.errors import LocalError


def start(directory: Path) -> None:
    """Run the daemon until it is told to stop.

    Raises:
        LocalError: ``E-RUNNING``, ``E-CERTIFICATE``, ``E-CONFIG-*`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    home.check()
    if home.left_mark.exists():
        raise LocalError("E-USAGE", "this participant has left its federation; join again in a new directory")
    settings = load_settings(home)
    load_secret(directory, settings.events)  # one that is missing is refused now, not when something happens
    identity, now = load_identity(home.identity), SystemClock().now()
    newest = load_next(home.identity, identity) or identity  # a crash may have come before it was used
    require_valid(newest.certificate, "this participant's certificate", now)
    stop = threading.Event()
    with only_daemon(directory, "participant"), logging_to(settings.log, directory, tracebacks=False):
        StatusFile(home, SystemClock())  # what a daemon that was killed said holds no more
        StopSignals(stop.set, at_most=GRACE_SECONDS).install()
        runner = assemble(directory, stop, show_progress=bars if sys.stderr.isatty() else silent)
        if settings.events.wanted:
            EventThread(open_home(directory), stop).start()
        notify(READY)
        runner.run()
        notify(STOPPING)
