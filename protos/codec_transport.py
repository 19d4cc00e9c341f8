"""Chunks, offsets and polls to bytes and back: what moves content, whatever the content is.

Guarantees: as ``codec``; a chunk that decodes has the hash that it came with, and holds 1 byte to 1 MiB.
Leaves to others: whether a chunk continues what came before it (``transport``, ``coordinator.daemon.service``).
"""

from __future__ import annotations

import hashlib
from typing import Final

from privacy.errors import PeerError, Phase
from privacy.secagg.hashes import HASH_BYTES
from protos import codec_round as rounds
from protos import codec_task as tasks
from protos import envelope as env
from protos import federation_pb2 as pb
from protos.codec_fields import COORDINATOR, ascending, count, each, exact, part, read, run_id, write

MAX_CONTROL_BYTES: Final = 2**17  # of everything here that is no chunk: 4096 ids of tasks seen have 72 KiB
MAX_SEEN: Final = 4096  # task ids in a poll
MAX_WAIT_MS: Final = 60_000

_FRAME_BYTES: Final = 64  # tags, lengths, offset and hash around a chunk's data


def encode_chunk(value: env.Chunk) -> bytes:
    """Return the bytes of a chunk with its hash."""
    return write(_write_chunk(value), most=env.MAX_CHUNK_BYTES + _FRAME_BYTES)


def decode_chunk(data: bytes, *, sender: str) -> env.Chunk:
    """Return a chunk, or raise ``E-WIRE-CHUNK`` if its data do not have its hash."""
    most = env.MAX_CHUNK_BYTES + _FRAME_BYTES
    return _checked(read(pb.Chunk, data, lambda message: message, sender=sender, most=most), sender)


def _write_chunk(value: env.Chunk) -> pb.Chunk:
    return pb.Chunk(offset=value.offset, data=value.data, sha256=hashlib.sha256(value.data).digest())


def _checked(message: pb.Chunk, sender: str) -> env.Chunk:
    data = message.data  # a copy each time that it is asked for
    if not 1 <= len(data) <= env.MAX_CHUNK_BYTES:
        rule = f"a chunk has 1 to {env.MAX_CHUNK_BYTES} bytes, not {len(data)}"
    elif message.sha256 != hashlib.sha256(data).digest():
        rule = f"the chunk at offset {message.offset} does not have its hash"
    else:
        return env.Chunk(offset=message.offset, data=data)
    raise PeerError.by_participant(sender, "E-WIRE-CHUNK", Phase.WIRE, rule)


def encode_task_part(value: env.TaskPart) -> bytes:
    """Return the bytes of one message of a poll's answer."""
    message = pb.TaskPart(chunk=_write_chunk(value.chunk), last=value.last)
    return write(message, most=env.MAX_CHUNK_BYTES + 2 * _FRAME_BYTES)


def decode_task_part(data: bytes) -> env.TaskPart:
    """Return one message of a poll's answer, or raise ``E-WIRE-CHUNK`` or ``E-WIRE-MALFORMED``."""
    most = env.MAX_CHUNK_BYTES + 2 * _FRAME_BYTES
    message = read(pb.TaskPart, data, lambda message: message, sender=COORDINATOR, most=most)
    return env.TaskPart(_checked(message.chunk, COORDINATOR), message.last)


def encode_upload_part(value: env.UploadAnnounced | env.Chunk) -> bytes:
    """Return the bytes of one message of an upload stream."""
    if isinstance(value, env.Chunk):
        message = pb.UploadPart(chunk=_write_chunk(value))
    else:
        message = pb.UploadPart(announced=_write_announced(value))
    return write(message, most=env.MAX_CHUNK_BYTES + 2 * _FRAME_BYTES)


def decode_upload_part(data: bytes, *, sender: str) -> env.UploadAnnounced | env.Chunk:
    """Return one message of an upload stream, or raise ``E-WIRE-CHUNK`` or ``E-WIRE-MALFORMED``."""
    most = env.MAX_CHUNK_BYTES + 2 * _FRAME_BYTES
    part = read(pb.UploadPart, data, _read_upload_part, sender=sender, most=most)
    return _checked(part, sender) if isinstance(part, pb.Chunk) else part


def _read_upload_part(message: pb.UploadPart) -> env.UploadAnnounced | pb.Chunk:
    if message.WhichOneof("part") == "chunk":
        return message.chunk
    return part(message, "announced", _read_announced)


def _write_announced(value: env.UploadAnnounced) -> pb.UploadAnnounced:
    return pb.UploadAnnounced(
        run_id=value.run_id,
        position=rounds.write_position(value.position),
        sha256=value.sha256,
        length=value.length,
    )


def _read_announced(message: pb.UploadAnnounced) -> env.UploadAnnounced:
    return env.UploadAnnounced(
        run_id=run_id(message.run_id),
        position=part(message, "position", rounds.read_position),
        sha256=exact(message.sha256, HASH_BYTES, "sha256"),
        length=count(message.length, "length", least=1, most=env.MAX_CONTENT_BYTES),
    )


def encode_announcement(value: env.UploadAnnounced) -> bytes:
    """Return the bytes of an announced upload."""
    return write(_write_announced(value), most=MAX_CONTROL_BYTES)


def decode_announcement(data: bytes, *, sender: str) -> env.UploadAnnounced:
    """Return an announced upload."""
    return read(pb.UploadAnnounced, data, _read_announced, sender=sender, most=MAX_CONTROL_BYTES)


def encode_offset(value: int) -> bytes:
    """Return the bytes of an offset."""
    return write(pb.Offset(offset=value), most=MAX_CONTROL_BYTES)


def decode_offset(data: bytes) -> int:
    """Return an offset that the coordinator names."""
    return read(pb.Offset, data, _read_offset, sender=COORDINATOR, most=MAX_CONTROL_BYTES)


def _read_offset(message: pb.Offset) -> int:
    return count(message.offset, "offset", most=env.MAX_CONTENT_BYTES)


def encode_poll(value: env.PollRequest) -> bytes:
    """Return the bytes of a poll."""
    message = pb.PollRequest(seen=sorted(value.seen), wait_ms=round(value.wait_seconds * 1000))
    return write(message, most=MAX_CONTROL_BYTES)


def decode_poll(data: bytes, *, sender: str) -> env.PollRequest:
    """Return a poll."""
    return read(pb.PollRequest, data, _read_poll, sender=sender, most=MAX_CONTROL_BYTES)


def _read_poll(message: pb.PollRequest) -> env.PollRequest:
    seen = each(message.seen, "seen", lambda task: exact(task, tasks.TASK_ID_BYTES, "id"), most=MAX_SEEN)
    ascending(seen, "seen")
    return env.PollRequest(
        seen=frozenset(seen), wait_seconds=count(message.wait_ms, "wait_ms", most=MAX_WAIT_MS) / 1000
    )


def encode_content_request(value: env.ContentRequest) -> bytes:
    """Return the bytes of a request for content."""
    return write(pb.ContentRequest(sha256=value.sha256, offset=value.offset), most=MAX_CONTROL_BYTES)


def decode_content_request(data: bytes, *, sender: str) -> env.ContentRequest:
    """Return a request for content."""
    return read(pb.ContentRequest, data, _read_content_request, sender=sender, most=MAX_CONTROL_BYTES)


def _read_content_request(message: pb.ContentRequest) -> env.ContentRequest:
    return env.ContentRequest(
        sha256=exact(message.sha256, HASH_BYTES, "sha256"),
        offset=count(message.offset, "offset", most=env.MAX_CONTENT_BYTES),
    )


def encode_accepted() -> bytes:
    """Return the bytes of the answer to a submission."""
    return write(pb.Accepted(), most=MAX_CONTROL_BYTES)


def decode_accepted(data: bytes) -> None:
    """Check the answer to a submission."""
    read(pb.Accepted, data, lambda _: None, sender=COORDINATOR, most=MAX_CONTROL_BYTES)
