"""The HTTP listener of a daemon: bounded, quiet, and ended with its daemon.

Guarantees: at most :data:`MOST_CONNECTIONS` connections, one more is closed at once; a connection that has not sent a
whole request within :data:`REQUEST_SECONDS` is closed; signals stay with the daemon.
Leaves to others: what is served.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from privacy.errors import LocalError

MOST_CONNECTIONS: Final = 128
REQUEST_SECONDS: Final = 20.0
KEPT_SECONDS: Final = 15  # between two requests on one connection
HEADER_BYTES: Final = 16 * 2**10
STOP_SECONDS: Final = 1


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, among a bounded number, with a deadline for its request."""

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or close it."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self.loop.call_later(REQUEST_SECONDS, self._close_if_silent, transport)

    def _close_if_silent(self, transport: asyncio.Transport) -> None:
        if self.cycle is None and not transport.is_closing():
            transport.abort()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield


def bind(address: str) -> socket.socket:
    """Return a listening socket.

    Args:
        address: host and port; port 0 takes a free one.

    Raises:
        LocalError: ``E-PORT``.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(MOST_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise LocalError("E-PORT", address) from error
    listener.setblocking(False)
    return listener


def bound_address(listener: socket.socket, address: str) -> str:
    """Return host and port of a bound socket, with the host as it was configured."""
    return f"{address.rpartition(':')[0]}:{listener.getsockname()[1]}"


@asynccontextmanager
async def served(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application on a socket while the block runs."""
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEPT_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([running], timeout=2 * STOP_SECONDS)
        running.cancel()
        listener.close()
