"""Errors keep their type across the wire, and gRPC's own failures get a class."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy.error_codes import REGISTRY, Fault
from privacy.errors import (
    LocalError,
    NetworkError,
    OnlysumError,
    PeerError,
    Phase,
    RefusedError,
    RoundAborted,
    VerificationError,
)
from privacy.printable import first_unprintable
from protos import federation_pb2 as pb
from protos.status import METADATA_KEY, classify, from_call, to_refusal

Status = grpc.StatusCode


class Failed(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> None:
        super().__init__()
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata


def across(error: OnlysumError) -> OnlysumError:
    refusal = to_refusal(error)
    return from_call(Failed(refusal.status, refusal.details, refusal.metadata), call="Submit")


@pytest.mark.parametrize("code", sorted(REGISTRY))
def test_every_code_crosses(code: str) -> None:
    sent = PeerError(code, participant="alice", phase=Phase.SHARE_KEYS, rule="the rule")
    found = across(sent)
    assert isinstance(found, PeerError)
    assert (found.code, found.participant, found.phase, found.rule) == (code, "alice", "SHARE_KEYS", "the rule")


@pytest.mark.parametrize("kind", [RefusedError, VerificationError, NetworkError, RoundAborted])
def test_every_kind_of_error_crosses(kind: type[OnlysumError]) -> None:
    found = across(kind("E-PLAN-EXPIRED", "it expired"))
    assert (type(found), found.code, found.detail) == (kind, "E-PLAN-EXPIRED", "it expired")


def test_an_error_of_the_coordinators_own_crosses_as_nothing_but_that() -> None:
    found = across(LocalError("E-DISK-FULL", "spool of alice"))
    assert (type(found), found.code) == (NetworkError, "E-NET-FAILED")
    assert "alice" not in found.detail


@example("\N{HEBREW LETTER ALEF}\N{ZERO WIDTH JOINER}" * 450 + "\N{HEBREW LETTER ALEF}", "\U000e0100", Phase.WIRE)
@example("\U0001f600" * 3000, "\U0001f600" * 100, Phase.WIRE)
@given(st.text(max_size=3000), st.text(max_size=100), st.sampled_from(Phase))
def test_whatever_an_error_says_it_arrives_short_and_showable(rule: str, participant: str, phase: Phase) -> None:
    refusal = to_refusal(PeerError("E-ROUND-SET", participant=participant, phase=phase, rule=rule))
    assert sum(len(value) for _, value in refusal.metadata) < 8192 - 512
    found = from_call(Failed(refusal.status, refusal.details, refusal.metadata), call="Submit")
    assert isinstance(found, PeerError)
    assert found.code == "E-ROUND-SET"
    assert first_unprintable(found.rule) is None
    assert found.phase is phase


@given(st.binary(max_size=100))
def test_a_damaged_error_is_the_coordinators_fault(junk: bytes) -> None:
    found = from_call(Failed(Status.INTERNAL, "", ((METADATA_KEY, junk),)), call="Submit")
    assert isinstance(found, OnlysumError)
    if found.code == "E-WIRE-MALFORMED":
        assert found.explanation.fault is Fault.PEER


@pytest.mark.parametrize("field", ["text", "participant", "phase"])
@pytest.mark.parametrize("hostile", ["\x1b[2J", "\u202eon", "a\nb", "\0", "\u200b"])
def test_an_error_that_would_rewrite_the_terminal_is_the_coordinators_fault(hostile: str, field: str) -> None:
    detail = pb.ErrorDetail(kind=pb.ErrorDetail.KIND_PEER, code="E-ROUND-SET", participant="a", phase="wire", text="t")
    setattr(detail, field, hostile)
    data = detail.SerializeToString(deterministic=True)
    found = from_call(Failed(Status.FAILED_PRECONDITION, "", ((METADATA_KEY, data),)), call="Submit")
    assert isinstance(found, PeerError)
    assert found.code == "E-WIRE-MALFORMED"
    assert first_unprintable(found.rule) is None


def test_what_grpc_itself_says_arrives_printable() -> None:
    found = from_call(Failed(Status.UNAVAILABLE, "lost\x1b[2J \u202eon\n\0"), call="Submit")
    assert first_unprintable(found.detail) is None
    assert "lost" in found.detail


CLASSES = {
    "DNS resolution failed for nowhere.invalid:443: Domain name not found": "E-NET-DNS",
    "errors resolving nowhere.invalid:443: [hostname lookup error]": "E-NET-DNS",
    "failed to connect to all addresses; last error: Connection refused": "E-NET-REFUSED",
    "failed to connect to all addresses; last error: No route to host": "E-NET-REFUSED",
    "failed to connect to all addresses; last error: HTTP proxy returned response code 407": "E-NET-REFUSED",
    "failed to connect to all addresses; last error: Tls handshake failed: CERTIFICATE_VERIFY_FAILED": "E-NET-TLS",
    "failed to connect to all addresses; last error: Hostname Verification Check failed.": "E-NET-TLS",
    "failed to connect to all addresses; last error: Socket closed": "E-NET-TLS",
    "failed to connect to all addresses; last error: connection attempt timed out": "E-NET-TIMEOUT",
    "keepalive watchdog timeout": "E-NET-TIMEOUT",
    "Socket closed": "E-NET-LOST",
    "recvmsg:Connection reset by peer": "E-NET-LOST",
}


@pytest.mark.parametrize("details", sorted(CLASSES))
def test_an_unavailable_coordinator_is_classified(details: str) -> None:
    assert classify(Status.UNAVAILABLE, details) == CLASSES[details]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.DEADLINE_EXCEEDED, "E-NET-TIMEOUT"),
        (Status.CANCELLED, "E-NET-LOST"),
        (Status.INTERNAL, "E-NET-LOST"),
        (Status.UNKNOWN, "E-NET-LOST"),
    ],
)
def test_other_failures_are_classified_by_their_status(status: grpc.StatusCode, code: str) -> None:
    found = from_call(Failed(status, "details", None), call="Poll")
    assert (type(found), found.code) == (NetworkError, code)


def test_every_class_of_network_failure_has_an_explanation() -> None:
    assert {code for code in REGISTRY if REGISTRY[code].fault is Fault.NETWORK} >= set(CLASSES.values())
