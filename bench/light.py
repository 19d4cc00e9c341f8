"""Light participants: many to a process, over real gRPC with mutual TLS, each with a connection and polls of its own.

Guarantees: a light participant is the real round machine, says in each phase what a daemon says, and shows its heads
when a daemon does; its update is a unit vector. To the coordinator it is a daemon.
Leaves to others: what a daemon has beside that: disks, policy, ledger, the steps of the adapter. Those of one process
take the outcome of an identical verification from whoever did it first.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

import grpc
import grpc.aio
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray

from bench.coordination import Coordination
from bench.players import Memo
from coordinator.database import member_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.enrolment import authority as ca
from host import credentials
from host.system import SystemRandom
from participant.link.delivery import TaskQueue
from participant.protocol.member import Participant
from participant.protocol.memory import RunMemory, UpdateEncoded
from participant.protocol.round import hear
from participant.protocol.states import Idle, Ready, State
from participant.protocol.transitions import Abort, EncodedUpdate, Told
from participant.training.trainer import OneHotTrainer
from privacy.heads import HeadsShown, JournalHead, LedgerHead, Moment
from privacy.plan import PROTOCOL_VERSION, VerifiedPlan, signed_approval_bytes
from privacy.secagg import keys
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    HolderShares,
    MaskedUpload,
    Position,
    RoundCertificate,
    SurvivorSignature,
    UnmaskShares,
    VoidedRound,
)
from privacy.secret import SecretBytes
from protos import codec, transport
from protos import codec_transport as wire
from protos.codec_fields import COORDINATOR
from protos.envelope import (
    AttemptAborted,
    AttemptOpened,
    Chunk,
    ContentRef,
    ContentRequest,
    DatasetOffer,
    Hello,
    KeysAdvertised,
    MessageWithHeads,
    NumberedTask,
    PlanApproved,
    PlanProposed,
    PollRequest,
    Role,
    RoundCompleted,
    RoundVoided,
    RunEnded,
    SharesDealt,
    Submission,
    SurvivorsProposed,
    Task,
    UnmaskRequested,
    UploadAnnounced,
)

AT_ONCE: Final = 25  # that shake hands, of a process: daemons do not start in one moment, and these do not try again
OFFERS: Final = (DatasetOffer("digits", 100),)
NOTHING: Final = np.zeros(0, dtype=np.float32)
MOMENTS: Final = {Advertisement: Moment.ADVERTISE, SurvivorSignature: Moment.SIGN, UnmaskShares: Moment.RELEASE}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a light participant is enrolled with; it goes to another process, and belongs to a benchmark alone."""

    name: str
    identity: bytes
    tls_key: bytes
    certificate: bytes
    authority: bytes
    address: str
    operator: bytes


def enrol(coordination: Coordination, names: Sequence[str]) -> list[Credentials]:
    """Enrol members straight into the coordinator's database."""
    return [_enrol(coordination, name) for name in names]


def _enrol(coordination: Coordination, name: str) -> Credentials:
    random, authority, now = SystemRandom(), coordination.authority, coordination.now()
    key, identity = credentials.new_tls_key(random), random.token_bytes(32)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    certificate = ca.issue_member(
        authority, request=request.public_bytes(Encoding.DER), name=name, random=random, now=now
    )
    record = MemberRecord(
        name=name,
        role=Role.PARTICIPANT,
        identity_key=SigningKey(SecretBytes(identity)).public,
        certificate=certificate,
        labels="",
        software_version="",
        enrolled_at=now,
        revoked_at=None,
    )
    with coordination.store.begin() as connection:
        member_rows.enrol_member(connection, record, token_id="", request_hash=b"")
    return Credentials(
        name=name,
        identity=identity,
        tls_key=credentials.tls_key_pem(key).reveal(),
        certificate=certificate,
        authority=authority.ca_certificate,
        address=coordination.address,
        operator=authority.operator.public,
    )


class Connection:
    """One member's connection, for the event loop."""

    def __init__(self, member: Credentials) -> None:
        creds = grpc.ssl_channel_credentials(member.authority, member.tls_key, member.certificate)
        options = (*transport.CLIENT_OPTIONS, ("grpc.enable_http_proxy", 0))
        self.channel = grpc.aio.secure_channel(member.address, creds, options=options)
        self._metadata = ((transport.SESSION_KEY, SystemRandom().token_bytes(transport.SESSION_BYTES)),)

    def _path(self, name: str) -> str:
        return transport.path(transport.FEDERATION.methods_by_name[name])

    async def handshake(self, hello: Hello) -> None:
        """Say the first words."""
        call = self.channel.unary_unary(self._path("Handshake"), bytes, bytes)
        codec.decode_welcome(await call(codec.encode_hello(hello), metadata=self._metadata))

    async def poll(self, seen: frozenset[bytes], wait: float) -> AsyncIterator[NumberedTask]:
        """Yield the tasks of one poll."""
        call, data = self.channel.unary_stream(self._path("Poll"), bytes, bytes), b""
        async for answer in call(wire.encode_poll(PollRequest(seen, wait)), metadata=self._metadata):
            part = wire.decode_task_part(answer)
            data += part.chunk.data
            if part.last:
                yield codec.decode_task(data)
                data = b""

    async def submit(self, message: Submission) -> None:
        """Send a message."""
        first, *rest = [wire.encode_chunk(chunk) for chunk in transport.pieces(codec.encode_submission(message))]
        if rest:
            long = self.channel.stream_unary(self._path("SubmitLong"), bytes, bytes)
            wire.decode_accepted(await long(iter((first, *rest)), metadata=self._metadata))
        else:
            call = self.channel.unary_unary(self._path("Submit"), bytes, bytes)
            wire.decode_accepted(await call(first, metadata=self._metadata))

    async def upload(self, upload: UploadAnnounced, masked: memoryview) -> None:
        """Send a masked update from its beginning."""

        def parts() -> Any:
            yield wire.encode_upload_part(upload)
            for at in range(0, upload.length, transport.SEND_CHUNK_BYTES):
                chunk = Chunk(at, bytes(masked[at : at + transport.SEND_CHUNK_BYTES]))
                yield wire.encode_upload_part(chunk)

        call = self.channel.stream_unary(self._path("Upload"), bytes, bytes)
        assert wire.decode_offset(await call(parts(), metadata=self._metadata)) == upload.length

    async def download(self, ref: ContentRef) -> None:
        """Fetch content, and compare its hash."""
        request = wire.encode_content_request(ContentRequest(ref.sha256, 0))
        digest = hashlib.sha256()
        async for chunk in self._chunks("Download", request):
            digest.update(chunk.data)
        assert digest.digest() == ref.sha256

    async def _chunks(self, name: str, request: bytes) -> AsyncIterator[Chunk]:
        call = self.channel.unary_stream(self._path(name), bytes, bytes)
        async for data in call(request, metadata=self._metadata):
            yield wire.decode_chunk(data, sender=COORDINATOR)


@dataclass
class LightParticipant:
    """One participant: a polling task and a working one, as a daemon's two threads."""

    member: Credentials
    door: asyncio.Semaphore  # through which those of a process connect
    ended: str = ""

    def __post_init__(self) -> None:
        self.inbox, self.charged = TaskQueue(), 1  # records of a ledger: its beginning
        self.name, self.signing = self.member.name, SigningKey(SecretBytes(self.member.identity))
        self.tasks: asyncio.Queue[Task] = asyncio.Queue()

    async def run(self) -> None:
        """Take part until a run has ended."""
        self.link = Connection(self.member)
        hello = Hello(PROTOCOL_VERSION, "bench", self.name, Role.PARTICIPANT, self._ledger(), OFFERS)
        async with self.door:
            await self.link.handshake(hello)
        polling = asyncio.create_task(self._poll())
        while not self.ended:
            await self._take(await self.tasks.get())
        polling.cancel()
        await self.link.channel.close(None)

    async def _poll(self) -> None:
        while True:
            async for numbered in self.link.poll(self.inbox.seen(), transport.MAX_POLL_SECONDS):
                self.inbox.put(numbered)
                self.inbox.get(0)
                self.tasks.put_nowait(numbered.task)

    async def _take(self, task: Task) -> None:
        match task:
            case PlanProposed():
                await self._approve(task)
            case AttemptOpened():
                await self._opened(task)
            case KeysAdvertised():
                await self._tell(AdvertisementSet(task.advertisements))
            case SharesDealt():
                await self._tell(HolderShares(task.shares, task.u2))
            case SurvivorsProposed():
                await self._tell(task.proposal)
            case UnmaskRequested():
                await self._tell(task.request)
            case RoundCompleted() | RoundVoided():
                self._close(task.certificate if isinstance(task, RoundCompleted) else task.voided)
            case AttemptAborted():
                await self._tell(Abort(task.position))
            case RunEnded():
                self.ended = task.state

    async def _approve(self, task: PlanProposed) -> None:
        plan = VerifiedPlan.verify(task.plan, task.signature, self.member.operator)
        self.run_id, self.plan = task.run_id, plan
        self.state: State = Idle(Participant(plan, self.name, self.signing))
        self.memory, self.shown = RunMemory.empty(plan.hash), 0
        await self.link.download(task.initial_adapter)
        signature = self.signing.sign(signed_approval_bytes(plan.hash, self.name))
        await self.link.submit(PlanApproved(task.run_id, plan.hash, signature))

    async def _opened(self, task: AttemptOpened) -> None:
        closed: list[RoundCertificate | VoidedRound] = [*task.history, *task.voided]
        for one in sorted(closed, key=lambda one: one.position.round):
            self._close(one)
        for content in (*task.sums, *([task.adapter] if task.adapter else [])):
            await self.link.download(content)
        await self._tell(task.offer)

    def _close(self, closed: RoundCertificate | VoidedRound) -> None:
        if closed.position.round == self.memory.completed + 1:
            self._hear(closed)

    def _hear(self, told: Told) -> Any:
        step = hear(self.state, told, self.memory, SystemRandom())
        if step.record is not None:
            self.memory = self.memory.apply(step.record)
        self.state = step.state
        return step.message

    async def _tell(self, told: Told) -> None:
        message = self._hear(told)
        if isinstance(self.state, Ready):
            message = await self._mask(self.state)
        match message:
            case None:
                return
            case MaskedUpload(receipt, masked):
                at, about = receipt.position, receipt.masked_hash
                await self.link.upload(UploadAnnounced(self.run_id, at, about, receipt.length), memoryview(masked))
                await self.link.submit(MessageWithHeads(self._heads(Moment.UPLOAD, at, about), receipt))
            case Advertisement() | SurvivorSignature() | UnmaskShares():
                about = hashlib.sha256(message.body).digest() if isinstance(message, Advertisement) else b""
                shown = self._heads(MOMENTS[type(message)], message.position, about)
                await self.link.submit(MessageWithHeads(shown, message))
            case _:
                await self.link.submit(message)

    async def _mask(self, ready: Ready) -> Any:
        offer = ready.offer
        self.charged += 1
        await self.link.submit(self._heads(Moment.TRAIN, offer.position))
        update: NDArray[np.int64] = OneHotTrainer(self.plan.plan, self.name).train(1, NOTHING, lambda *_: None)
        durable = UpdateEncoded(offer.position.round, bytes(32), offer.adapter_hash, offer.previous_transcript)
        self.memory = self.memory.apply(durable)
        return self._hear(EncodedUpdate(ready.participant.encode(offer.position.round, update)))

    def _heads(self, moment: Moment, at: Position, about: bytes = b"") -> HeadsShown:
        self.shown += 1
        journal = JournalHead(self.shown, hashlib.sha256(str(self.shown).encode()).digest())
        unsigned = HeadsShown(at, self.name, moment, journal, self._ledger(), about)
        return replace(unsigned, signature=self.signing.sign(unsigned.signed_bytes(self.plan.plan.protocol_version)))

    def _ledger(self) -> LedgerHead:
        return LedgerHead(self.charged, hashlib.sha256(str(self.charged).encode()).digest(), bytes(64))


def take_part(members: Sequence[Credentials]) -> None:
    """Let light participants take part until a run has ended: the body of a process."""

    async def everybody() -> None:
        door = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(LightParticipant(member, door).run() for member in members))

    with patch.object(keys, "verify", Memo()):
        asyncio.run(everybody())
