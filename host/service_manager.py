"""What a daemon agrees with whoever started it: that it is ready, and when it is to stop.

Guarantees: SIGTERM and the first Ctrl-C let the current step finish; the second signal does not wait, because the state
on disk is whole at any moment.
Source: sd_notify(3), signal(7).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


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

    def __init__(self, stop: Callable[[], object]) -> None:
        """Make the handler.

        Args:
            stop: asks the daemon to end after its current step; called once, between any two instructions.
        """
        self._stop = stop
        self._received = False

    def install(self) -> None:
        """Handle SIGTERM and SIGINT from now on; to be called in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self)

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
