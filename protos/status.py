"""Errors across the wire: a typed error raised on one side arrives as the same typed error on the other.

Guarantees: code, blame and rule travel in trailing metadata and are read as strictly as any other message; whatever
gRPC itself reports becomes a ``NetworkError`` whose code names the class of the failure. What went wrong inside the
coordinator (a bug, a full disk) travels as ``E-NET-FAILED`` without detail: it is nobody else's business or fault.
Leaves to others: finding out why TLS failed (``participant.link.tls_diagnosis``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeVar, cast

import grpc

from privacy.error_codes import Fault
from privacy.errors import NetworkError, OnlysumError, PeerError, Phase, RefusedError, RoundAborted, VerificationError
from privacy.printable import first_unprintable, printable
from protos import federation_pb2 as pb
from protos.codec_fields import Malformed, code, parse, text, write

_LED_AT: Final = "its runs are led at "
_LED_NOWHERE: Final = "nobody leads its runs at the moment"
METADATA_KEY: Final = "onlysum-error-bin"
MAX_DETAIL_BYTES: Final = 4096  # gRPC takes 8 KiB of metadata in all
MAX_TEXT: Final = 900  # characters, of up to four bytes; what is longer is cut
MAX_WORD: Final = 64  # characters of a name or phase

_STATUS: Final = {
    Fault.BUG: grpc.StatusCode.INTERNAL,
    Fault.USAGE: grpc.StatusCode.INVALID_ARGUMENT,
    Fault.REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    Fault.PEER: grpc.StatusCode.FAILED_PRECONDITION,
    Fault.NETWORK: grpc.StatusCode.UNAVAILABLE,
    Fault.VERIFICATION: grpc.StatusCode.DATA_LOSS,
}

# What gRPC core writes into the details of UNAVAILABLE, by class; the first that matches counts.
_UNAVAILABLE: Final = (
    ("E-NET-DNS", re.compile(r"dns|resolv|resolution|getaddrinfo|domain name", re.IGNORECASE)),
    # A coordinator that refuses a member's certificate just closes: under TLS 1.3 the member's own handshake was over.
    (
        "E-NET-TLS",
        re.compile(
            r"\bssl|\btls|certificate|handshake|verification|failed to connect.*(closed|reset|eof)", re.IGNORECASE
        ),
    ),
    ("E-NET-TIMEOUT", re.compile(r"timed out|timeout|deadline", re.IGNORECASE)),
    ("E-NET-REFUSED", re.compile(r"refused|unreachable|no route|failed to connect|proxy", re.IGNORECASE)),
)

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error in the form in which gRPC sends it."""

    status: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, str | bytes], ...]


def led_elsewhere(member: str, address: str) -> NetworkError:
    """Return what a coordinator answers that does not lead a member's runs; the address is empty if nobody leads them.

    The address is in the text, where members of older software show it and dial their next one.
    """
    return NetworkError("E-NET-ELSEWHERE", f"{member}: {_LED_AT}{address}" if address else f"{member}: {_LED_NOWHERE}")


def leader_address(error: OnlysumError) -> str:
    """Return where :func:`led_elsewhere` sends a member; empty if it names no address, or is another error."""
    return error.detail.partition(_LED_AT)[2] if error.code == "E-NET-ELSEWHERE" else ""


def to_refusal(error: OnlysumError) -> Refusal:
    """Return what the service answers when this error was raised."""
    match error:
        case PeerError():
            who = _shown(error.participant, most=MAX_WORD)
            detail = pb.ErrorDetail(kind=pb.ErrorDetail.KIND_PEER, participant=who, phase=error.phase)
            detail.text = _shown(error.rule)
        case RoundAborted():
            detail = pb.ErrorDetail(kind=pb.ErrorDetail.KIND_ABORTED, text=_shown(error.reason))
        case RefusedError():
            detail = pb.ErrorDetail(kind=pb.ErrorDetail.KIND_REFUSED, text=_shown(error.detail))
        case VerificationError():
            detail = pb.ErrorDetail(kind=pb.ErrorDetail.KIND_VERIFICATION, text=_shown(error.detail))
        case NetworkError():
            detail = pb.ErrorDetail(kind=pb.ErrorDetail.KIND_NETWORK, text=_shown(error.detail))
        case _:
            return to_refusal(NetworkError("E-NET-FAILED", "the coordinator met an error of its own; its log has it"))
    detail.code = error.code
    metadata = ((METADATA_KEY, write(detail, most=MAX_DETAIL_BYTES)),)
    return Refusal(_STATUS[error.explanation.fault], error.code, metadata)


def _shown(value: str, *, most: int = MAX_TEXT) -> str:
    cut = printable(value)[:most]
    return cut if first_unprintable(cut) is None else cut[:-1]  # a joiner at the end joins nothing


def from_call(error: grpc.RpcError, *, call: str) -> OnlysumError:
    """Return the error that the service raised, or the class of the network's failure.

    Args:
        error: what a call raised.
        call: its name, for the message.
    """
    made = cast("grpc.Call", error)  # every RpcError that a call raises is also that call
    for key, value in made.trailing_metadata() or ():
        if key == METADATA_KEY and isinstance(value, bytes):
            return _from_detail(value)
    status, details = made.code(), _shown(made.details() or "")
    if status is grpc.StatusCode.UNIMPLEMENTED:
        rule = f"the other side does not offer the call {call}: another version, or no coordinator at all"
        return PeerError.by_coordinator("E-VERSION", Phase.HANDSHAKE, rule)
    return NetworkError(classify(status, details), f"{call}: {status.name}: {details}")


def classify(status: grpc.StatusCode, details: str) -> str:
    """Return the code of the class to which a failure of gRPC itself belongs."""
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "E-NET-TIMEOUT"
    if status is grpc.StatusCode.UNAVAILABLE:
        return next((network_code for network_code, pattern in _UNAVAILABLE if pattern.search(details)), "E-NET-LOST")
    return "E-NET-LOST"


def _from_detail(data: bytes) -> OnlysumError:
    try:
        return _read_detail(parse(pb.ErrorDetail, data, MAX_DETAIL_BYTES))
    except Malformed as error:
        rule = f"an error does not parse: {error}"
        return PeerError.by_coordinator("E-WIRE-MALFORMED", Phase.WIRE, rule)


def _phase(name: str) -> Phase:
    try:
        return Phase(name)
    except ValueError:
        raise Malformed("phase is unknown") from None


def _read_detail(detail: pb.ErrorDetail) -> OnlysumError:
    error_code, words = code(detail.code), text(detail.text, "text", most=MAX_TEXT)
    match detail.kind:
        case pb.ErrorDetail.KIND_PEER:
            who = text(detail.participant, "participant", most=MAX_WORD)
            return PeerError.by_participant(who, error_code, _phase(detail.phase), words)
        case pb.ErrorDetail.KIND_ABORTED:
            return RoundAborted(error_code, words)
        case pb.ErrorDetail.KIND_REFUSED:
            return RefusedError(error_code, words)
        case pb.ErrorDetail.KIND_VERIFICATION:
            return VerificationError(error_code, words)
        case pb.ErrorDetail.KIND_NETWORK:
            return NetworkError(error_code, words)
        case _:
            raise Malformed("kind is unknown")
