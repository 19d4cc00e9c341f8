"""The network service: gRPC calls in, :class:`coordinator.daemon.backend.Backend` calls out.

Guarantees: the backend sees only values that the strict codec made, with the caller's name as its certificate has it,
compared with every message that names a sender; chunks that it sees have their hash and follow each other. Whoever
breaks a rule is refused with a typed error, and the service goes on.
Leaves to others: who is enrolled, what is allowed now, durability (the backend), keys and certificates (``authority``).
Source: docs/wire.md.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from coordinator.daemon.backend import Backend
from coordinator.daemon.encoding import EncodedOnce, timed
from coordinator.daemon.quotas import BUSY_SECONDS, CALL_SECONDS, CallQuota, ChunkSizes, WorkQuota, unstalled
from host.logs import get_logger
from host.system import SystemClock
from privacy.errors import LocalError, NetworkError, OnlysumError, PeerError, Phase
from privacy.plan import MAX_ROSTER
from privacy.secret import SecretBytes
from protos import codec, codec_renewal, transport
from protos import codec_transport as wire
from protos.codec_fields import Malformed, name
from protos.envelope import (
    Abstained,
    Chunk,
    Evaluation,
    MemberLeft,
    MessageWithHeads,
    PlanApproved,
    PlanRefused,
    RoundKnown,
    Submission,
    UploadAnnounced,
)
from protos.status import to_refusal

# Beyond a thousand waiting calls gRPC cancels some by chance. A member has a few at a time, and all of the largest
# roster may come while the event loop is busy.
MOST_WAITING: Final = 4 * MAX_ROSTER
MEMBER_OPTIONS: Final = (
    *transport.SERVER_OPTIONS,
    ("grpc.server.max_pending_requests", MOST_WAITING),
    ("grpc.server.max_pending_requests_hard_limit", 2 * MOST_WAITING),
)
NEWCOMER: Final = "newcomer"  # who is to blame on the enrolment listener, where nobody has a certificate yet
# The newcomers' listener is open to whoever can reach it: nobody keeps a connection there for long.
NEWCOMER_OPTIONS: Final = (
    *transport.SERVER_OPTIONS,
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 10_000),
)
STOP_SECONDS: Final = 1.0  # that calls in flight are given when the service stops
DECODED_AT_ONCE: Final = 2**14  # bytes of a message that the event loop itself may decode: 30 ms of datasets
KEPT_CERTIFICATES: Final = 2**14  # of members: they are compared at each call

Context = grpc.aio.ServicerContext[Any, Any]
Request = Any  # bytes of a unary call, an iterator over bytes of a streamed one
Method = Callable[[Request, Context], Awaitable[bytes | None]]
V = TypeVar("V")
MemberMethod = Callable[[str, Request, Context], Awaitable[bytes | None]]

_log = get_logger("onlysum.service")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the listeners prove themselves with, and whose members they admit; all PEM."""

    authority: bytes  # of one or two authorities
    certificate: bytes  # with those between it and an authority, if there are any
    key: SecretBytes

    @property
    def shown(self) -> tuple[bytes, bytes]:
        """What tells them from others; a new key has a new certificate."""
        return self.authority, self.certificate


@dataclass(frozen=True, slots=True)
class Listeners:
    """The two running listeners and the addresses to which they were bound."""

    address: str
    enrolment_address: str
    _servers: tuple[grpc.aio.Server, ...]
    _health: Any

    async def stop(self) -> None:
        """Say that nothing is served any more, and end: calls in flight are cancelled after a moment."""
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(*(server.stop(STOP_SECONDS) for server in self._servers))


async def serve(
    backend: Backend,
    *,
    credentials: Credentials,
    address: str,
    enrolment_address: str,
    former: Sequence[str] = (),
    renewed: Callable[[], Credentials] | None = None,
) -> Listeners:
    """Start both listeners.

    Args:
        backend: takes the calls.
        credentials: of the coordinator.
        address: host and port for members (mutual TLS); port 0 takes a free one.
        enrolment_address: host and port for newcomers (TLS).
        former: more addresses for members.
        renewed: gives the credentials for each new connection, from a thread of gRPC's; those it began with otherwise.

    Raises:
        LocalError: ``E-PORT``, an address cannot be bound.
    """
    members = grpc.aio.server(options=MEMBER_OPTIONS)
    newcomers = grpc.aio.server(options=NEWCOMER_OPTIONS)
    healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack its asyncio half
    health_pb2_grpc.add_HealthServicer_to_server(healthy, members)
    members.add_generic_rpc_handlers(
        (_handlers(transport.FEDERATION, FederationService(backend).methods, backend.failed),)
    )
    newcomers.add_generic_rpc_handlers(
        (_handlers(transport.ENROLMENT, EnrolmentService(backend).methods, backend.failed),)
    )
    current = renewed or (lambda: credentials)
    bound = _bind(members, address, _renewing(credentials, current, mutual=True))
    for other in former:
        _bind(members, other, _renewing(credentials, current, mutual=True))
    enrolment_bound = _bind(newcomers, enrolment_address, _renewing(credentials, current, mutual=False))
    await members.start()
    await newcomers.start()
    for service in ("", transport.FEDERATION.full_name):
        await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
    return Listeners(bound, enrolment_bound, (members, newcomers), healthy)


def _renewing(first: Credentials, current: Callable[[], Credentials], *, mutual: bool) -> grpc.ServerCredentials:
    """Return credentials of a listener that are looked at again for each connection, with or without the peer's."""
    known = first.shown

    def configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
        pair = [(credentials.key.reveal(), credentials.certificate)]
        return grpc.ssl_server_certificate_configuration(pair, credentials.authority if mutual else None)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        credentials = current()
        if credentials.shown == known:
            return None
        known = credentials.shown
        return configuration(credentials)

    return grpc.dynamic_ssl_server_credentials(
        configuration(first),
        changed,  # type: ignore[arg-type]  # the stubs lack None: no change
        require_client_authentication=mutual,
    )


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> str:
    host = address.rpartition(":")[0]
    try:
        return f"{host}:{server.add_secure_port(address, credentials)}"
    except RuntimeError as error:
        raise LocalError("E-PORT", address) from error


def _handlers(
    service: ServiceDescriptor, methods: Mapping[str, Method], failed: Callable[[Exception], None]
) -> grpc.GenericRpcHandler[Any, Any]:
    """Return handlers for every call of a service, as its descriptor has them; requests stay bytes for the codec."""
    found = {method.name: _handler(method, methods[method.name], failed) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, found)


def _handler(
    method: MethodDescriptor, behaviour: Method, failed: Callable[[Exception], None]
) -> grpc.RpcMethodHandler[Any, Any]:
    guarded = _guarded(method.name, behaviour, failed)
    match (method.client_streaming, method.server_streaming):
        case (False, False):
            return grpc.unary_unary_rpc_method_handler(guarded)
        case (False, True):
            return grpc.unary_stream_rpc_method_handler(guarded)
        case _:
            return grpc.stream_unary_rpc_method_handler(guarded)


def _guarded(call: str, behaviour: Method, failed: Callable[[Exception], None]) -> Method:
    """Answer typed errors as typed refusals; anything else is this side's bug, and only its log has it."""

    async def guarded(request: Request, context: Context) -> bytes | None:
        try:
            return await behaviour(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except LocalError as error:
            failed(error)
            _log.error("call failed", call=call, code=error.code, trace=traceback.format_exc())
            raised: OnlysumError = error
        except OnlysumError as error:
            _log.info("call refused", call=call, code=error.code, detail=error.detail, peer=context.peer())
            raised = error
        except Exception as error:  # noqa: BLE001  # logged whole; the caller learns only that something failed
            failed(error)
            _log.error("call failed", call=call, trace=traceback.format_exc())  # text: no renderer adds locals to it
            raised = LocalError("E-BUG", f"{call} failed")
        refusal = to_refusal(raised)
        return await context.abort(refusal.status, refusal.details, refusal.metadata)

    return guarded


def member_of(verified: Mapping[str, Iterable[bytes]]) -> str:
    """Return the one name in a caller's verified certificate, as the call's ``auth_context`` has it.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``, the certificate has no such name, or several.
    """
    names = [*verified.get("x509_subject_alternative_name", ())]
    try:
        if len(names) == 1:
            return name(names[0].decode("ascii", "replace"), "the certificate's name")
    except Malformed:
        pass
    raise _mismatch("certificate-holder", "a member's certificate has its name as the one alternative name")


def session_of(metadata: Iterable[tuple[str, str | bytes]], member: str) -> bytes:
    """Return the session that a call's metadata names; empty if it names none.

    Raises:
        PeerError: ``E-WIRE-MALFORMED``, it names several, or one of another length.
    """
    sessions = [value for key, value in metadata if key == transport.SESSION_KEY]
    match sessions:
        case []:
            return b""
        case [bytes(session)] if len(session) == transport.SESSION_BYTES:
            return session
        case _:
            rule = f"a call names one session of {transport.SESSION_BYTES} bytes"
            raise PeerError.by_participant(member, "E-WIRE-MALFORMED", Phase.WIRE, rule)


def _mismatch(who: str, rule: str) -> PeerError:
    return PeerError.by_participant(who, "E-IDENTITY-MISMATCH", Phase.WIRE, rule)


def _check_sender(member: str, claimed: str) -> None:
    if claimed != member:
        raise _mismatch(member, f"the message says that it is from {claimed}")


def _check_submission(member: str, submission: Submission) -> None:
    """Compare the sender that a submission names, if it names one: the others are bound to the caller alone."""
    match submission:
        case PlanApproved() | PlanRefused() | Abstained() | Evaluation() | RoundKnown() | MemberLeft():
            return
        case MessageWithHeads():
            _check_sender(member, submission.heads.sender)
            _check_sender(member, submission.sender)
        case _:
            _check_sender(member, submission.sender)


def _unexpected(member: str, rule: str) -> PeerError:
    return PeerError.by_participant(member, "E-WIRE-CHUNK", Phase.WIRE, rule)


class EnrolmentService:
    """The one call of a newcomer."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.methods: Final[Mapping[str, Method]] = {"Enrol": self._enrol}

    async def _enrol(self, request: Request, context: Context) -> bytes:
        return codec.encode_membership(await self._backend.enrol(codec.decode_enrolment(request, sender=NEWCOMER)))


class FederationService:
    """The calls of members."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._quota = CallQuota()
        self._clock = SystemClock()
        self._work = WorkQuota(self._clock)
        self._encoded = EncodedOnce()
        self.methods: Final[Mapping[str, Method]] = {
            "Handshake": self._limited("Handshake", self._handshake),
            "Poll": self._limited("Poll", self._poll),
            "Submit": self._limited("Submit", self._submit),
            "SubmitLong": self._limited("SubmitLong", self._submit_long),
            "UploadOffset": self._limited("UploadOffset", self._upload_offset),
            "Upload": self._limited("Upload", self._upload),
            "Download": self._limited("Download", self._download),
            "Renew": self._limited("Renew", self._renew),
        }

    def _limited(self, call: str, behaviour: MemberMethod) -> Method:
        """Return a call that is admitted, and counted among its member's calls of this kind."""

        async def limited(request: Request, context: Context) -> bytes | None:
            member = await self._admitted(context)
            try:
                self._work.spend(member, CALL_SECONDS)
                with self._quota.call(member, call):
                    return await behaviour(member, request, context)
            except NetworkError as error:
                if error.code == "E-NET-BUSY":
                    self._backend.over_quota(member, error)
                    await asyncio.sleep(BUSY_SECONDS)
                raise

        return limited

    async def _admitted(self, context: Context) -> str:
        """Return the caller's name if its certificate counts."""
        verified = context.auth_context()
        member = member_of(verified)
        session = session_of(context.invocation_metadata() or (), member)
        await self._backend.admit(member, _presented(context), session)
        return member

    async def _renew(self, member: str, request: Request, context: Context) -> bytes:
        asked = codec_renewal.decode_renewal_request(request, sender=member)
        return codec_renewal.encode_renewal(await self._backend.renew(member, _presented(context), asked))

    async def _decoded(self, decode: Callable[..., V], data: bytes, member: str) -> V:
        """Decode a message at its sender's cost; a large one in a thread, since meanwhile others want to be heard."""
        if len(data) <= DECODED_AT_ONCE:
            return decode(data, sender=member)
        value, seconds = await asyncio.to_thread(timed, decode, data, sender=member)
        self._work.spend(member, seconds)
        return value

    async def _handshake(self, member: str, request: Request, context: Context) -> bytes:
        try:
            hello = await self._decoded(codec.decode_hello, request, member)
            _check_sender(member, hello.member)
        except PeerError as error:  # of another version, above all
            self._backend.handshake_refused(member, error)
            raise
        return codec.encode_welcome(await self._backend.handshake(member, hello))

    async def _poll(self, member: str, request: Request, context: Context) -> None:
        poll = wire.decode_poll(request, sender=member)
        wait, seen = min(poll.wait_seconds, transport.MAX_POLL_SECONDS), poll.seen
        ends = self._clock.monotonic() + wait
        while (task := await self._backend.next_task(member, seen, wait)) is not None:
            parts, seconds = await self._encoded.task(task)
            self._work.spend(member, CALL_SECONDS + seconds)
            for data in parts:
                await context.write(data)
            wait, seen = ends - self._clock.monotonic(), seen | {task.id}
            if wait <= 0:
                return

    def _most(self, member: str) -> int:
        """Return how many bytes a submission of a member may have."""
        return min(codec.MAX_SUBMISSION_BYTES, self._backend.submission_limit(member))

    async def _submit(self, member: str, request: Request, context: Context) -> bytes:
        message = transport.Assembly(sender=member, most=self._most(member))
        message.add(await self._decoded(wire.decode_chunk, request, member))
        return await self._take(member, message.whole())

    async def _submit_long(self, member: str, request: Request, context: Context) -> bytes:
        most = self._most(member)
        message, sizes = transport.Assembly(sender=member, most=most), ChunkSizes(member)
        with self._quota.buffer(member, most) as buffered:
            async for data in unstalled(request, member):
                buffered.add(len(data))
                chunk = await self._decoded(wire.decode_chunk, data, member)
                sizes.take(len(chunk.data))
                message.add(chunk)
            return await self._take(member, message.whole())

    async def _take(self, member: str, whole: bytes) -> bytes:
        submission = await self._decoded(codec.decode_submission, whole, member)
        _check_submission(member, submission)
        await self._backend.submit(member, submission, whole)
        return wire.encode_accepted()

    async def _upload_offset(self, member: str, request: Request, context: Context) -> bytes:
        return wire.encode_offset(await self._announce(member, wire.decode_announcement(request, sender=member)))

    async def _announce(self, member: str, upload: UploadAnnounced) -> int:
        return await self._backend.upload_offset(member, upload.run_id, upload.position, upload.sha256, upload.length)

    async def _upload(self, member: str, request: Request, context: Context) -> bytes:
        parts, sizes = self._upload_parts(request, member), ChunkSizes(member)
        upload = await anext(parts, None)
        if not isinstance(upload, UploadAnnounced):
            raise _unexpected(member, "an upload begins with its announcement")
        offset = await self._announce(member, upload)
        async for chunk in parts:
            if not isinstance(chunk, Chunk):
                raise _unexpected(member, "an upload is announced once")
            if chunk.offset != offset or offset + len(chunk.data) > upload.length:
                rule = f"{len(chunk.data)} bytes at offset {chunk.offset} came where offset {offset} was due"
                raise _unexpected(member, f"{rule}, of {upload.length} in all; resume from offset {offset}")
            sizes.take(len(chunk.data))
            offset = await self._backend.write_chunk(
                member, upload.run_id, upload.position, upload.sha256, offset, chunk.data
            )
        return wire.encode_offset(offset)

    async def _upload_parts(self, request: AsyncIterator[bytes], member: str) -> AsyncIterator[UploadAnnounced | Chunk]:
        async for data in unstalled(request, member):
            yield await self._decoded(wire.decode_upload_part, data, member)

    async def _download(self, member: str, request: Request, context: Context) -> None:
        wanted = wire.decode_content_request(request, sender=member)
        offset = wanted.offset
        content = self._backend.read_content(member, wanted.sha256, offset)
        try:
            async for data in content:
                self._work.spend(member, CALL_SECONDS)
                await context.write(self._encoded.chunk(wanted.sha256, Chunk(offset, data)))
                offset += len(data)
        finally:
            if isinstance(content, AsyncGenerator):  # a cut download lets go of its file now, not at collection
                await content.aclose()


def _presented(context: Context) -> bytes:
    """Return the certificate (DER) with which a caller proved who it is."""
    return _der(next(iter(context.auth_context()["x509_pem_cert"])))


@lru_cache(maxsize=KEPT_CERTIFICATES)
def _der(certificate: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.decode())
