"""The thread that stays connected: handshakes, long polls, and nothing else.

Guarantees: never ends because of what the network or the coordinator does; polls while the rest of the daemon works, so
that a participant in a long training still counts as there; announces the registry again when it has changed, and asks
who is enrolled again after a while; with each handshake it looks whether something is to be renewed (``upkeep``).
Leaves to others: what tasks mean (``runner``), the connection (``channel``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from typing import Final

from host.certificates import compare_clocks
from host.logs import get_logger
from participant.daemon.status import StatusFile
from participant.link.delivery import Backoff, Link, OutageLog, Stopping, TaskQueue
from participant.link.upkeep import Upkeep
from participant.runs.context import DaemonContext
from privacy.errors import LocalError, NetworkError, OnlysumError
from privacy.plan import PROTOCOL_VERSION
from protos import codec
from protos.envelope import DatasetOffer, Hello, Role, Welcome

POLL_SECONDS: Final = 10.0  # of one long poll; a changed registry is announced after at most one
LISTING_SECONDS: Final = 600.0  # a handshake lists who is enrolled, of thousands 0.4 MB: seldom, but not only at start
RESTING_SECONDS: Final = 1.0  # between looks at whether the owner wants to take part again

_log = get_logger("onlysum.participant")


class Poller(threading.Thread):
    """Fills the inbox until the stop event is set."""

    def __init__(
        self,
        work: DaemonContext,
        role: Role,
        *,
        link: Link,
        queue: TaskQueue,
        status: StatusFile,
        is_idle: Callable[[], bool],
        stop: threading.Event,
        upkeep: Upkeep | None = None,
    ) -> None:
        super().__init__(name=f"poll-{work.owner.name}", daemon=True)
        self._work = work
        self._role = role
        self._link = link
        self._inbox = queue
        self._status = status
        self._resting = is_idle
        self._stop_event = stop
        self._upkeep = upkeep
        self._backoff = Backoff(stop)
        self._trouble = OutageLog()
        self._was_connected = False
        self._clocks_differ = False

    def run(self) -> None:
        """Poll, and after any failure wait a little and begin with a handshake again."""
        try:
            while not self._stop_event.is_set():
                try:
                    self._converse()
                except OnlysumError as error:
                    self._failed(error)
                except Exception as error:  # noqa: BLE001  # the heartbeat must not end
                    _log.error("polling failed", kind=type(error).__name__)
                self._backoff.wait()
        except Stopping:
            return

    def greet(self) -> tuple[DatasetOffer, ...]:
        """Shake hands, take in what the coordinator says, and renew what is due; return what was offered."""
        offers = self._work.review.offers()
        hello = self._hello(offers)
        if self._upkeep is not None:
            self._upkeep.before_handshake(hello)
        welcome = self._link.handshake(hello)
        if not self._was_connected:
            _log.info("connected", member=self._work.owner.name, federation=welcome.federation)
            self._was_connected = True
        self._trouble.over()
        self._backoff.reset()
        self._status.connected(self._clocks(welcome))
        self._status.note_members(welcome.members)
        self._inbox.put(welcome)
        if self._upkeep is not None:
            self._upkeep.after_handshake(hello, welcome)
        return offers

    def _converse(self) -> None:
        offers = self.greet()
        old = time.monotonic() + LISTING_SECONDS
        while not self._stop_event.is_set() and self._work.review.offers() == offers and time.monotonic() < old:
            if self._resting():
                self._stop_event.wait(RESTING_SECONDS)
                continue
            self._poll()

    def _poll(self) -> None:
        """Take tasks until the poll is over, or another has to ask for one that was put back."""
        with closing(self._link.poll(self._inbox.seen(), POLL_SECONDS, self._task_limit)) as tasks:
            for task in tasks:
                self._inbox.put(task)
                if self._stop_event.is_set() or self._inbox.outdated or self._resting():
                    return

    def _clocks(self, welcome: Welcome) -> LocalError | None:
        clocks = compare_clocks(self._work.clock.now(), welcome.clock)
        if clocks is not None and not self._clocks_differ:
            _log.warning("clocks differ", code=clocks.code, detail=clocks.detail, next=clocks.explanation.next_step)
        self._clocks_differ = clocks is not None
        return clocks

    def _task_limit(self) -> int:
        """Return how many bytes a task may have, from the plans that were approved here."""
        plans = [verified.plan for verified in self._work.review.plans.going_on()]
        limits = [codec.task_limit(members=plan.n, rounds=plan.recipe.rounds) for plan in plans]
        return max(limits, default=codec.PLAIN_TASK_BYTES)

    def _failed(self, error: OnlysumError) -> None:
        if self._stop_event.is_set():
            raise Stopping
        self._trouble.met(error)
        self._status.trouble(error)
        if not isinstance(error, NetworkError):
            self._backoff.lengthen()  # another version or a revoked key does not mend itself in a second

    def _hello(self, offers: tuple[DatasetOffer, ...]) -> Hello:
        return Hello(
            protocol_version=PROTOCOL_VERSION,
            software_version=version("onlysum"),
            member=self._work.owner.name,
            role=self._role,
            ledger_head=self._work.ledger.head(),
            datasets=offers,
        )
