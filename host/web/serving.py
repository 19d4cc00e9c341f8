"""The HTTP listener of a daemon: bounded, quiet, and ended with its daemon.

Guarantees: at most :data:`MOST_CONNECTIONS` connections: for one more, the one is closed that has waited longest
without a request, so that connections which say nothing keep nobody out; a connection is closed that has not sent the
whole head of its first or next request within :data:`REQUEST_SECONDS`, or has not read the answer within
:data:`ANSWER_SECONDS`, whatever else it sends; what is no HTTP is in no log; signals stay with the daemon.
Leaves to others: what is served.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from privacy.errors import LocalError

MOST_CONNECTIONS: Final = 128
REQUEST_SECONDS: Final = 20.0
ANSWER_SECONDS: Final = 60.0  # from a whole head to the last byte that was read
KEPT_SECONDS: Final = 15  # between two requests on one connection
HEADER_BYTES: Final = 16 * 2**10
STOP_SECONDS: Final = 1


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, among a bounded number, with a deadline for each request and each answer."""

    _deadline: asyncio.TimerHandle | None = None
    _silent_since = 0.0  # seconds of the loop's clock
    _leaves = False

    def connection_made(self, transport: Any) -> None:
        """Take a connection, and give up another if there are too many."""
        super().connection_made(transport)
        self._await_request()
        open_ones = [each for each in self.connections if isinstance(each, BoundedProtocol) and not each._leaves]
        if len(open_ones) > MOST_CONNECTIONS:
            silent = [each for each in open_ones if each is not self and not each._answering]
            min(silent, key=lambda each: each._silent_since, default=self)._give_up()

    def data_received(self, data: bytes) -> None:
        """Take what comes; only a whole head of a request puts the deadline off."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and self._answering:
            self._set_deadline(ANSWER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; a page that is being made of what came before it is for nobody any more."""
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # in the middle of an answer there is no place for another one
            self._give_up()

    def on_response_complete(self) -> None:
        """Wait for the next request, and for what of the answer is not read yet."""
        self._await_request()
        super().on_response_complete()  # which may begin with the next request, if it is here already
        if self._answering:
            self._set_deadline(ANSWER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_request(self) -> None:
        self._silent_since = self.loop.time()
        self._set_deadline(REQUEST_SECONDS)

    def _set_deadline(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        """Close the connection at once: to be closed in peace, its last answer would have to be read."""
        self._leaves = True
        self.transport.abort()


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
            log_level="error",
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
