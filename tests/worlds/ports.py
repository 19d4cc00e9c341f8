"""Ports of this machine that are free."""

from __future__ import annotations

import socket


def free_ports() -> tuple[int, int]:
    """Return two ports of the loopback that are free now."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
