"""Two daemons with one identity: copies of one directory would spend a budget twice and sign conflicting messages.

A daemon draws a session when it starts, and names it in every call. After a restart only the new session is heard; one
that is heard again after another began is a second daemon that still runs. Nothing of this is on a disk, so that copies
of a directory cannot share it (ADR 0031).

Guarantees: from the moment when the older one is heard again neither is served; whoever is left is served once the
other has been silent for :data:`SILENT_SECONDS`; what is remembered of a member is bounded.
Leaves to others: how a session travels (``coordinator.daemon.service``), telling the operator
(``coordinator.daemon.troubles``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from privacy.interfaces import Clock

SILENT_SECONDS: Final = 90.0  # a daemon that is refused calls again within 30 s
MAX_SESSIONS: Final = 8  # of a member, the ones that were heard last


@dataclass(slots=True)
class _Session:
    first: float  # heard, in the clock's monotonic seconds
    last: float


class Sessions:
    """Which daemons of each member were heard lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[str, dict[bytes, _Session]] = {}

    def hear(self, member: str, session: bytes) -> None:
        """Note a call."""
        now, known = self._clock.monotonic(), self._heard.get(member, {})
        if len(known) == 1 and session in known and now - known[session].last <= SILENT_SECONDS:
            known[session].last = now  # as nearly always: one daemon
            return
        sessions = self._recent(member)
        sessions.setdefault(session, _Session(now, now)).last = now
        if len(sessions) > MAX_SESSIONS:
            del sessions[min(sessions, key=lambda name: sessions[name].last)]
        self._heard[member] = sessions

    def twice(self, member: str) -> bool:
        """Return whether two daemons of a member run: one was heard after the next one began."""
        if len(self._heard.get(member, ())) < 2:
            return False
        by_age = sorted(self._recent(member).values(), key=lambda session: session.first)
        return any(older.last > newer.first for number, newer in enumerate(by_age) for older in by_age[:number])

    def all_twice(self) -> tuple[str, ...]:
        """Return every member of which two daemons run."""
        return tuple(sorted(member for member in self._heard if self.twice(member)))

    def _recent(self, member: str) -> dict[bytes, _Session]:
        limit = self._clock.monotonic() - SILENT_SECONDS
        heard = self._heard.get(member, {})
        return {name: session for name, session in heard.items() if session.last >= limit}
