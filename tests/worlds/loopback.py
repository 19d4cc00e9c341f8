"""A coordinator's network service on loopback, with a small backend in memory, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coordinator.daemon.service import Credentials, Listeners, serve
from coordinator.enrolment import authority as ca
from coordinator.enrolment.authority import Authority
from participant.link import identity
from participant.link.identity import Identity
from privacy.errors import NetworkError, OnlysumError, PeerError, Phase
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import Position
from protos.envelope import Enrolment, Hello, LedgerHead, Membership, NumberedTask, Role, Submission, Welcome
from protos.invitation import Invitation, token_hash
from protos.renewal import Renewal, RenewalRequest
from tests.worlds.seeded import SeededRandom

FEDERATION = "test-federation"
HOST = "127.0.0.1"
V = TypeVar("V")


@dataclass
class FakeBackend:
    """Keeps everything in memory and refuses what it was told to refuse."""

    authority: Authority
    now: Callable[[], float] = time.time
    invitations: dict[str, Invitation] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    tasks: list[NumberedTask] = field(default_factory=list)
    submissions: list[tuple[str, Submission]] = field(default_factory=list)
    uploads: dict[bytes, bytearray] = field(default_factory=dict)
    content: dict[bytes, bytes] = field(default_factory=dict)
    replaced: set[bytes] = field(default_factory=set)  # certificates (DER) that no longer count
    polling: list[str] = field(default_factory=list)
    sessions: list[bytes] = field(default_factory=list)  # that calls named
    failures: list[Exception] = field(default_factory=list)
    over: list[tuple[str, str]] = field(default_factory=list)  # who was refused for its quota, and why
    refused: list[tuple[str, str]] = field(default_factory=list)  # whose first words were, and why
    refusal: OnlysumError | Exception | None = None
    content_cut: int = 0  # bytes after which the next download fails inside
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    protocol_version: int = PROTOCOL_VERSION

    def _refuse(self) -> None:
        if self.refusal:
            raise self.refusal

    async def enrol(self, request: Enrolment) -> Membership:
        """Check the token as a coordinator does."""
        invitation = self.invitations.get(request.token_id)
        if invitation is None or token_hash(request.token_id, request.token_secret) != token_hash(
            invitation.token_id, invitation.secret
        ):
            raise _token("E-TOKEN-UNKNOWN", request)
        if request.token_id in self.spent:
            raise _token("E-TOKEN-USED", request)
        if self.now() >= invitation.expires_at:
            raise _token("E-TOKEN-EXPIRED", request)
        ca.check_enrolment(request, federation=FEDERATION)
        self.spent.add(request.token_id)
        issued = ca.issue_member(
            self.authority,
            request=request.certificate_request,
            name=request.name,
            random=SeededRandom(request.name),
            now=self.now(),
        )
        return Membership(FEDERATION, request.name, invitation.role, issued, self.authority.ca_certificate)

    async def admit(self, member: str, certificate: bytes, session: bytes) -> None:
        """Refuse a certificate that was put out of use."""
        self.sessions.append(session)
        if certificate in self.replaced:
            raise PeerError("E-MEMBER-REVOKED", participant=member, phase=Phase.HANDSHAKE, rule="enrolled again since")

    async def renew(self, member: str, present: bytes, request: RenewalRequest) -> Renewal:
        """Certify the key, whoever asks."""
        self._refuse()
        issued = ca.issue_member(
            self.authority,
            request=request.certificate_request,
            name=member,
            random=SeededRandom(f"renewal of {member}"),
            now=self.now(),
        )
        return Renewal(issued, self.authority.ca_certificate)

    def failed(self, error: Exception) -> None:
        """Keep it."""
        self.failures.append(error)

    def handshake_refused(self, member: str, error: PeerError) -> None:
        """Take note of it."""
        self.refused.append((member, error.code))

    def over_quota(self, member: str, error: NetworkError) -> None:
        """Keep it."""
        self.over.append((member, error.detail))

    async def handshake(self, member: str, hello: Hello) -> Welcome:
        """Return an empty welcome."""
        self._refuse()
        return Welcome(self.protocol_version, "0.1.0", FEDERATION, LedgerHead(0, b""), (), ())

    async def next_task(self, member: str, seen: frozenset[bytes], wait_seconds: float) -> NumberedTask | None:
        """Wait for a task that the member has not seen."""
        self._refuse()
        self.polling.append(member)
        try:
            async with asyncio.timeout(wait_seconds):
                while True:
                    for task in self.tasks:
                        if task.id not in seen:
                            return task
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return None
        finally:
            self.polling.remove(member)

    def give(self, task: NumberedTask) -> None:
        """Add a task; runs in the service's loop."""
        self.tasks.append(task)
        self.changed.set()

    def submission_limit(self, member: str) -> int:
        """Return what a roster of a few members needs."""
        return 2**18

    async def submit(self, member: str, submission: Submission, data: bytes = b"") -> None:
        """Keep it."""
        self._refuse()
        self.submissions.append((member, submission))

    async def upload_offset(self, member: str, run_id: str, position: Position, sha256: bytes, length: int) -> int:
        """Return what is there."""
        return len(self.uploads.setdefault(sha256, bytearray()))

    async def write_chunk(
        self, member: str, run_id: str, position: Position, sha256: bytes, offset: int, data: bytes
    ) -> int:
        """Append."""
        self._refuse()
        self.uploads[sha256] += data
        return len(self.uploads[sha256])

    async def read_content(self, member: str, sha256: bytes, offset: int) -> AsyncIterator[bytes]:
        """Yield pieces of half a chunk."""
        content = self.content.get(sha256)
        if content is None:
            raise PeerError("E-NOT-FOUND", participant=member, phase=Phase.WIRE, rule="no content of this hash")
        for start in range(offset, len(content), 2**19):
            if self.content_cut and start >= self.content_cut:
                self.content_cut = 0
                raise OSError("the disk went away")
            yield content[start : start + 2**19]


def _token(code: str, request: Enrolment) -> PeerError:
    return PeerError(code, participant=request.name, phase=Phase.ENROLMENT, rule=f"token {request.token_id[:8]}")


@dataclass
class Loopback:
    """A running service and what a test needs to reach it."""

    backend: FakeBackend
    listeners: Listeners
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, V]) -> V:
        """Run something in the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def give(self, task: NumberedTask) -> None:
        """Give all members a task."""
        self.loop.call_soon_threadsafe(self.backend.give, task)

    def invitation(self, name: str, *, until: float | None = None, role: Role = Role.PARTICIPANT) -> Invitation:
        """Invite somebody."""
        made = ca.invite(
            self.backend.authority,
            federation=FEDERATION,
            name=name,
            role=role,
            enrolment_addresses=[self.listeners.enrolment_address],
            addresses=[self.listeners.address],
            random=SeededRandom(f"invitation {name}"),
            until=int(time.time() + 3600 if until is None else until),
        )
        self.backend.invitations[made.token_id] = made
        return made

    def member(self, name: str, *, authority: Authority | None = None, now: float | None = None) -> Identity:
        """Return somebody who enrolled, with a certificate by ``authority`` made at ``now``."""
        invitation = self.invitation(name)
        keys = identity.new_keys(SeededRandom(f"keys {name}"))
        request = identity.enrolment_request(invitation, keys)
        certificate = ca.issue_member(
            authority or self.backend.authority,
            request=request.certificate_request,
            name=name,
            random=SeededRandom(name),
            now=time.time() if now is None else now,
        )
        return Identity(
            keys=keys,
            federation=FEDERATION,
            name=name,
            role=Role.PARTICIPANT,
            addresses=invitation.addresses,
            operator_key=invitation.operator_key,
            certificate=certificate,
            authority=self.backend.authority.ca_certificate,
        )


def new_authority(
    seed: str = "authority", *, hosts: tuple[str, ...] = (HOST, "localhost"), now: float | None = None
) -> Authority:
    """Make an authority whose server certificate serves loopback."""
    return ca.create_authority(
        federation=FEDERATION, hosts=hosts, random=SeededRandom(seed), now=time.time() if now is None else now
    )


@contextmanager
def coordinator(
    authority: Authority, *, served: Authority | None = None, address: str = f"{HOST}:0"
) -> Iterator[Loopback]:
    """Run a service with a fake backend; ``served`` holds the certificate it shows, if another's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    shown = served or authority

    async def start() -> tuple[FakeBackend, Listeners]:
        backend = FakeBackend(authority)
        credentials = Credentials(authority.ca_certificate, shown.server_certificate, shown.server_key)
        return backend, await serve(backend, credentials=credentials, address=address, enrolment_address=f"{HOST}:0")

    backend, listeners = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    running = Loopback(backend, listeners, loop)
    try:
        yield running
    finally:
        running.run(listeners.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
