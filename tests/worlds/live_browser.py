"""One headless Chromium that visits served pages, driven over its own pipe: what a person sees, what a page asks for.

Guarantees: every request of a page is recorded; what is asked of a page is not bound by the page's content policy.
A test is skipped by name where there is no Chromium or no axe-core (``browser``). Source: Chrome DevTools Protocol.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.worlds.browser import FLAGS, GRAVE, axe_core, chromium

SECONDS: Final = 60.0
AXE: Final = (
    "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify("
    "found.violations.map(one => [one.id, one.impact, one.nodes.map(node => node.html.slice(0, 300))])))"
)


@dataclass
class Browser:
    """The browser, in one tab."""

    to: int
    back: int
    requests: list[str] = field(default_factory=list)  # addresses, since the last visit
    received: int = 0  # bytes of bodies, since the last visit
    errors: list[str] = field(default_factory=list)  # of scripts and of the content policy
    _number: int = 0
    _session: str = ""
    _loaded: bool = False
    _rest: bytes = b""

    def start(self) -> None:
        """Open the tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Network.setCacheDisabled", cacheDisabled=True)

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Ask the browser for something and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer.get("result", {})
                return result
        raise TimeoutError(method)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self.back, 2**20)
            assert data, "the browser has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        values = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])
            case "Network.dataReceived":
                self.received += values["dataLength"]
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(str(values["exceptionDetails"].get("exception", values["exceptionDetails"])))
            case "Log.entryAdded" if values["entry"]["level"] == "error":
                self.errors.append(values["entry"]["text"])
        return message

    def window(self, width: int, height: int = 900, *, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window, and what colours its user prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        wish = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=wish)

    def visit(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        self.requests, self.received, self.errors, self._loaded = [], 0, [], False
        self.call("Page.navigate", url=url)
        self._await_load()

    def _await_load(self) -> None:
        end = time.monotonic() + SECONDS
        while not self._loaded and time.monotonic() < end:
            self._next()
        self.ask("new Promise(done => requestAnimationFrame(() => setTimeout(() => done('drawn'), 50)))")

    def ask(self, expression: str) -> Any:
        """Return what an expression has as its value on the page."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def submit(self, expression: str) -> None:
        """Run an expression that leads to another page, and wait for that."""
        self._loaded = False
        self.ask(f"setTimeout(() => {{ {expression} }}, 0); true")
        self._await_load()

    def grave_problems(self) -> list[tuple[str, str, list[str]]]:
        """Return what axe-core finds that is serious or critical."""
        self.call("Runtime.evaluate", expression=axe_core())
        found = [tuple(each) for each in json.loads(self.ask(AXE))]
        return [(rule, impact, nodes) for rule, impact, nodes in found if impact in GRAVE]

    def scroll_width(self) -> int:
        """Return how wide the page is."""
        return int(self.ask("document.documentElement.scrollWidth"))

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browsing() -> Iterator[Browser]:
    """Run one Chromium while the block runs."""
    to_read, to_write = os.pipe()
    back_read, back_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="onlysum-browser-", ignore_cleanup_errors=True) as profile:
        command = [chromium(), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        # The protocol's pipe is at descriptors 3 and 4: a shell puts them there.
        script = f'exec "$@" 3<&{to_read} 4>&{back_write}'
        process = subprocess.Popen(["bash", "-c", script, "chromium", *command], pass_fds=(to_read, back_write),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(to_read)
        os.close(back_write)
        browser = Browser(to_write, back_read)
        try:
            browser.start()
            yield browser
        finally:
            process.terminate()
            process.wait(20)
            os.close(to_write)
            os.close(back_read)
