"""What both ends of a connection must agree on: calls, chunks, keepalive and sizes.

Guarantees: the options of both sides match (a participant never pings more often than the coordinator allows, so no
connection is dropped for it), and every message fits under one fixed limit, because whatever may grow is cut into
chunks; there is nothing here that a user would have to configure.
Leaves to others: gRPC itself (``coordinator.daemon.service``, ``participant.link.channel``).
Source: gRPC core ``grpc_types.h`` and ``doc/keepalive.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.descriptor import MethodDescriptor

from privacy.errors import PeerError, Phase
from protos import federation_pb2 as pb
from protos.envelope import MAX_CHUNK_BYTES, Chunk

Options = tuple[tuple[str, int], ...]

SEND_CHUNK_BYTES: Final = 2**19  # 256 KiB to 1 MiB is fastest; half of what a peer must take
MAX_MESSAGE_BYTES: Final = 2 * MAX_CHUNK_BYTES  # a chunk or a message that travels whole, with room to spare
MAX_POLL_SECONDS: Final = 20.0  # longest that a poll is held: below the idle limits of usual firewalls and proxies
KEEPALIVE_SECONDS: Final = 10  # of silence, after which either side asks whether the other is there
KEEPALIVE_TIMEOUT_SECONDS: Final = 10  # without an answer, after which the connection is given up
HANDSHAKE_SECONDS: Final = 20  # that a connection may take to begin TLS and HTTP/2
SESSION_KEY: Final = "onlysum-session-bin"  # metadata of a member's calls: which of its starts a daemon calls from
SESSION_BYTES: Final = 16
CALL_SECONDS: Final = 120  # of a call that is not content, from dialling to the last byte: see ``channel``
MAX_STREAMS: Final = 64  # calls on a connection at a time; a daemon has a few

FEDERATION: Final = pb.DESCRIPTOR.services_by_name["Federation"]
ENROLMENT: Final = pb.DESCRIPTOR.services_by_name["Enrolment"]

_BOTH: Final[Options] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),  # a minute by default, which counts if longer
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
SERVER_OPTIONS: Final[Options] = (
    *_BOTH,
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),  # twice what a peer will use
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    # Calls of many members at once wait their turn, for as long as their callers do, instead of being cancelled.
    ("grpc.server_max_unrequested_time_in_server", CALL_SECONDS),
    ("grpc.so_reuseport", 0),  # a second coordinator on the same port fails instead of taking every other call
)
CLIENT_OPTIONS: Final[Options] = (
    *_BOTH,
    ("grpc.enable_retries", 0),  # retries are visible, and asked for (``participant.link.channel``)
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # the time that one attempt to connect is given
    ("grpc.max_reconnect_backoff_ms", 5000),
)


def path(method: MethodDescriptor) -> str:
    """Return the name under which a call travels."""
    return f"/{method.containing_service.full_name}/{method.name}"


def pieces(data: bytes) -> Iterator[Chunk]:
    """Cut a message into the chunks in which it travels."""
    for offset in range(0, len(data), SEND_CHUNK_BYTES):
        yield Chunk(offset, data[offset : offset + SEND_CHUNK_BYTES])


class Assembly:
    """Puts a message together again from chunks that must follow each other and stay below a limit."""

    def __init__(self, *, sender: str, most: int) -> None:
        self._sender = sender
        self._most = most
        self._whole = bytearray()

    def add(self, chunk: Chunk) -> None:
        """Append a chunk.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, it does not continue the message, or makes it too large.
        """
        if chunk.offset != len(self._whole):
            rule = f"a chunk at offset {chunk.offset} came where {len(self._whole)} was due"
        elif len(self._whole) + len(chunk.data) > self._most:
            rule = f"a message has more than {self._most} bytes"
        else:
            self._whole += chunk.data
            return
        raise PeerError.by_participant(self._sender, "E-WIRE-CHUNK", Phase.WIRE, rule)

    def whole(self) -> bytes:
        """Return what has come so far; empty when nothing has."""
        return bytes(self._whole)
