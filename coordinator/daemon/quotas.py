"""How much of the coordinator one member may keep busy at a time.

Guarantees: what a member exceeds is refused to that member alone, as trouble of the network that its daemon waits out;
what an honest daemon needs, stale calls of broken connections among it, is well within.
Leaves to others: what a call asks (``service``), which messages are allowed (``coordinator.runs.submissions``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from privacy.errors import NetworkError, PeerError, Phase
from privacy.interfaces import Clock

# Of one kind at a time: one in use, and those of broken connections that keepalive has not found out yet.
MAX_CALLS: Final = 8
MAX_BUFFERED: Final = 2  # submissions of the largest allowed size that a member may have half sent
HANDSHAKES: Final = 20  # that may follow each other at once
HANDSHAKE_SECONDS: Final = 5.0  # after which one more may come
RENEWALS: Final = 4  # certificates that a member may ask for at once; a daemon needs one in two months
RENEWAL_SECONDS: Final = 900.0  # after which one more may be asked for
# Of the coordinator's processor: what a member may have done for it at once, and which part of a core after that. A
# round of 1000 participants takes some 20 ms for each of them, an upload of a gigabyte 2 s.
WORK_SECONDS: Final = 10.0
WORK_SHARE: Final = 0.1
CALL_SECONDS: Final = 0.0005  # that any call takes, whatever it asks
BUSY_SECONDS: Final = 1.0  # that a call beyond the quota waits for its refusal: who calls without end is slowed down
LEAST_CHUNK_BYTES: Final = 2**16  # of every chunk but the last of a message or upload: each costs a few calls
STALL_SECONDS: Final = 120.0  # for which a member may send nothing in the middle of a message or upload


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


class _Debts:
    """What members owe, in seconds after which all that they spent is made up for."""

    def __init__(self, clock: Clock, most: float) -> None:
        self._clock = clock
        self._most = most
        self._free_at: dict[str, float] = {}

    def add(self, member: str, seconds: float) -> bool:
        """Add to what a member owes, unless it would owe too much; return whether it was added."""
        now = self._clock.monotonic()
        free_at = max(now, self._free_at.get(member, now)) + seconds
        if free_at - now > self._most:
            return False
        self._free_at[member] = free_at
        return True


class HandshakeRate:
    """Lets a member shake hands some times at once, and then once per :data:`HANDSHAKE_SECONDS`."""

    def __init__(self, clock: Clock) -> None:
        self._debts = _Debts(clock, HANDSHAKES * HANDSHAKE_SECONDS)

    def spend(self, member: str) -> None:
        """Count a handshake.

        Raises:
            NetworkError: ``E-NET-BUSY``.
        """
        if not self._debts.add(member, HANDSHAKE_SECONDS):
            raise NetworkError("E-NET-BUSY", f"{member} shakes hands too often")


class RenewalRate:
    """Lets a member ask for some certificates at once, and then for one per :data:`RENEWAL_SECONDS`."""

    def __init__(self, clock: Clock) -> None:
        self._debts = _Debts(clock, RENEWALS * RENEWAL_SECONDS)

    def spend(self, member: str) -> None:
        """Count a request.

        Raises:
            NetworkError: ``E-NET-BUSY``.
        """
        if not self._debts.add(member, RENEWAL_SECONDS):
            raise NetworkError("E-NET-BUSY", f"{member} asks for certificates too often")


class WorkQuota:
    """Lets each member use :data:`WORK_SECONDS` of the processor at once, then :data:`WORK_SHARE` of a core."""

    def __init__(self, clock: Clock) -> None:
        self._debts = _Debts(clock, WORK_SECONDS / WORK_SHARE)

    def spend(self, member: str, seconds: float) -> None:
        """Count processor time.

        Raises:
            NetworkError: ``E-NET-BUSY``.
        """
        if not self._debts.add(member, seconds / WORK_SHARE):
            raise NetworkError("E-NET-BUSY", f"{member} asks for more work than its share of this machine")


class ChunkSizes:
    """Takes one message's chunks: only the last may be small."""

    def __init__(self, member: str) -> None:
        self._member = member
        self._ended = False

    def take(self, length: int) -> None:
        """Count a chunk.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, one came after a small one.
        """
        if self._ended:
            rule = f"only the last chunk has less than {LEAST_CHUNK_BYTES} bytes"
            raise PeerError.by_participant(self._member, "E-WIRE-CHUNK", Phase.WIRE, rule)
        self._ended = length < LEAST_CHUNK_BYTES


async def unstalled(request: AsyncIterator[bytes], member: str) -> AsyncIterator[bytes]:
    """Yield what a member sends; one that sends nothing for long in the middle is cut off."""
    messages = aiter(request)
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                data = await anext(messages, None)
        except TimeoutError:
            rule = f"{member} has sent nothing for {STALL_SECONDS:.0f} s in the middle of a call"
            raise NetworkError("E-NET-BUSY", rule) from None
        if data is None:
            return
        yield data
