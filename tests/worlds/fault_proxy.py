"""A proxy between two ends of connections that does to them what networks do, on order.

Guarantees: without a fault bytes pass unchanged; a fault that is not one-time holds until :meth:`FaultProxy.heal`.
Leaves to others: slow links without a fault (``bench.proxy``).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")
READ_BYTES: Final = 2**14
GATHER_SECONDS: Final = 0.2  # in which the second of two pieces comes that are to change places
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST, as a machine that restarts does


@dataclass(eq=False)
class _Flow:
    """One direction of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    recorded: bytearray = field(default_factory=bytearray)  # what came in
    black_hole: bool = False


@dataclass
class FaultProxy:
    """Listens on a port of loopback and hands on to an address; a context manager, in a thread of its own.

    Args:
        target: host and port to hand on to.
        record: whether what connections bring is kept, so that it can be replayed.
    """

    target: Callable[[], str]
    record: bool = False
    address: str = ""
    up: list[_Flow] = field(default_factory=list)  # from the end that dialled, newest last
    accepted: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._down: list[_Flow] = []
        self._open = asyncio.Event()  # bytes may pass
        self._rate = 0.0  # bytes a second, or as fast as it goes
        self._garbling: Callable[[_Flow, bytes], Coroutine[Any, Any, bytes]] | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    # --- faults ---

    def cut(self, which: int | None = None) -> None:
        """Reset every connection, or that of a number, counted from the oldest that is open and beginning anew."""

        async def reset() -> None:
            pairs = list(zip(self.up, self._down, strict=True))
            if which is not None and pairs:
                pairs = [pairs[which % len(pairs)]]
            for flow in (flow for pair in pairs for flow in pair):
                raw = flow.writer.get_extra_info("socket")
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                flow.writer.transport.abort()

        self._call(reset())

    def half_open(self) -> None:
        """Let every connection of now lead nowhere, for good: neither end hears of the other, nor of an end."""

        async def swallow() -> None:
            for flow in (*self.up, *self._down):
                flow.black_hole = True

        self._call(swallow())

    def stall(self) -> None:
        """Let nothing pass any more, in old connections and new ones, nor be lost."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def slow(self, rate: float) -> None:
        """Let so many bytes a second pass in each direction of each connection."""

        async def limit() -> None:
            self._rate = rate

        self._call(limit())

    def reorder(self) -> None:
        """Let the next two pieces of a connection come in the other order, once."""

        async def swapped(flow: _Flow, data: bytes) -> bytes:
            with suppress(TimeoutError):
                after = await asyncio.wait_for(flow.reader.read(READ_BYTES), GATHER_SECONDS)
                return after + data
            half = len(data) // 2
            return data[half:] + data[:half]

        self._garble(swapped)

    def duplicate(self) -> None:
        """Let the next piece of a connection come twice, once."""

        async def doubled(_: _Flow, data: bytes) -> bytes:
            return data + data

        self._garble(doubled)

    def _garble(self, change: Callable[[_Flow, bytes], Coroutine[Any, Any, bytes]]) -> None:
        async def arm() -> None:
            self._garbling = change

        self._call(arm())

    def replay(self) -> list[bytes]:
        """Send what each connection has brought until now to the target again, and return what it answers to each."""
        return [self._call(self._replayed(bytes(flow.recorded))) for flow in list(self.up)]

    def heal(self) -> None:
        """Let everything pass again."""

        async def mend() -> None:
            self._rate, self._garbling = 0.0, None
            self._open.set()

        self._call(mend())

    @property
    def garbled(self) -> bool:
        """Whether the change that was ordered has been made."""
        return self._garbling is None

    # --- connections ---

    async def _listen(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.target().rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            there, back = await self._dial()
        except OSError:
            writer.transport.abort()
            return
        up, down = _Flow(reader, back), _Flow(there, writer)
        self.up.append(up)
        self._down.append(down)
        try:
            await asyncio.gather(self._carry(up), self._carry(down))
        except (OSError, asyncio.CancelledError):
            pass  # one end is gone, or this proxy: so is the other, below
        finally:
            for flow in (up, down):
                flow.writer.close()
            if not self.record:
                self.up.remove(up)
                self._down.remove(down)

    async def _carry(self, flow: _Flow) -> None:
        while data := await flow.reader.read(READ_BYTES):
            if self.record:
                flow.recorded += data
            await self._open.wait()
            if flow.black_hole:
                await asyncio.Event().wait()  # until the proxy ends
            if (change := self._garbling) is not None:
                self._garbling = None
                data = await change(flow, data)
            await self._send(flow, data)
        flow.writer.close()

    async def _send(self, flow: _Flow, data: bytes) -> None:
        at = 0
        while at < len(data):
            step = len(data) if not self._rate else max(1, int(self._rate))
            flow.writer.write(data[at : at + step])
            await flow.writer.drain()
            at += step
            if self._rate:
                await asyncio.sleep(step / self._rate)

    async def _replayed(self, data: bytes) -> bytes:
        reader, writer = await self._dial()
        answer = b""
        with suppress(OSError, TimeoutError):
            writer.write(data)
            while more := await asyncio.wait_for(reader.read(READ_BYTES), 5):
                answer += more
        writer.close()
        return answer
