"""A disk that takes nothing any more, and what follows: this participant says so, and is away until there is room.

Guarantees: a disk that is full for a moment costs nothing; one that stays full costs the others no more than
:data:`FULL_SECONDS`; while it lasts nothing is polled, so that the coordinator counts this participant as absent rather
than using up attempts; as soon as there is room for a round it takes part again.
Leaves to others: saying it to the coordinator, and giving an attempt up (``runner``).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

from host import durable
from host.logs import get_logger
from participant.runs.context import DaemonContext
from privacy.errors import LocalError, OnlysumError

FULL_SECONDS: Final = 10.0  # for which a full disk may pass before this participant says that it cannot take part
CODES: Final = frozenset({"E-DISK-FULL", "E-DISK-FAILED"})
COPIES: Final = 3  # of an update that a round keeps: encoded, masked, and as much again for all else
LEAST_BYTES: Final = 2**20  # journal, shares and ledger

_log = get_logger("onlysum.participant")


class DiskTrouble:
    """Whether the disk is in the way; told by the working thread, asked by the polling one."""

    def __init__(self, work: DaemonContext) -> None:
        self._work = work
        self._since: float | None = None  # of the first failure after the last success
        self._away = threading.Event()

    def lasts(self, error: OnlysumError) -> bool:
        """Note a failed task; return whether a full disk has been in the way for too long to wait for it."""
        if not _of_this_disk(error):
            return False
        now = self._work.clock.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since >= FULL_SECONDS

    def over(self) -> None:
        """Note that a task was answered."""
        self._since = None

    def abstained(self, error: OnlysumError) -> None:
        """Note that this participant has said that it cannot, and why."""
        if _of_this_disk(error):
            self._away.set()

    def in_the_way(self) -> bool:
        """Return whether to count as absent: until a round's files would fit again."""
        if self._away.is_set() and self._has_room():
            _log.info("there is room on the disk again: taking part")
            self._away.clear()
        return self._away.is_set()

    def _has_room(self) -> bool:
        plans = self._work.review.plans.going_on()
        most = max((verified.plan.layouts[-1].bytes for verified in plans), default=0)
        with suppress(LocalError):
            durable.try_room(self._work.home.runs / ".room", LEAST_BYTES + COPIES * most)
            return True
        return False


def _of_this_disk(error: OnlysumError) -> bool:
    return isinstance(error, LocalError) and error.code in CODES
