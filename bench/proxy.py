"""A link between two ends of a connection: so slow, and so far.

Guarantees: bytes come out in order, not before their time: each waits for those before it at the link's rate, and then
for half a round trip. Who sends faster than the link is held back, as by a network.
Leaves to others: what travels.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

READ_BYTES: Final = 2**13
FLIGHT_SECONDS: Final = 0.5  # of bytes that may be under way beyond the round trip: the buffers of a network


@dataclass
class SlowLink:
    """Listens on a port of loopback and hands on to an address; a context manager, in a thread of its own.

    Args:
        target: host and port to hand on to.
        round_trip: seconds there and back.
        rate: bytes a second, in each direction of each connection.
    """

    target: Callable[[], str]
    round_trip: float
    rate: float
    carried: int = 0  # bytes in both directions
    address: str = ""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target().rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(self._carry(reader, back), self._carry(there, writer), return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(self._deliver(under_way, writer))
        free_at = self._loop.time()
        while data := await reader.read(READ_BYTES):
            self.carried += len(data)
            free_at = max(free_at, self._loop.time()) + len(data) / self.rate
            under_way.put_nowait((free_at + self.round_trip / 2, data))
            await asyncio.sleep(max(0.0, free_at - self._loop.time() - FLIGHT_SECONDS))
        under_way.put_nowait((0.0, b""))
        await delivery

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            at, data = await under_way.get()
            if not data:
                writer.close()
                return
            await asyncio.sleep(max(0.0, at - self._loop.time()))
            writer.write(data)
            await writer.drain()
