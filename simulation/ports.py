"""Ports of the loopback interface for daemons that are about to start.

Guarantees: a port comes from outside the range from which systems pick ports of their own accord (32768 to 60999 on
Linux, 49152 and up elsewhere), so that no connection takes it between this look and the daemon's start; this process
gives no port twice.
"""

from __future__ import annotations

import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return as many ports of the loopback interface that nobody listens on, all different.

    Raises:
        OSError: Too few are free.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        if port not in _given and _is_free(port):
            _given.add(port)
            found.append(port)
    if len(found) < count:
        raise OSError(f"{count} ports were asked for; of {PORTS.start} to {PORTS.stop - 1} only {len(found)} are free")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
