"""How much of the coordinator one member may keep busy at a time.

Guarantees: what a member exceeds is refused to that member alone, as trouble of the network that its daemon waits out;
what an honest daemon needs, stale calls of broken connections among it, is well within.
Leaves to others: what a call asks (``service``), which messages are allowed (``coordinator.runs.submissions``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from privacy.errors import NetworkError
from privacy.interfaces import Clock

# Of one kind at a time: one in use, and those of broken connections that keepalive has not found out yet.
MAX_CALLS: Final = 8
MAX_BUFFERED: Final = 2  # submissions of the largest allowed size that a member may have half sent
HANDSHAKES: Final = 20  # that may follow each other at once
HANDSHAKE_SECONDS: Final = 5.0  # after which one more may come


class CallQuota:
    """Counts each member's calls in flight, by kind, and the bytes that unfinished ones have brought."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str]] = Counter()
        self._buffered: Counter[str] = Counter()

    @contextmanager
    def call(self, member: str, kind: str) -> Iterator[None]:
        """Count a call inside the ``with`` block, or refuse it.

        Raises:
            NetworkError: ``E-NET-BUSY``.
        """
        key = member, kind
        if self._calls[key] >= MAX_CALLS:
            raise NetworkError("E-NET-BUSY", f"{member} has {MAX_CALLS} calls of {kind} in flight")
        self._calls[key] += 1
        try:
            yield
        finally:
            self._calls[key] -= 1
            if not self._calls[key]:
                del self._calls[key]

    @contextmanager
    def buffer(self, member: str, most: int) -> Iterator[Buffered]:
        """Count what is buffered inside the ``with`` block, for all calls of a member together."""
        buffered = Buffered(self._buffered, member, MAX_BUFFERED * most)
        try:
            yield buffered
        finally:
            buffered.release()


class Buffered:
    """The bytes that one unfinished call has brought."""

    def __init__(self, of_members: Counter[str], member: str, most: int) -> None:
        self._of_members = of_members
        self._member = member
        self._most = most
        self._bytes = 0

    def add(self, length: int) -> None:
        """Count more bytes.

        Raises:
            NetworkError: ``E-NET-BUSY``, all unfinished calls of the member together have brought too many.
        """
        if self._of_members[self._member] + length > self._most:
            raise NetworkError("E-NET-BUSY", f"unfinished messages of {self._member} have {self._most} bytes")
        self._of_members[self._member] += length
        self._bytes += length

    def release(self) -> None:
        """Count these bytes no longer."""
        self._of_members[self._member] -= self._bytes
        if not self._of_members[self._member]:
            del self._of_members[self._member]


class HandshakeRate:
    """Lets a member shake hands some times at once, and then once per :data:`HANDSHAKE_SECONDS`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at: dict[str, float] = {}  # when all that were spent are made up for

    def spend(self, member: str) -> None:
        """Count a handshake.

        Raises:
            NetworkError: ``E-NET-BUSY``.
        """
        now = self._clock.monotonic()
        free_at = max(now, self._free_at.get(member, now)) + HANDSHAKE_SECONDS
        if free_at - now > HANDSHAKES * HANDSHAKE_SECONDS:
            raise NetworkError("E-NET-BUSY", f"{member} shakes hands too often")
        self._free_at[member] = free_at
