"""What a daemon agrees with whoever started it: that it is ready, and when it is to stop.

Guarantees: SIGTERM and the first Ctrl-C let the current step finish, for as long as a daemon allows; then, and at the
second signal, it ends in the middle of it, because the state on disk is whole at any moment.
Source: sd_notify(3), signal(7).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
GRACE_SECONDS: Final = 2.0  # that a step may take to finish; an operator waits 3 at most
_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def notify(state: str) -> None:
    """Send a state to systemd, if it started this process (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service_manager:
        service_manager.connect("\0" + address[1:] if address.startswith("@") else address)
        service_manager.sendall(state.encode())


class StopSignals:
    """Handles the signals that end a daemon."""

    def __init__(self, stop: Callable[[], object], *, at_most: float | None = None) -> None:
        """Make the handler.

        Args:
            stop: asks the daemon to end after its current step; called once, between any two instructions.
            at_most: seconds after which the process ends whatever it is doing, with exit code 0; by default it is
                waited for.
        """
        self._stop = stop
        self._at_most = at_most
        self._received = False

    def install(self) -> None:
        """Handle SIGTERM and SIGINT from now on; to be called in the main thread."""
        for number in _ENDING:
            signal.signal(number, self)
        if self._at_most is not None:
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            # The system writes there at once; the handler itself waits until the main thread is back from C code,
            # which may be a training step or the import of a library.
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            threading.Thread(target=_end_in_time, args=(reader, self._at_most), name="stop", daemon=True).start()

    def __call__(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Ask the daemon to end; the second time, end it.

        Raises:
            KeyboardInterrupt: a signal came before.
        """
        if self._received:
            raise KeyboardInterrupt
        self._received = True
        self._stop()
        if sys.stderr.isatty():
            sys.stderr.write("Stopping after the current step; press Ctrl-C again to stop now.\n")


def _end_in_time(signals: int, seconds: float) -> None:
    while _ENDING.isdisjoint(os.read(signals, 64)):
        pass
    time.sleep(seconds)
    os._exit(0)  # as kill -9 would, which the state on disk withstands
