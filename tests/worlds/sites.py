"""An application that is served on the loopback in a thread, and asked as a browser would ask it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlencode

from starlette.applications import Starlette

from host.web import serving


@dataclass
class Site:
    """An address, and how a test asks it."""

    address: str

    @property
    def url(self) -> str:
        """Its first page."""
        return f"http://{self.address}"

    def ask(self, method: str, path: str, *, cookie: str = "", fields: dict[str, str] | None = None,
            headers: dict[str, str] | None = None) -> tuple[HTTPResponse, str]:  # fmt: skip
        """Send one request as a browser would, from a page of this site; return the answer and its body."""
        host, _, port = self.address.rpartition(":")
        connection = HTTPConnection(host, int(port), timeout=20)
        sent = {"Host": self.address, "Cookie": cookie}
        if fields is not None:
            sent |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.url}
        body = None if fields is None else urlencode(fields)
        connection.request(method, path, body=body, headers={**sent, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer, text


@contextmanager
def running(make: Callable[[str], Starlette]) -> Iterator[str]:
    """Serve the application that is made for an address while the block runs; yields the address."""
    listener = serving.bind("127.0.0.1:0")
    address = serving.bound_address(listener, "127.0.0.1:0")
    app, loop, stop = make(address), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with serving.served(app, listener):
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
