"""The connection to the coordinator: synchronous calls, typed errors, chunks that resume.

Guarantees: every failure is an ``OnlysumError``: what the coordinator refused as it was raised there, what the network
did as a ``NetworkError`` that names its class. Nothing is tried again unless the caller asks, and then a bounded number
of times; only short calls are made at each of several addresses before they fail. Content is given back only if it has
the hash that was asked for.
Leaves to others: when to call (``runner``), what is true of the answers (``round``), why TLS failed
(``tls_diagnosis``) or a proxy did not open the way (``proxy``).
Source: docs/wire.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self, TypeVar

import grpc
import stamina
from google.protobuf.descriptor import MethodDescriptor

from host import durable
from host.system import SystemClock
from participant.link.identity import Identity, authority_pem
from participant.link.proxy import explain_proxy
from participant.link.tls_diagnosis import Expected, explain_tls
from privacy.errors import LocalError, NetworkError, PeerError, Phase
from privacy.secagg.fixed_point import Buffer
from protos import codec, codec_renewal, transport
from protos import codec_transport as wire
from protos.codec_fields import COORDINATOR
from protos.codec_task import MAX_PLAN_BYTES
from protos.envelope import (
    Chunk,
    ContentRef,
    ContentRequest,
    Enrolment,
    Hello,
    Membership,
    NumberedTask,
    PollRequest,
    Submission,
    UploadAnnounced,
    Welcome,
)
from protos.invitation import Invitation
from protos.renewal import Renewal, RenewalRequest
from protos.status import from_call, leader_address

# A call that is not content, from dialling to the last byte: the largest task on the slowest usable link. Dead links
# are noticed by keepalive long before, and content has no deadline at all.
CALL_SECONDS: Final = float(transport.CALL_SECONDS)
FIRST_WAIT_SECONDS: Final = 0.25
LONGEST_WAIT_SECONDS: Final = 10.0
JITTER_SECONDS: Final = 0.5

# Classes of failures whose cause is looked for once more, on the way to the coordinator or in its certificate.
_CONNECTING: Final = frozenset({"E-NET-DNS", "E-NET-REFUSED", "E-NET-TLS", "E-NET-TIMEOUT", "E-NET-LOST"})

_AT_THE_NEXT: Final = frozenset({"E-NET-ELSEWHERE", "E-NET-DNS", "E-NET-REFUSED", "E-NET-TIMEOUT", "E-NET-LOST"})

Progress = Callable[[int, int], None]  # bytes done, bytes in all
V = TypeVar("V")


def _silent(_done: int, _whole: int) -> None:
    """Show nothing."""


def retrying(call: Callable[[], V], *, attempts: int) -> V:
    """Make a call up to ``attempts`` times, waiting longer each time, with jitter, while the network is at fault.

    Raises:
        OnlysumError: the last attempt's; at once if the network was not at fault, or TLS was, which no waiting mends.
    """
    for attempt in stamina.retry_context(
        on=_may_pass,
        attempts=attempts,
        timeout=None,
        wait_initial=FIRST_WAIT_SECONDS,
        wait_max=LONGEST_WAIT_SECONDS,
        wait_jitter=JITTER_SECONDS,
    ):
        with attempt:
            return call()
    raise LocalError("E-BUG", "the last attempt neither returned nor raised")


def _may_pass(error: Exception) -> bool:
    return isinstance(error, NetworkError) and error.code != "E-NET-TLS"


class _Connection:
    """One gRPC channel at a time; after it failed, the next address is dialled.

    A coordinator that says who leads this member's runs is believed if it names one of the addresses that the member
    has from its invitation or, signed, from the operator: no other is ever dialled.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        credentials: grpc.ChannelCredentials,
        expected: Expected,
        session: bytes = b"",
    ) -> None:
        # The environment's proxy is never used: connecting anywhere but where it is told would be hard to diagnose.
        proxy = expected.proxy
        through: tuple[str, str | int] = ("grpc.http_proxy", proxy) if proxy else ("grpc.enable_http_proxy", 0)
        self._expected = expected
        self._metadata = ((transport.SESSION_KEY, session),) if session else ()
        self._addresses = addresses
        self._credentials = credentials
        self._options = (*transport.CLIENT_OPTIONS, through)
        self._lock = threading.Lock()
        self._dialled = 0
        self._channel: grpc.Channel | None = None
        self._retired: list[grpc.Channel] = []  # calls that were under way when the credentials changed end on these
        self._closed = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the coordinator is dialled, as of now."""
        return self._addresses

    def change(
        self, addresses: tuple[str, ...], credentials: grpc.ChannelCredentials, authority: bytes, certificate: bytes
    ) -> None:
        """Make further calls over a new connection, with other addresses and credentials."""
        with self._lock:
            self._addresses, self._credentials, self._dialled = addresses, credentials, 0
            self._expected = Expected(authority=authority, certificate=certificate, proxy=self._expected.proxy)
            ended, self._retired = self._retired, [self._channel] if self._channel is not None else []
            self._channel = None
        for channel in ended:
            channel.close()

    def call(self, method: MethodDescriptor, request: bytes | Iterator[bytes], *, seconds: float | None) -> bytes:
        """Make a call with one answer."""
        with self._open(method) as channel:
            answer: bytes
            path, metadata = transport.path(method), self._metadata
            if isinstance(request, bytes):
                answer = channel.unary_unary(path, bytes, bytes)(request, timeout=seconds, metadata=metadata)
            else:
                answer = channel.stream_unary(path, bytes, bytes)(request, timeout=seconds, metadata=metadata)
            return answer

    def stream(
        self, method: MethodDescriptor, request: bytes, *, seconds: float | None
    ) -> Generator[bytes, None, None]:
        """Make a call with many answers; leaving the iterator early cancels it."""
        with self._open(method) as channel:
            call = channel.unary_stream(transport.path(method), bytes, bytes)
            answers = call(request, timeout=seconds, metadata=self._metadata)
            try:
                yield from answers
            finally:
                answers.cancel()  # type: ignore[no-untyped-call]  # the stubs lack it

    def close(self) -> None:
        """Drop the connection for good; calls in flight end with ``E-NET-LOST``."""
        with self._lock:
            self._closed = True
            open_channels = [*self._retired, *([self._channel] if self._channel is not None else [])]
            self._channel, self._retired = None, []
        for channel in open_channels:
            channel.close()

    @contextlib.contextmanager
    def _open(self, method: MethodDescriptor) -> Iterator[grpc.Channel]:
        """Give out the channel, and turn what a call on it raises into typed errors."""
        channel, address = self._current()
        try:
            yield channel
        except grpc.RpcError as error:
            raised = from_call(error, call=method.name)
        except ValueError as error:
            if "closed channel" not in str(error):  # gRPC's word for a channel that another thread closed meanwhile
                raise
            raised = NetworkError("E-NET-LOST", f"{method.name}: the connection was closed on this side")
        else:
            return
        if isinstance(raised, NetworkError) and not self._may_go_on(raised.code):
            self._give_up(channel, towards=leader_address(raised))
        raise (self._explanation(raised.code, address) or raised) from None

    def _may_go_on(self, code: str) -> bool:
        """Return whether a connection is kept after a failure: a slow one is, unless another coordinator may answer."""
        return code == "E-NET-FAILED" or (code == "E-NET-TIMEOUT" and len(self._addresses) == 1)

    def _explanation(self, code: str, address: str) -> NetworkError | None:
        """Return what is behind a failure of the network that gRPC names by its class alone, if that can be seen."""
        if self._closed or code not in _CONNECTING:
            return None
        explained = explain_tls(address, self._expected) if code == "E-NET-TLS" else None
        if explained is None and self._expected.proxy:
            explained = explain_proxy(address, self._expected.proxy)
        return explained

    def _current(self) -> tuple[grpc.Channel, str]:
        with self._lock:
            if self._closed:
                raise NetworkError("E-NET-LOST", "the connection was closed on this side")
            address = self._addresses[self._dialled % len(self._addresses)]
            if self._channel is None:
                self._channel = grpc.secure_channel(address, self._credentials, options=self._options)
            return self._channel, address

    def _give_up(self, channel: grpc.Channel, *, towards: str) -> None:
        """Close a broken channel, so that the next call dials at once and not when gRPC's own back-off is over."""
        with self._lock:
            if self._channel is not channel:
                return  # another thread was quicker
            self._channel = None
            known = towards in self._addresses
            self._dialled = self._addresses.index(towards) if known else self._dialled + 1
        channel.close()


def _credentials(identity: Identity, roots: bytes) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=roots,
        private_key=identity.keys.tls.reveal(),
        certificate_chain=identity.certificate,
    )


def enrol(invitation: Invitation, request: Enrolment, *, proxy: str = "") -> Membership:
    """Spend an invitation; each address is tried once.

    Raises:
        PeerError: ``E-TOKEN-*``, ``E-IDENTITY-*``, ``E-VERSION``: the coordinator's refusal.
        NetworkError: none of the addresses could be reached.
    """
    credentials = grpc.ssl_channel_credentials(root_certificates=authority_pem(invitation))
    expected = Expected(authority=authority_pem(invitation), certificate=None, proxy=proxy)
    connection = _Connection(invitation.enrolment_addresses, credentials, expected)
    method = transport.ENROLMENT.methods_by_name["Enrol"]
    data = codec.encode_enrolment(request)
    try:
        answer = retrying(
            lambda: connection.call(method, data, seconds=CALL_SECONDS), attempts=len(invitation.enrolment_addresses)
        )
    finally:
        connection.close()
    return codec.decode_membership(answer)


class Channel:
    """A member's connection; made without dialling, dialled by the first call, dialled again after a failure.

    Calls may come from several threads. Each raises what the coordinator refused, or a ``NetworkError``.

    Args:
        identity: keys, certificate, authority and addresses.
        proxy: ``http://[user:password@]host:port`` of an HTTPS CONNECT proxy, or empty.
        session: 16 bytes that a daemon draws when it starts, so that two of one identity are noticed; empty for a
            command that asks beside it.
    """

    def __init__(self, identity: Identity, *, proxy: str = "", session: bytes = b"") -> None:
        roots = identity.roots(SystemClock().now())
        expected = Expected(authority=roots, certificate=identity.certificate, proxy=proxy)
        self._connection = _Connection(identity.addresses, _credentials(identity, roots), expected, session)
        self._begun = b""  # hash of the last upload that was begun here

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; a poll in flight in another thread ends with ``E-NET-LOST``."""
        self._connection.close()

    def use(self, identity: Identity) -> None:
        """Make further calls with another certificate, other authorities or addresses; calls under way go on."""
        roots = identity.roots(SystemClock().now())
        self._connection.change(identity.addresses, _credentials(identity, roots), roots, identity.certificate)

    def renew(self, request: RenewalRequest) -> Renewal:
        """Ask for a certificate of a new TLS key."""
        return codec_renewal.decode_renewal(self._call("Renew", codec_renewal.encode_renewal_request(request)))

    def handshake(self, hello: Hello) -> Welcome:
        """Say the first words; ``E-VERSION`` names both versions if they differ."""
        words = codec.encode_hello(hello)
        return codec.decode_welcome(self._at_any_address(lambda: self._call("Handshake", words)))

    def poll(
        self, seen: Collection[bytes], wait_seconds: float, most: Callable[[], int] = lambda: codec.PLAIN_TASK_BYTES
    ) -> Generator[NumberedTask, None, None]:
        """Yield current tasks whose ids are not in ``seen``, the oldest first, and those that come in the given time.

        Args:
            seen: ids of tasks.
            wait_seconds: how long to wait, up to 20 s in all.
            most: gives the bytes that the next task may have; what is longer is refused before it is kept.
        """
        request = wire.encode_poll(PollRequest(frozenset(seen), min(wait_seconds, transport.MAX_POLL_SECONDS)))
        poll, message = (
            transport.FEDERATION.methods_by_name["Poll"],
            transport.Assembly(sender=COORDINATOR, most=most()),
        )
        with contextlib.closing(self._connection.stream(poll, request, seconds=CALL_SECONDS)) as answers:
            for part in map(wire.decode_task_part, answers):
                message.add(part.chunk)
                if part.last:
                    yield codec.decode_task(message.whole())
                    message = transport.Assembly(sender=COORDINATOR, most=most())
        if message.whole():
            raise _wrong("a task broke off before its end")

    def submit(self, submission: Submission) -> None:
        """Send a message; it is durable at the coordinator when this returns. Sending it again does no harm."""
        first, *rest = map(wire.encode_chunk, transport.pieces(codec.encode_submission(submission)))
        if rest:
            answer = self._at_any_address(lambda: self._call("SubmitLong", iter((first, *rest))))
        else:
            answer = self._at_any_address(lambda: self._call("Submit", first))
        wire.decode_accepted(answer)

    def _at_any_address(self, call: Callable[[], bytes]) -> bytes:
        """Make a short call, at the other addresses too if this one leads none of the member's runs, or is away."""
        for _ in range(len(self._connection.addresses) - 1):
            try:
                return call()
            except NetworkError as error:
                if error.code not in _AT_THE_NEXT:
                    raise
        return call()

    def upload(
        self,
        upload: UploadAnnounced,
        masked: Buffer,
        *,
        progress: Progress = _silent,
        attempts: int = 1,
    ) -> None:
        """Upload a masked update, from where the coordinator says that it goes on.

        Args:
            upload: where it belongs, its hash and length.
            masked: its bytes.
            progress: told how many bytes were handed to the network, from a thread of the network's.
            attempts: how often the network may fail before this does.
        """
        retrying(lambda: self._upload_rest(upload, memoryview(masked), progress), attempts=attempts)

    def _upload_rest(self, upload: UploadAnnounced, masked: memoryview, progress: Progress) -> None:
        """Send what the coordinator lacks; it is asked how much that is only if some of it may be there."""
        begun, self._begun = self._begun == upload.sha256, upload.sha256
        offset = self._upload_offset(upload) if begun else 0
        try:
            offset = self._upload_from(offset, upload, masked, progress)
        except PeerError as error:
            if begun or error.code != "E-WIRE-CHUNK":
                raise
            offset = self._upload_from(self._upload_offset(upload), upload, masked, progress)
        if offset != upload.length:
            raise _wrong(f"the coordinator took {offset} of {upload.length} bytes")
        progress(offset, upload.length)

    def _upload_offset(self, upload: UploadAnnounced) -> int:
        return wire.decode_offset(self._call("UploadOffset", wire.encode_announcement(upload)))

    def _upload_from(self, offset: int, upload: UploadAnnounced, masked: memoryview, progress: Progress) -> int:
        if offset == upload.length:
            return offset
        parts = map(wire.encode_upload_part, _upload_parts(upload, masked, offset, progress))
        return wire.decode_offset(self._call("Upload", parts, seconds=None))

    def download(self, ref: ContentRef, destination: Path, *, progress: Progress = _silent, attempts: int = 1) -> None:
        """Download content into a file, which appears whole, verified and durable; what a cut left is gone on from.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, the content has another length or hash; what had come is dropped.
            LocalError: ``E-DISK-FULL``, ``E-DISK-READONLY`` or ``E-DISK-FAILED``.
        """
        partial = destination.with_name(f"{destination.name}.part")
        retrying(lambda: self._download_rest(ref, partial, progress), attempts=attempts)
        if durable.sha256(partial) != ref.sha256:
            partial.unlink()
            raise _wrong("the downloaded content does not have its hash")
        durable.adopt(partial, destination)

    def _download_rest(self, ref: ContentRef, partial: Path, progress: Progress) -> None:
        with durable.disk_errors(partial), open(partial, "ab", opener=durable.owners_alone) as file:
            if file.tell() > ref.length:
                file.truncate(0)  # left by other content of the same name
            self._receive(ref, file, progress)

    def download_bytes(self, ref: ContentRef, *, progress: Progress = _silent, attempts: int = 1) -> bytes:
        """Return content from memory, hashed in the very buffer that is given back.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, the content has another length or hash.
        """
        buffer = io.BytesIO()
        retrying(lambda: self._receive(ref, buffer, progress), attempts=attempts)
        content = buffer.getvalue()
        if hashlib.sha256(content).digest() != ref.sha256:
            raise _wrong("the downloaded content does not have its hash")
        return content

    def download_plan(self, plan_hash: bytes) -> bytes:
        """Return the plan of a run that this member took part in, by its hash.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, it has another hash or is too long.
        """
        message = transport.Assembly(sender=COORDINATOR, most=MAX_PLAN_BYTES)
        request = wire.encode_content_request(ContentRequest(plan_hash, 0))
        with contextlib.closing(self._chunks("Download", request, seconds=CALL_SECONDS)) as chunks:
            for chunk in chunks:
                message.add(chunk)
        plan = message.whole()
        if hashlib.sha256(plan).digest() != plan_hash:
            raise _wrong("the plan does not have its hash")
        return plan

    def _receive(self, ref: ContentRef, file: BinaryIO, progress: Progress) -> None:
        """Append the rest of some content to a file that holds its beginning."""
        offset = file.seek(0, io.SEEK_END)
        progress(offset, ref.length)
        if offset == ref.length:
            return
        request = wire.encode_content_request(ContentRequest(ref.sha256, offset))
        with contextlib.closing(self._chunks("Download", request, seconds=None)) as chunks:
            for chunk in chunks:
                if chunk.offset != offset or offset + len(chunk.data) > ref.length:
                    raise _wrong(f"bytes at offset {chunk.offset} came where {offset} of {ref.length} was due")
                file.write(chunk.data)
                offset += len(chunk.data)
                progress(offset, ref.length)
        if offset != ref.length:
            raise _wrong(f"the download ended at {offset} of {ref.length} bytes")

    def _call(self, name: str, request: bytes | Iterator[bytes], *, seconds: float | None = CALL_SECONDS) -> bytes:
        return self._connection.call(transport.FEDERATION.methods_by_name[name], request, seconds=seconds)

    def _chunks(self, name: str, request: bytes, *, seconds: float | None) -> Generator[Chunk, None, None]:
        method = transport.FEDERATION.methods_by_name[name]
        with contextlib.closing(self._connection.stream(method, request, seconds=seconds)) as answers:
            for data in answers:
                yield wire.decode_chunk(data, sender=COORDINATOR)


def _upload_parts(
    upload: UploadAnnounced, masked: memoryview, offset: int, progress: Progress
) -> Iterator[UploadAnnounced | Chunk]:
    yield upload
    while data := bytes(masked[offset : min(offset + transport.SEND_CHUNK_BYTES, upload.length)]):
        yield Chunk(offset, data)
        offset += len(data)
        progress(offset, upload.length)


def _wrong(rule: str) -> PeerError:
    return PeerError.by_coordinator("E-WIRE-CHUNK", Phase.WIRE, rule)
