"""What the network service asks of the rest of the coordinator.

Guarantees: every call carries the member's name as its verified client certificate has it; the backend never sees
protobuf or gRPC. A failed call raises an ``OnlysumError`` and has changed nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from privacy.errors import NetworkError, PeerError
from privacy.secagg.messages import Position
from protos.envelope import Enrolment, Hello, Membership, NumberedTask, Submission, Welcome
from protos.renewal import Renewal, RenewalRequest


class Backend(Protocol):
    """Implemented by ``coordinator.daemon.runner``; used by ``coordinator.daemon.service``."""

    async def enrol(self, request: Enrolment) -> Membership:
        """Spend a token and issue a certificate."""
        ...

    async def admit(self, member: str, certificate: bytes, session: bytes) -> None:
        """Refuse a member that is unknown or revoked, or whose certificate (DER) is not the one that it now holds.

        Asked before each of a member's calls: whoever enrols again under its name puts the old certificate out of use.
        So is a member of whose daemon two run, each with a session of its own (empty: a command that only asks).
        """
        ...

    async def renew(self, member: str, present: bytes, request: RenewalRequest) -> Renewal:
        """Return a certificate for a member's new TLS key; ``present`` is the one (DER) with which it asks."""
        ...

    def failed(self, error: Exception) -> None:
        """Take note of an error of the coordinator itself that ended a call."""
        ...

    def handshake_refused(self, member: str, error: PeerError) -> None:
        """Take note of a member whose first words could not be read, or name another."""
        ...

    def over_quota(self, member: str, error: NetworkError) -> None:
        """Take note of a member that was refused because it asked for more than its quota: the operator hears of it."""
        ...

    async def handshake(self, member: str, hello: Hello) -> Welcome:
        """Match versions, note what the member announces, tell it what was last seen of it."""
        ...

    async def next_task(self, member: str, seen: frozenset[bytes], wait_seconds: float) -> NumberedTask | None:
        """Return the oldest current task of the member that it has not seen; wait for one up to the given time.

        A call in flight is the member's heartbeat; ``coordinator.daemon.service`` cancels it when the connection
        breaks.
        """
        ...

    def submission_limit(self, member: str) -> int:
        """Return how many bytes a submission of this member may have, from the rosters of its runs."""
        ...

    async def submit(self, member: str, submission: Submission, data: bytes = b"") -> None:
        """Take a message; it is durable when this returns. Repeating the same message is not an error.

        Args:
            member: the caller.
            submission: the message.
            data: its one form, as it came; made anew where it is not given.
        """
        ...

    async def upload_offset(self, member: str, run_id: str, position: Position, sha256: bytes, length: int) -> int:
        """Announce an upload and return from which byte it is to go on (0 at first)."""
        ...

    async def write_chunk(
        self, member: str, run_id: str, position: Position, sha256: bytes, offset: int, data: bytes
    ) -> int:
        """Append a chunk whose own hash the service has checked, and return the next offset."""
        ...

    def read_content(self, member: str, sha256: bytes, offset: int) -> AsyncIterator[bytes]:
        """Yield the rest of some content that this member may read, in chunks of at most 1 MiB."""
        ...
