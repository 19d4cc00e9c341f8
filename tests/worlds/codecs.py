"""Every kind of message with both directions of its codec and values to send through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from protos import codec, codec_renewal
from protos import codec_transport as wire
from protos import envelope as env
from tests.worlds import strategies as drawn


@dataclass(frozen=True)
class Pair:
    """A kind of message with both directions of its codec."""

    values: SearchStrategy[Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


PAIRS = {
    "task": Pair(drawn.numbered_tasks, codec.encode_task, codec.decode_task),
    "submission": Pair(
        drawn.submissions,
        codec.encode_submission,
        lambda data: codec.decode_submission(data, sender="alice"),
    ),
    "certificate": Pair(
        drawn.certificates,
        codec.encode_certificate,
        lambda data: codec.decode_certificate(data, sender="coordinator"),
    ),
    "enrolment": Pair(
        drawn.enrolments,
        codec.encode_enrolment,
        lambda data: codec.decode_enrolment(data, sender="newcomer"),
    ),
    "membership": Pair(drawn.memberships, codec.encode_membership, codec.decode_membership),
    "hello": Pair(drawn.hellos, codec.encode_hello, lambda data: codec.decode_hello(data, sender="alice")),
    "welcome": Pair(drawn.welcomes, codec.encode_welcome, codec.decode_welcome),
    "renewal request": Pair(
        drawn.renewal_requests,
        codec_renewal.encode_renewal_request,
        lambda data: codec_renewal.decode_renewal_request(data, sender="alice"),
    ),
    "renewal": Pair(drawn.renewals, codec_renewal.encode_renewal, codec_renewal.decode_renewal),
    "chunk": Pair(drawn.chunks, wire.encode_chunk, lambda data: wire.decode_chunk(data, sender="alice")),
    "task part": Pair(drawn.task_parts, wire.encode_task_part, wire.decode_task_part),
    "upload part": Pair(
        st.one_of(drawn.chunks, drawn.announcements),
        wire.encode_upload_part,
        lambda data: wire.decode_upload_part(data, sender="alice"),
    ),
    "announcement": Pair(
        drawn.announcements,
        wire.encode_announcement,
        lambda data: wire.decode_announcement(data, sender="alice"),
    ),
    "offset": Pair(st.integers(0, env.MAX_CONTENT_BYTES), wire.encode_offset, wire.decode_offset),
    "poll": Pair(drawn.polls, wire.encode_poll, lambda data: wire.decode_poll(data, sender="alice")),
    "content request": Pair(
        drawn.content_requests,
        wire.encode_content_request,
        lambda data: wire.decode_content_request(data, sender="alice"),
    ),
}
