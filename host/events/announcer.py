"""The thread that tells events, and what it has told already.

Guarantees: announcing never waits: what does not fit into a short queue is dropped, and the log says so. A webhook has
:data:`ATTEMPTS` tries, a command one; then the event is given up, and the log says so. An event is told once, also over
restarts; one that a stop of the daemon interrupts is told again.
Leaves to others: what happens (``coordinator.events``, ``participant.daemon.events``), one try (``webhook``).
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from host import durable
from host.events import webhook
from host.events.event import Event, Events
from host.events.signature import HEADER, signature
from host.logs import get_logger
from host.system import SystemClock
from privacy.errors import LocalError
from privacy.interfaces import Clock
from privacy.secret import SecretBytes

ATTEMPTS: Final = 3  # of a webhook
PAUSES: Final = (2.0, 10.0)  # seconds between them
POST_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 30.0
MOST_WAITING: Final = 64  # events that wait to be told
MOST_KEPT: Final = 4096  # keys of events that were told
FILE_NAME: Final = "events.json"

_log = get_logger("onlysum.events")


class Told:
    """Keys of events that need not be told again, in a file; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Read the file; one that is missing or does not parse counts as none."""
        self._path = path
        self._lock = threading.Lock()
        self._kept: list[str] = []
        self.fresh = True  # nothing was ever told from here: what happened before is no news
        with suppress(OSError, ValueError, TypeError):
            self._kept = [str(key) for key in json.loads(path.read_bytes())][-MOST_KEPT:]
            self.fresh = False
        self._pending = set(self._kept)

    def begin(self, key: str) -> bool:
        """Return whether an event is news; from now on it is none."""
        with self._lock:
            if key in self._pending:
                return False
            self._pending.add(key)
            return True

    def settle(self, *keys: str) -> None:
        """Write down that events were told, or need not be."""
        with self._lock:
            self._pending |= {*keys}
            self._kept = [*self._kept, *keys][-MOST_KEPT:]
            with suppress(LocalError, OSError):  # a full disk: they are told again after the next start
                durable.write(self._path, json.dumps(self._kept).encode())
            self.fresh = False


class Announcer(threading.Thread):
    """Tells events until it is closed."""

    def __init__(
        self,
        settings: Events,
        told: Told,
        *,
        secret: SecretBytes | None = None,
        clock: Clock | None = None,
        post: Callable[..., tuple[str, bool]] = webhook.post,
        run: Callable[..., str] = webhook.run,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """Tell nothing yet.

        Args:
            settings: who is told what.
            told: what was told before.
            secret: signs what a webhook gets.
            clock: of this machine.
            post: one try of a webhook.
            run: one run of a command.
            pauses: seconds between tries.
        """
        super().__init__(name="events", daemon=True)
        self._secret = secret
        self._clock = clock or SystemClock()
        self._settings = settings
        self._told = told
        self._post = post
        self._run = run
        self._pauses = pauses
        self._queue: queue.Queue[tuple[str, Event]] = queue.Queue(MOST_WAITING)
        self._closed = threading.Event()

    def announce(self, key: str, event: Event) -> None:
        """Tell an event, if it is wanted and was not told yet; returns at once."""
        if event.kind not in self._settings.kinds or not self._told.begin(key):
            return
        try:
            self._queue.put_nowait((key, event))
        except queue.Full:
            _log.warning("event-dropped", kind=event.kind, subject=event.subject, waiting=MOST_WAITING)

    def run(self) -> None:
        """Tell what comes."""
        while not self._closed.is_set():
            with suppress(queue.Empty):
                key, event = self._queue.get(timeout=0.2)
                if self._tell(event):
                    self._told.settle(key)

    def close(self) -> None:
        """End the thread after the try in hand, without waiting for it."""
        self._closed.set()

    def _tell(self, event: Event) -> bool:
        """Return whether nothing is left to do; False if the daemon stops meanwhile."""
        body, settled = event.to_bytes(), True
        if self._settings.command and (why := self._run(self._settings.command, body, seconds=COMMAND_SECONDS)):
            _log.warning("event-not-told", kind=event.kind, subject=event.subject, to="command", why=why)
        if self._settings.webhook:
            settled = self._deliver(event, body)
        return settled

    def _signed(self, body: bytes) -> dict[str, str]:
        """Return the header that signs a body, as of now."""
        if self._secret is None:
            return {}
        return {HEADER: signature(self._secret, body, at=int(self._clock.now()))}

    def _deliver(self, event: Event, body: bytes) -> bool:
        why, again = "", True
        for pause in (*self._pauses[: ATTEMPTS - 1], None):
            why, again = self._post(self._settings.webhook, body, seconds=POST_SECONDS, headers=self._signed(body))
            if not why:
                return True
            if not again or pause is None:
                break
            if self._closed.wait(pause):
                return False
        to = urlsplit(self._settings.webhook).hostname  # its path may be a secret
        _log.warning("event-not-told", kind=event.kind, subject=event.subject, to=to, why=why, attempts=ATTEMPTS)
        return True
