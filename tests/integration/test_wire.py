"""The wire for real: gRPC with mutual TLS on loopback, a small backend, and everything that goes wrong there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.daemon.quotas import BUSY_SECONDS, MAX_CALLS
from coordinator.enrolment.authority import Authority
from participant.link import identity
from participant.link.channel import Channel, _Connection, enrol
from participant.link.identity import Identity
from privacy.errors import NetworkError, OnlysumError, PeerError, Phase, RefusedError, RoundAborted
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import Position, Receipt
from protos import codec_transport as wire
from protos import transport
from protos.envelope import (
    Chunk,
    ContentRef,
    Hello,
    LedgerHead,
    NumberedTask,
    PlanApproved,
    PlanProposed,
    Role,
    RunEnded,
    UploadAnnounced,
)
from protos.status import led_elsewhere
from simulation.ports import free_ports
from tests.worlds.loopback import HOST, Loopback, coordinator, new_authority
from tests.worlds.seeded import SeededRandom

RUN = "ab" * 16
AT = Position(b"p" * 32, 1, 1)
FIVE_YEARS = 6 * 365 * 86_400  # and a little more


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority()


@pytest.fixture
def service(authority: Authority) -> Iterator[Loopback]:
    with coordinator(authority) as running:
        yield running


@pytest.fixture
def alice(service: Loopback) -> Identity:
    return service.member("alice")


@pytest.fixture
def channel(alice: Identity) -> Iterator[Channel]:
    with Channel(alice) as opened:
        yield opened


def hello(name: str = "alice", *, version: int = PROTOCOL_VERSION) -> Hello:
    return Hello(version, "0.1.0", name, Role.PARTICIPANT, LedgerHead(0, b""), ())


def ended(number: int) -> NumberedTask:
    return NumberedTask(bytes([number]) * 16, RunEnded(RUN, "completed", ""))


def receipt(sender: str) -> Receipt:
    return Receipt(AT, sender, b"u" * 32, b"m" * 32, 8, b"s" * 64)


def refused(call: Callable[[], object]) -> OnlysumError:
    with pytest.raises(OnlysumError) as caught:
        call()
    return caught.value


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def upload_of(content: bytes) -> UploadAnnounced:
    return UploadAnnounced(RUN, AT, hashlib.sha256(content).digest(), len(content))


CONTENT = bytes(range(200))
ANNOUNCED = wire.encode_upload_part(upload_of(CONTENT))


def part(offset: int, data: bytes) -> bytes:
    return wire.encode_upload_part(Chunk(offset, data))


# --- handshake, poll, submit ---


def test_a_member_shakes_hands(service: Loopback, channel: Channel) -> None:
    assert channel.handshake(hello()).federation == "test-federation"


def test_other_versions_are_named_to_the_participant_whichever_side_notices(
    service: Loopback, channel: Channel
) -> None:
    error = refused(lambda: channel.handshake(hello(version=3)))
    assert (type(error), error.code) == (PeerError, "E-VERSION")
    assert f"alice speaks protocol version 3, the other side version {PROTOCOL_VERSION}" in error.detail
    assert service.backend.refused == [("alice", "E-VERSION")]
    service.backend.protocol_version = 3
    error = refused(lambda: channel.handshake(hello()))
    assert (type(error), error.code) == (PeerError, "E-VERSION")
    assert f"coordinator speaks protocol version 3, the other side version {PROTOCOL_VERSION}" in error.detail


def test_a_poll_ends_empty_when_nothing_comes(channel: Channel) -> None:
    begun = time.monotonic()
    assert list(channel.poll([], 0.15)) == []
    assert 0.1 < time.monotonic() - begun < 2


def test_a_waiting_poll_wakes_up_when_a_task_comes(service: Loopback, channel: Channel) -> None:
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(next, channel.poll([], 15.0))
        until(lambda: service.backend.polling == ["alice"])
        begun = time.monotonic()
        service.give(ended(1))
        assert waiting.result(5) == ended(1)
        assert time.monotonic() - begun < 1


def test_a_poll_brings_all_tasks_that_come_while_it_is_held_each_once(service: Loopback, channel: Channel) -> None:
    large = NumberedTask(b"l" * 16, PlanProposed(RUN, os.urandom(2**20), b"s" * 64, ContentRef(b"a" * 32, 1)))
    service.give(ended(1))
    poll = channel.poll([], 1.5)
    assert next(poll) == ended(1)
    service.give(large)
    assert next(poll) == large
    service.give(ended(2))
    assert list(poll) == [ended(2)]
    assert service.backend.polling == []


def test_a_poll_that_is_left_ends_at_the_coordinator(service: Loopback, channel: Channel) -> None:
    service.give(ended(1))
    poll = channel.poll([], 15)
    assert next(poll) == ended(1)
    until(lambda: service.backend.polling == ["alice"])
    poll.close()
    until(lambda: service.backend.polling == [])


def test_a_task_that_was_seen_is_not_given_again(service: Loopback, channel: Channel) -> None:
    service.give(ended(1))
    service.give(ended(2))
    assert next(channel.poll([ended(1).id], 5)) == ended(2)


def test_malicious_task_that_is_larger_than_the_plans_allow_is_refused_before_it_is_kept(
    service: Loopback, channel: Channel
) -> None:
    plan = PlanProposed(RUN, os.urandom(10_000), b"s" * 64, ContentRef(b"h" * 32, 1))
    service.give(NumberedTask(b"t" * 16, plan))
    assert next(channel.poll([], 5, lambda: 20_000)).id == b"t" * 16
    error = refused(lambda: next(channel.poll([], 5, lambda: 9_999)))
    assert (error.code, "more than 9999 bytes" in error.detail) == ("E-WIRE-CHUNK", True)


def test_a_poll_ends_at_the_coordinator_when_the_connection_breaks(service: Loopback, alice: Identity) -> None:
    channel = Channel(alice)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(list, channel.poll([], 15.0))
        until(lambda: service.backend.polling == ["alice"])
        channel.close()
        until(lambda: not service.backend.polling)
        assert refused(waiting.result).code == "E-NET-LOST"


def test_a_task_of_many_mebibytes_arrives(service: Loopback, channel: Channel) -> None:
    plan = PlanProposed(RUN, os.urandom(5 * 2**20), b"s" * 64, ContentRef(b"a" * 32, 1))
    service.give(NumberedTask(b"t" * 16, plan))
    assert next(channel.poll([], 5)) == NumberedTask(b"t" * 16, plan)


def test_a_submission_is_taken_under_the_name_in_the_certificate(service: Loopback, channel: Channel) -> None:
    channel.submit(receipt("alice"))
    channel.submit(PlanApproved(RUN, b"p" * 32, b"s" * 64))
    assert service.backend.submissions == [
        ("alice", receipt("alice")),
        ("alice", PlanApproved(RUN, b"p" * 32, b"s" * 64)),
    ]


@pytest.mark.parametrize("call", ["handshake", "submit"])
def test_a_message_in_anothers_name_is_refused(service: Loopback, channel: Channel, call: str) -> None:
    calls = {"handshake": lambda: channel.handshake(hello("bob")), "submit": lambda: channel.submit(receipt("bob"))}
    error = refused(calls[call])
    assert (type(error), error.code) == (PeerError, "E-IDENTITY-MISMATCH")
    assert "alice" in error.detail
    assert not service.backend.submissions
    channel.submit(receipt("alice"))


@pytest.mark.parametrize(
    "error",
    [
        PeerError("E-MEMBER-REVOKED", participant="alice", phase=Phase.HANDSHAKE, rule="revoked on 2026-01-01"),
        PeerError("E-ROUND-PHASE", participant="the dealer bob", phase=Phase.SHARE_KEYS, rule="1 < 2\nand\u202e so on"),
        RefusedError("E-PLAN-EXPIRED", "it expired"),
        RoundAborted("E-ROUND-TOO-FEW", "2 of 3"),
        NetworkError("E-NET-TIMEOUT", "behind"),
    ],
)
def test_a_typed_error_of_the_backend_arrives_as_it_was_raised(
    service: Loopback, channel: Channel, error: OnlysumError
) -> None:
    service.backend.refusal = error
    found = refused(lambda: channel.handshake(hello()))
    assert (type(found), found.code) == (type(error), error.code)
    assert found.detail == error.detail.replace("\n", r"\n").replace("\u202e", r"\u202e")  # shown as escapes
    assert found.args == (found.code, found.detail)


def test_a_bug_of_the_coordinator_says_nothing_of_itself(service: Loopback, channel: Channel) -> None:
    service.backend.refusal = RuntimeError("alice's update is 42")
    error = refused(lambda: channel.handshake(hello()))
    assert (type(error), error.code) == (NetworkError, "E-NET-FAILED")
    assert "42" not in error.detail
    service.backend.refusal = None
    assert channel.handshake(hello())


def test_a_submission_of_several_chunks_goes_as_a_stream_and_is_taken_as_the_others_are(
    service: Loopback, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, call = list[str](), _Connection.call

    def noted(connection: _Connection, method: Any, *args: Any, **kwargs: Any) -> bytes:
        calls.append(method.name)
        return call(connection, method, *args, **kwargs)

    monkeypatch.setattr(_Connection, "call", noted)
    channel.submit(receipt("alice"))
    with monkeypatch.context() as narrow:
        narrow.setattr(transport, "SEND_CHUNK_BYTES", 100)
        narrow.setattr("coordinator.daemon.quotas.LEAST_CHUNK_BYTES", 100)
        channel.submit(receipt("alice"))
    assert service.backend.submissions == [("alice", receipt("alice"))] * 2
    assert calls == ["Submit", "SubmitLong"]


@pytest.mark.parametrize("call", ["Submit", "SubmitLong"])
def test_malicious_submission_beyond_the_roster_is_refused_before_it_is_parsed(
    service: Loopback, alice: Identity, call: str
) -> None:
    most = service.backend.submission_limit("alice")
    chunks = [wire.encode_chunk(Chunk(0, bytes(most + 1)))]
    credentials = grpc.ssl_channel_credentials(alice.authority, alice.keys.tls.reveal(), alice.certificate)
    method = transport.path(transport.FEDERATION.methods_by_name[call])
    with grpc.secure_channel(alice.addresses[0], credentials) as raw, pytest.raises(grpc.RpcError) as caught:
        raw.stream_unary(method, bytes, bytes)(iter(chunks), timeout=20)
    assert caught.value.details() == "E-WIRE-CHUNK"
    assert service.backend.submissions == []


# --- content ---


def test_an_upload_arrives_and_reports_its_progress(service: Loopback, channel: Channel) -> None:
    content = os.urandom(3 * 2**20 + 17)
    told: list[int] = []
    channel.upload(upload_of(content), memoryview(content), progress=lambda done, _: told.append(done))
    assert service.backend.uploads[upload_of(content).sha256] == content
    assert told == sorted(told)
    assert told[-1] == len(content)


def test_an_upload_that_is_there_already_sends_nothing(service: Loopback, channel: Channel) -> None:
    content = b"x" * 100
    channel.upload(upload_of(content), content)
    service.backend.refusal = RuntimeError("no chunk may come")
    channel.upload(upload_of(content), content)


def test_an_upload_goes_on_where_it_was_cut(service: Loopback, alice: Identity) -> None:
    content = os.urandom(2**24)
    with (
        relay(service.listeners.address, cut_after=10 * 2**20) as through,
        Channel(replace(alice, addresses=(through.address,))) as channel,
    ):
        assert refused(lambda: channel.upload(upload_of(content), content)).code == "E-NET-LOST"
        taken = bytes(service.backend.uploads[upload_of(content).sha256])
        assert 0 < len(taken) < len(content)
        through.cut_after = None
        told: list[int] = []
        channel.upload(upload_of(content), content, progress=lambda done, _: told.append(done))
    assert service.backend.uploads[upload_of(content).sha256] == content
    assert min(told) > len(taken)


def test_an_upload_is_tried_again_only_if_asked(service: Loopback, alice: Identity) -> None:
    content = os.urandom(4 * 2**20)
    with (
        relay(service.listeners.address, cut_after=3 * 2**19, cuts=2) as through,
        Channel(replace(alice, addresses=(through.address,))) as channel,
    ):
        channel.upload(upload_of(content), content, attempts=5)
    assert service.backend.uploads[upload_of(content).sha256] == content


def test_what_a_process_before_had_sent_is_asked_for_when_the_first_chunk_is_refused(
    service: Loopback, channel: Channel
) -> None:
    content = os.urandom(3 * 2**20)
    service.backend.uploads[upload_of(content).sha256] = bytearray(content[: 2**20])
    told: list[int] = []
    channel.upload(upload_of(content), content, progress=lambda done, _: told.append(done))
    assert service.backend.uploads[upload_of(content).sha256] == content


# --- quotas ---


def test_malicious_streams_are_held_to_a_quota_and_named_and_others_do_not_notice(
    service: Loopback, alice: Identity
) -> None:
    forever = threading.Event()

    def never_ending() -> Iterator[bytes]:
        forever.wait(20)
        yield from ()

    method = transport.path(transport.FEDERATION.methods_by_name["SubmitLong"])
    credentials = grpc.ssl_channel_credentials(alice.authority, alice.keys.tls.reveal(), alice.certificate)
    with grpc.secure_channel(alice.addresses[0], credentials) as raw, Channel(service.member("bob")) as bob:
        calls = [
            raw.stream_unary(method, bytes, bytes).future(never_ending(), timeout=20) for _ in range(MAX_CALLS + 4)
        ]
        until(lambda: len(service.backend.over) == 4)
        begun = time.monotonic()
        bob.submit(PlanApproved(RUN, b"h" * 32, b"s" * 64))
        assert time.monotonic() - begun < BUSY_SECONDS
        until(lambda: sum(call.done() for call in calls) == 4)
        assert time.monotonic() - begun > BUSY_SECONDS / 2, "a refusal is made to wait, so that asking again is slow"
        forever.set()
    assert set(service.backend.over) == {("alice", f"alice has {MAX_CALLS} calls of SubmitLong in flight")}
    assert [who for who, _ in service.backend.submissions] == ["bob"]


def test_malicious_crumbs_are_refused_after_the_first(service: Loopback, alice: Identity) -> None:
    error = raw_upload(alice, [ANNOUNCED, *(part(at, b"x") for at in range(100))])
    assert error is not None
    assert error.details() == "E-WIRE-CHUNK"
    assert len(service.backend.uploads[upload_of(CONTENT).sha256]) == 1


def test_a_member_that_stalls_in_the_middle_of_a_call_is_cut_off_and_named(
    service: Loopback, alice: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.daemon.quotas.STALL_SECONDS", 0.2)
    monkeypatch.setattr("coordinator.daemon.service.BUSY_SECONDS", 0.0)
    forever = threading.Event()

    def stalls() -> Iterator[bytes]:
        yield ANNOUNCED
        forever.wait(10)

    credentials = grpc.ssl_channel_credentials(alice.authority, alice.keys.tls.reveal(), alice.certificate)
    with grpc.secure_channel(alice.addresses[0], credentials) as raw:
        call = raw.stream_unary(transport.path(transport.FEDERATION.methods_by_name["Upload"]), bytes, bytes)
        with pytest.raises(grpc.RpcError) as caught:
            call(stalls(), timeout=5)
        forever.set()
    assert caught.value.details() == "E-NET-BUSY"
    assert service.backend.over == [("alice", "alice has sent nothing for 0 s in the middle of a call")]


def raw_upload(member: Identity, parts: list[bytes]) -> grpc.RpcError | None:
    credentials = grpc.ssl_channel_credentials(member.authority, member.keys.tls.reveal(), member.certificate)
    with grpc.secure_channel(member.addresses[0], credentials) as raw:
        call = raw.stream_unary(transport.path(transport.FEDERATION.methods_by_name["Upload"]), bytes, bytes)
        try:
            call(iter(parts), timeout=5)
        except grpc.RpcError as error:
            return error
    return None


BAD_UPLOADS = {
    "a chunk was changed on the way": ([ANNOUNCED, part(0, b"good").replace(b"good", b"evil")], "E-WIRE-CHUNK"),
    "a chunk comes too early": ([ANNOUNCED, part(7, b"data")], "E-WIRE-CHUNK"),
    "a chunk comes twice": ([ANNOUNCED, part(0, b"data"), part(0, b"data")], "E-WIRE-CHUNK"),
    "two chunks are swapped": ([ANNOUNCED, part(4, b"data"), part(0, b"data")], "E-WIRE-CHUNK"),
    "more comes than was announced": ([ANNOUNCED, part(0, bytes(201))], "E-WIRE-CHUNK"),
    "it is not announced": ([part(0, b"data")], "E-WIRE-CHUNK"),
    "it is announced twice": ([ANNOUNCED, ANNOUNCED], "E-WIRE-CHUNK"),
    "it is empty": ([], "E-WIRE-CHUNK"),
    "it is noise": ([b"\xff\xff\xff"], "E-WIRE-MALFORMED"),
}


@pytest.mark.parametrize("sentence", sorted(BAD_UPLOADS))
def test_an_upload_is_refused_and_the_service_goes_on_when(service: Loopback, alice: Identity, sentence: str) -> None:
    parts, code = BAD_UPLOADS[sentence]
    error = raw_upload(alice, parts)
    assert error is not None
    assert error.details() == code
    with Channel(alice) as channel:
        channel.upload(upload_of(CONTENT), CONTENT)
    assert service.backend.uploads[upload_of(CONTENT).sha256] in (CONTENT, b"data" + CONTENT[4:])


@pytest.mark.parametrize("junk", [b"\xff\xff", b"\x78\x01", b"\x0a\x03bob"])
@pytest.mark.parametrize("call", ["Handshake", "UploadOffset"])
def test_noise_is_refused_as_malformed_and_the_service_goes_on(
    service: Loopback, alice: Identity, channel: Channel, call: str, junk: bytes
) -> None:
    credentials = grpc.ssl_channel_credentials(alice.authority, alice.keys.tls.reveal(), alice.certificate)
    with grpc.secure_channel(alice.addresses[0], credentials) as raw:
        method = transport.FEDERATION.methods_by_name[call]
        with pytest.raises(grpc.RpcError) as caught:
            raw.unary_unary(transport.path(method), bytes, bytes)(junk, timeout=5)
    assert caught.value.details() in {"E-WIRE-MALFORMED", "E-VERSION"}
    assert channel.handshake(hello())


def test_a_download_larger_than_any_message_arrives(service: Loopback, channel: Channel, tmp_path: Path) -> None:
    content = os.urandom(5 * 2**20 + 3)
    ref = ContentRef(hashlib.sha256(content).digest(), len(content))
    service.backend.content[ref.sha256] = content
    assert channel.download_bytes(ref) == content
    channel.download(ref, tmp_path / "adapter")
    assert (tmp_path / "adapter").read_bytes() == content
    assert list(tmp_path.iterdir()) == [tmp_path / "adapter"]
    assert stat.S_IMODE((tmp_path / "adapter").stat().st_mode) == 0o600


def test_a_download_that_broke_goes_on_where_it_was(service: Loopback, channel: Channel, tmp_path: Path) -> None:
    content = os.urandom(4 * 2**20)
    ref = ContentRef(hashlib.sha256(content).digest(), len(content))
    service.backend.content[ref.sha256] = content
    service.backend.content_cut = 2**21
    assert refused(lambda: channel.download(ref, tmp_path / "adapter")).code == "E-NET-FAILED"
    assert not (tmp_path / "adapter").exists()
    told: list[int] = []
    channel.download(ref, tmp_path / "adapter", progress=lambda done, _: told.append(done))
    assert told[0] == 2**21
    assert (tmp_path / "adapter").read_bytes() == content


def test_content_with_another_hash_is_not_given_back(service: Loopback, channel: Channel, tmp_path: Path) -> None:
    ref = ContentRef(hashlib.sha256(b"right").digest(), 5)
    service.backend.content[ref.sha256] = b"wrong"
    assert refused(lambda: channel.download_bytes(ref)).code == "E-WIRE-CHUNK"
    assert refused(lambda: channel.download(ref, tmp_path / "adapter")).code == "E-WIRE-CHUNK"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sent", [b"shor", b"longer"])
def test_content_of_another_length_is_not_given_back(service: Loopback, channel: Channel, sent: bytes) -> None:
    ref = ContentRef(hashlib.sha256(b"short").digest(), 5)
    service.backend.content[ref.sha256] = sent
    assert refused(lambda: channel.download_bytes(ref)).code == "E-WIRE-CHUNK"


# --- who may connect ---


def test_a_newcomer_enrols_and_then_shakes_hands(service: Loopback) -> None:
    invitation = service.invitation("carol")
    keys = identity.new_keys(SeededRandom("carol"))
    membership = enrol(invitation, identity.enrolment_request(invitation, keys))
    with Channel(identity.accept_membership(invitation, keys, membership)) as channel:
        assert channel.handshake(hello("carol"))


def test_a_used_token_is_refused(service: Loopback) -> None:
    invitation = service.invitation("carol")
    request = identity.enrolment_request(invitation, identity.new_keys(SeededRandom("carol")))
    enrol(invitation, request)
    error = refused(lambda: enrol(invitation, request))
    assert (type(error), error.code) == (PeerError, "E-TOKEN-USED")


def test_an_expired_token_is_refused(service: Loopback) -> None:
    invitation = service.invitation("carol", until=time.time() - 1)
    request = identity.enrolment_request(invitation, identity.new_keys(SeededRandom("carol")))
    assert refused(lambda: enrol(invitation, request)).code == "E-TOKEN-EXPIRED"


def test_a_guessed_token_is_refused(service: Loopback) -> None:
    invitation = replace(service.invitation("carol"), token_id="00" * 16)
    request = identity.enrolment_request(invitation, identity.new_keys(SeededRandom("carol")))
    assert refused(lambda: enrol(invitation, request)).code == "E-TOKEN-UNKNOWN"


def test_nobody_enrols_with_a_coordinator_that_the_token_does_not_name(service: Loopback) -> None:
    invitation = replace(service.invitation("carol"), authority=new_authority("another").ca_der)
    request = identity.enrolment_request(invitation, identity.new_keys(SeededRandom("carol")))
    assert refused(lambda: enrol(invitation, request)).code == "E-NET-TLS"
    assert not service.backend.spent


def test_a_certificate_of_another_authority_is_refused(service: Loopback) -> None:
    eve = service.member("eve", authority=new_authority("another"))
    with Channel(eve) as channel:
        error = refused(lambda: channel.handshake(hello("eve")))
    assert (type(error), error.code) == (NetworkError, "E-NET-TLS")
    assert "by another authority than the one it pinned" in error.detail


def test_an_expired_certificate_is_refused_and_named(service: Loopback) -> None:
    eve = service.member("eve", now=time.time() - FIVE_YEARS)
    with Channel(eve) as channel:
        error = refused(lambda: channel.handshake(hello("eve")))
    assert error.code == "E-NET-TLS"
    assert "certificate expired at" in error.detail


@pytest.mark.parametrize("call", ["handshake", "poll", "submit", "upload", "download"])
def test_a_certificate_that_a_newer_one_replaced_is_refused_in_every_call(
    service: Loopback, alice: Identity, channel: Channel, call: str
) -> None:
    service.backend.replaced.add(ssl.PEM_cert_to_DER_cert(alice.certificate.decode()))
    calls: dict[str, Callable[[], object]] = {
        "handshake": lambda: channel.handshake(hello()),
        "poll": lambda: list(channel.poll([], 1)),
        "submit": lambda: channel.submit(receipt("alice")),
        "upload": lambda: channel.upload(upload_of(b"content"), b"content"),
        "download": lambda: channel.download_bytes(ContentRef(b"h" * 32, 4)),
    }
    assert refused(calls[call]).code == "E-MEMBER-REVOKED"
    assert not service.backend.submissions
    assert not service.backend.uploads


def test_a_daemon_names_its_session_in_every_call_and_a_command_none(service: Loopback, alice: Identity) -> None:
    with Channel(alice, session=b"s" * 16) as daemon, Channel(alice) as command:
        daemon.handshake(hello())
        list(daemon.poll([], 0))
        daemon.submit(PlanApproved(RUN, b"p" * 32, b"s" * 64))
        command.handshake(hello())
    assert service.backend.sessions == [b"s" * 16] * 3 + [b""]


@pytest.mark.parametrize("session", [b"s", b"s" * 15, b"s" * 17])
def test_malicious_session_of_another_length_is_refused(service: Loopback, alice: Identity, session: bytes) -> None:
    with Channel(alice, session=session) as channel:
        assert refused(lambda: channel.handshake(hello())).code == "E-WIRE-MALFORMED"
    assert service.backend.sessions == []


def test_a_caller_without_a_certificate_is_refused(service: Loopback, alice: Identity) -> None:
    credentials = grpc.ssl_channel_credentials(alice.authority)
    with grpc.secure_channel(alice.addresses[0], credentials) as raw:
        method = transport.FEDERATION.methods_by_name["Handshake"]
        with pytest.raises(grpc.RpcError) as caught:
            raw.unary_unary(transport.path(method), bytes, bytes)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_intercepted_tls_is_named_with_its_issuer(authority: Authority) -> None:
    posing = new_authority("a proxy")
    with coordinator(authority, served=posing) as service, Channel(service.member("alice")) as channel:
        error = refused(lambda: channel.handshake(hello()))
    assert error.code == "E-NET-TLS"
    assert "TLS is intercepted" in error.detail


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (86_400, "the coordinator's certificate is valid from .* UTC on, and .*clock says .* UTC: the clock is behind"),
        (
            -FIVE_YEARS,
            "the coordinator's certificate expired at .*clock says .* it must be renewed, or the clock is ahead",
        ),
    ],
    ids=["behind", "ahead"],
)
def test_a_clock_that_is_wrong_is_told_with_both_times_and_not_as_interception(apart: int, words: str) -> None:
    begun = new_authority(now=time.time() + apart)
    with coordinator(begun) as service, Channel(service.member("alice")) as channel:
        error = refused(lambda: channel.handshake(hello()))
    assert error.code == "E-NET-TLS"
    assert re.search(words, error.detail)
    assert "intercepted" not in error.detail


def test_a_member_cannot_stand_in_for_the_coordinator(service: Loopback, authority: Authority) -> None:
    mallory = service.member("localhost")
    posing = replace(authority, server_certificate=mallory.certificate, server_key=mallory.keys.tls)
    with coordinator(authority, served=posing) as impostor:
        address = f"localhost:{impostor.listeners.address.rpartition(':')[2]}"
        with Channel(replace(service.member("alice"), addresses=(address,))) as channel:
            assert refused(lambda: channel.handshake(hello())).code == "E-NET-TLS"


def test_a_host_that_the_certificate_does_not_name_is_refused() -> None:
    authority = new_authority(hosts=("coordinator.example",))
    with coordinator(authority) as service, Channel(service.member("alice")) as channel:
        error = refused(lambda: channel.handshake(hello()))
    assert error.code == "E-NET-TLS"
    assert f"not for {HOST}" in error.detail


def test_members_ask_for_the_services_health(service: Loopback, alice: Identity) -> None:
    credentials = grpc.ssl_channel_credentials(alice.authority, alice.keys.tls.reveal(), alice.certificate)
    with grpc.secure_channel(alice.addresses[0], credentials) as raw:
        stub = health_pb2_grpc.HealthStub(raw)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=transport.FEDERATION.full_name), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_newcomers_listener_offers_nothing_but_enrolment(service: Loopback, alice: Identity) -> None:
    with Channel(replace(alice, addresses=(service.listeners.enrolment_address,))) as channel:
        error = refused(lambda: channel.handshake(hello()))
    assert (type(error), error.code) == (PeerError, "E-VERSION")
    assert "does not offer the call Handshake" in error.detail


# --- what the network does ---


def test_a_coordinator_that_is_not_there_is_named_and_the_next_address_is_dialled(
    service: Loopback, alice: Identity
) -> None:
    with Channel(replace(alice, addresses=(f"{HOST}:{free_ports(1)[0]}", *alice.addresses))) as channel:
        error = refused(lambda: list(channel.poll([], 0)))
        assert (type(error), error.code) == (NetworkError, "E-NET-REFUSED")
        assert channel.handshake(hello())


def test_a_short_call_dials_each_address_once_before_it_fails(service: Loopback, alice: Identity) -> None:
    nobody = tuple(f"{HOST}:{port}" for port in free_ports(2))
    with Channel(replace(alice, addresses=(*nobody, *alice.addresses))) as channel:
        assert channel.handshake(hello())
    with Channel(replace(alice, addresses=nobody)) as channel:
        assert refused(lambda: channel.handshake(hello())).code == "E-NET-REFUSED"
        channel.use(replace(alice, addresses=(*nobody, *alice.addresses)))
        assert channel.handshake(hello()), "the addresses that count are those of now"


def test_a_coordinator_elsewhere_is_dialled_if_the_invitation_named_it_and_no_other_ever_is(
    authority: Authority,
) -> None:
    with coordinator(authority) as first, coordinator(authority) as second:
        (here,), (there,) = first.member("alice").addresses, second.member("alice").addresses
        nobody = f"{HOST}:{free_ports(1)[0]}"
        alice = replace(first.member("alice"), addresses=(here, nobody, there))
        first.backend.refusal = led_elsewhere("alice", there)
        with Channel(alice) as channel:
            assert refused(lambda: list(channel.poll([], 0))).code == "E-NET-ELSEWHERE"
            assert list(channel.poll([], 0)) == []  # there: nobody would have refused it
        with Channel(replace(alice, addresses=(here, nobody))) as channel:
            assert refused(lambda: list(channel.poll([], 0))).code == "E-NET-ELSEWHERE"
            assert refused(lambda: list(channel.poll([], 0))).code == "E-NET-REFUSED"


def test_a_name_that_does_not_resolve_is_named(service: Loopback, alice: Identity) -> None:
    with Channel(replace(alice, addresses=("coordinator.invalid:8443",))) as channel:
        assert refused(lambda: channel.handshake(hello())).code == "E-NET-DNS"


def test_a_channel_outlives_a_restart_of_the_coordinator(authority: Authority) -> None:
    with coordinator(authority) as service:
        alice = service.member("alice")
        channel = Channel(alice)
        assert channel.handshake(hello())
    assert refused(lambda: channel.handshake(hello())).code in {"E-NET-REFUSED", "E-NET-LOST"}
    with coordinator(authority, address=alice.addresses[0]):
        assert channel.handshake(hello())
    channel.close()


def test_a_closed_channel_says_so(alice: Identity) -> None:
    channel = Channel(alice)
    channel.close()
    assert refused(lambda: channel.handshake(hello())).code == "E-NET-LOST"


def test_calls_go_through_a_proxy_if_one_is_configured_and_only_then(
    service: Loopback, alice: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://{HOST}:{free_ports(1)[0]}")
    with Channel(alice) as direct:
        assert direct.handshake(hello())
    with relay(None) as proxy:
        with Channel(alice, proxy=f"http://user:secret@{proxy.address}") as channel:
            assert channel.handshake(hello())
        assert proxy.targets == [alice.addresses[0]]
        eve = service.member("eve", now=time.time() - FIVE_YEARS)
        with Channel(eve, proxy=f"http://{proxy.address}") as channel:
            assert "certificate expired at" in refused(lambda: channel.handshake(hello("eve"))).detail


def test_a_dead_proxy_is_told_as_such_and_not_as_a_silent_coordinator(service: Loopback, alice: Identity) -> None:
    dead = f"{HOST}:{free_ports(1)[0]}"
    with Channel(alice, proxy=f"http://anna:secret@{dead}") as channel:
        error = refused(lambda: channel.handshake(hello()))
    assert (error.code, error.detail) == ("E-NET-PROXY", f"the proxy {dead}: it does not answer: Connection refused")
    invitation = service.invitation("nora")
    request = identity.enrolment_request(invitation, identity.new_keys(SeededRandom("nora")))
    assert refused(lambda: enrol(invitation, request, proxy=f"http://{dead}")).code == "E-NET-PROXY"


def test_an_address_in_use_is_refused(service: Loopback, authority: Authority) -> None:
    error = refused(lambda: coordinator(authority, address=service.listeners.address).__enter__())
    assert error.code == "E-PORT"


class Relay:
    """Passes bytes on; cuts connections after so many bytes; without a target it is a proxy of HTTPS CONNECT."""

    def __init__(self, target: str | None, cut_after: int | None, cuts: int | None) -> None:
        self.target = target
        self.cut_after = cut_after
        self.cuts_left = cuts
        self.targets: list[str] = []
        self._server = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        target = self.target or self._connect(caller)
        host, _, port = target.rpartition(":")
        callee = socket.create_connection((host, int(port)))
        threading.Thread(target=self._pump, args=(callee, caller, None), daemon=True).start()
        self._pump(caller, callee, self.cut_after)

    def _connect(self, caller: socket.socket) -> str:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += caller.recv(1)
        target = head.split(b" ", 2)[1].decode()
        self.targets.append(target)
        caller.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return target

    def _pump(self, source: socket.socket, sink: socket.socket, cut_after: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
                passed += len(data)
                if cut_after is not None and passed > cut_after and self._may_cut():
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _may_cut(self) -> bool:
        if self.cuts_left is None:
            return True
        self.cuts_left -= 1
        return self.cuts_left >= 0


@contextlib.contextmanager
def relay(target: str | None, *, cut_after: int | None = None, cuts: int | None = None) -> Iterator[Relay]:
    """Run a relay."""
    running = Relay(target, cut_after, cuts)
    try:
        yield running
    finally:
        running.close()
