"""Domain values to bytes and back: the only way between the wire and everything else.

Guarantees: a ``decode_*`` makes a valid frozen value of its bytes or raises ``PeerError`` (``E-WIRE-MALFORMED`` naming
the field, ``E-VERSION`` naming both versions) that blames the sender, and raises nothing else;
``encode_*`` of a valid value gives its one canonical form, which decodes to an equal value. A version is looked at
before anything else, so that a message of another version of the protocol is never reported as a malformed one.
Leaves to others: chunks (``codec_transport``), errors (``status``), whether a message is allowed now.
"""

from __future__ import annotations

from typing import Final

from privacy.errors import LocalError, PeerError, Phase
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.hashes import HASH_BYTES
from privacy.secagg.keys import KEY_BYTES, SIGNATURE_BYTES
from privacy.secagg.messages import RoundCertificate
from privacy.secret import SecretBytes
from protos import codec_heads as heads
from protos import codec_round as rounds
from protos import codec_task as tasks
from protos import envelope as env
from protos import federation_pb2 as pb
from protos import round_pb2
from protos.codec_fields import (
    COORDINATOR,
    Malformed,
    ascending,
    bounded,
    count,
    each,
    exact,
    leading_number,
    name,
    parse,
    part,
    read,
    run_id,
    text,
    write,
)
from protos.codec_renewal import MAX_CLOCK, read_notice, write_notice

MAX_UNARY_BYTES: Final = 2**20  # of a message that travels whole: a member list of 4096 has 450 KiB
MAX_SUBMISSION_BYTES: Final = 2**23  # a bundle for a roster of 4096 has 1 MiB
MAX_TASK_BYTES: Final = 2**28  # the history of hundreds of rounds of a large cohort
PLAIN_TASK_BYTES: Final = tasks.MAX_PLAN_BYTES + 2**16  # of a task without history; 4096 advertisements have 11 MiB
HISTORY_MEMBER_BYTES: Final = 384  # of a member of a roster in a certificate: a survivor and a signature
MAX_CERTIFICATE_BYTES: Final = 2**16  # requests and certificates have less than 2 KiB
MAX_LAST_HEADS: Final = 1024  # runs of a member, the newest; of 400 bytes each, beside a member list
MAX_VERSION_TEXT: Final = 100  # characters of a software version
TOKEN_SECRET_BYTES: Final = 32
_ROLES: Final = {
    pb.ROLE_PARTICIPANT: env.Role.PARTICIPANT,
    pb.ROLE_EVALUATOR: env.Role.EVALUATOR,
}
_ROLE_NUMBERS: Final = {role: number for number, role in _ROLES.items()}


# --- tasks, submissions, and what a store keeps ---


def encode_task(value: env.NumberedTask) -> bytes:
    """Return the bytes of a task with its id."""
    return write(tasks.write_task(value), most=MAX_TASK_BYTES)


def decode_task(data: bytes) -> env.NumberedTask:
    """Return a task with its id; the coordinator is to blame for what is wrong with it."""
    return read(pb.NumberedTask, data, tasks.read_task, sender=COORDINATOR, most=MAX_TASK_BYTES)


def task_limit(*, members: int, rounds: int) -> int:
    """Return how many bytes a task of a run may have: the longest history that a roster of this size can have."""
    return min(MAX_TASK_BYTES, PLAIN_TASK_BYTES + rounds * (members + 1) * HISTORY_MEMBER_BYTES)


def encode_submission(value: env.Submission) -> bytes:
    """Return the bytes of a submission.

    Raises:
        LocalError: ``E-BUG``, it is one that the coordinator would refuse.
    """
    data = write(tasks.write_submission(value), most=MAX_SUBMISSION_BYTES)
    try:  # small, and made once per phase: refused here, it is plainly this side's bug
        tasks.read_submission(parse(pb.Submission, data, MAX_SUBMISSION_BYTES))
    except Malformed as error:
        raise LocalError("E-BUG", f"Submission: {error}") from None
    return data


def encode_record(value: env.Submission) -> bytes:
    """Return the bytes of a submission that was decoded here, for a journal: it is known to be valid."""
    return write(tasks.write_submission(value), most=MAX_SUBMISSION_BYTES)


def message_alone(data: bytes, value: env.MessageWithHeads) -> bytes:
    """Return the bytes of a message without its heads, which are the last field of its one form ``data``."""
    return data[: len(data) - len(pb.Submission(heads=heads.write_heads(value.heads)).SerializeToString())]


def decode_submission(data: bytes, *, sender: str) -> env.Submission:
    """Return a member's submission; whoever it names as its sender is compared with the caller elsewhere."""
    return read(pb.Submission, data, tasks.read_submission, sender=sender, most=MAX_SUBMISSION_BYTES)


def encode_certificate(value: RoundCertificate) -> bytes:
    """Return the bytes of a round's certificate."""
    return write(rounds.write_certificate(value), most=MAX_SUBMISSION_BYTES)


def decode_certificate(data: bytes, *, sender: str) -> RoundCertificate:
    """Return a round's certificate."""
    return read(round_pb2.RoundCertificate, data, rounds.read_certificate, sender=sender, most=MAX_SUBMISSION_BYTES)


# --- enrolment ---


def encode_enrolment(value: env.Enrolment) -> bytes:
    """Return the bytes of a newcomer's request."""
    message = pb.EnrolmentRequest(
        protocol_version=value.protocol_version,
        token_id=value.token_id,
        token_secret=value.token_secret.reveal(),
        name=value.name,
        certificate_request=value.certificate_request,
        identity_key=value.identity_key,
        identity_signature=value.identity_signature,
    )
    return write(message, most=MAX_UNARY_BYTES)


def decode_enrolment(data: bytes, *, sender: str) -> env.Enrolment:
    """Return a newcomer's request, or raise ``E-VERSION`` or ``E-WIRE-MALFORMED``."""
    _check_version(data, sender)
    return read(pb.EnrolmentRequest, data, _read_enrolment, sender=sender, most=MAX_UNARY_BYTES)


def _read_enrolment(message: pb.EnrolmentRequest) -> env.Enrolment:
    return env.Enrolment(
        protocol_version=_version(message.protocol_version),
        token_id=run_id(message.token_id, "token_id"),
        token_secret=SecretBytes(exact(message.token_secret, TOKEN_SECRET_BYTES, "token_secret")),
        name=name(message.name, "name"),
        certificate_request=bounded(message.certificate_request, MAX_CERTIFICATE_BYTES, "certificate_request"),
        identity_key=exact(message.identity_key, KEY_BYTES, "identity_key"),
        identity_signature=exact(message.identity_signature, SIGNATURE_BYTES, "identity_signature"),
    )


def encode_membership(value: env.Membership) -> bytes:
    """Return the bytes of the answer to an enrolment."""
    message = pb.Membership(
        federation=value.federation,
        name=value.name,
        role=_ROLE_NUMBERS[value.role],
        certificate=value.certificate,
        authority=value.authority,
    )
    return write(message, most=MAX_UNARY_BYTES)


def decode_membership(data: bytes) -> env.Membership:
    """Return the answer to an enrolment."""
    return read(pb.Membership, data, _read_membership, sender=COORDINATOR, most=MAX_UNARY_BYTES)


def _read_membership(message: pb.Membership) -> env.Membership:
    return env.Membership(
        federation=name(message.federation, "federation"),
        name=name(message.name, "name"),
        role=_role(message.role),
        certificate=bounded(message.certificate, MAX_CERTIFICATE_BYTES, "certificate"),
        authority=bounded(message.authority, MAX_CERTIFICATE_BYTES, "authority"),
    )


def _role(number: pb.Role.ValueType) -> env.Role:
    if number not in _ROLES:
        raise Malformed("role is unknown")
    return _ROLES[number]


# --- handshake ---


def encode_hello(value: env.Hello) -> bytes:
    """Return the bytes of a daemon's first words."""
    message = pb.Hello(
        protocol_version=value.protocol_version,
        software_version=value.software_version,
        member=value.member,
        role=_ROLE_NUMBERS[value.role],
        ledger_head=heads.write_ledger_head(value.ledger_head),
        datasets=[pb.DatasetOffer(name=dataset.name, units=dataset.units) for dataset in value.datasets],
    )
    return write(message, most=MAX_UNARY_BYTES)


def decode_hello(data: bytes, *, sender: str) -> env.Hello:
    """Return a daemon's first words, or raise ``E-VERSION`` or ``E-WIRE-MALFORMED``."""
    _check_version(data, sender)
    return read(pb.Hello, data, _read_hello, sender=sender, most=MAX_UNARY_BYTES)


def _read_hello(message: pb.Hello) -> env.Hello:
    datasets = each(message.datasets, "datasets", _read_dataset)
    ascending((dataset.name for dataset in datasets), "datasets")
    return env.Hello(
        protocol_version=_version(message.protocol_version),
        software_version=text(message.software_version, "software_version", most=MAX_VERSION_TEXT),
        member=name(message.member, "member"),
        role=_role(message.role),
        ledger_head=part(message, "ledger_head", heads.read_ledger_head),
        datasets=datasets,
    )


def _read_dataset(message: pb.DatasetOffer) -> env.DatasetOffer:
    return env.DatasetOffer(name=name(message.name, "name"), units=count(message.units, "units", least=1))


def encode_welcome(value: env.Welcome) -> bytes:
    """Return the bytes of the coordinator's answer to a handshake."""
    message = pb.Welcome(
        protocol_version=value.protocol_version,
        software_version=value.software_version,
        federation=value.federation,
        ledger_head=heads.write_ledger_head(value.ledger_head),
        last_heads=[heads.write_heads(shown) for shown in value.last_heads],
        members=[
            pb.MemberEntry(name=member.name, role=_ROLE_NUMBERS[member.role], identity_key=member.identity_key)
            for member in value.members
        ],
        authority=value.authority,
        addresses=None if value.addresses is None else write_notice(value.addresses),
        clock=value.clock,
    )
    return write(message, most=MAX_UNARY_BYTES)


def decode_welcome(data: bytes) -> env.Welcome:
    """Return the coordinator's answer to a handshake, or raise ``E-VERSION`` or ``E-WIRE-MALFORMED``."""
    _check_version(data, COORDINATOR)
    return read(pb.Welcome, data, _read_welcome, sender=COORDINATOR, most=MAX_UNARY_BYTES)


def _read_welcome(message: pb.Welcome) -> env.Welcome:
    return env.Welcome(
        protocol_version=_version(message.protocol_version),
        software_version=text(message.software_version, "software_version", most=MAX_VERSION_TEXT),
        federation=name(message.federation, "federation"),
        ledger_head=part(message, "ledger_head", heads.read_ledger_head),
        last_heads=each(message.last_heads, "last_heads", heads.read_heads, most=MAX_LAST_HEADS),
        members=each(message.members, "members", _read_member),
        clock=count(message.clock, "clock", most=MAX_CLOCK),
        authority=exact(message.authority, HASH_BYTES, "authority") if message.authority else b"",
        addresses=part(message, "addresses", read_notice) if message.HasField("addresses") else None,
    )


def _read_member(message: pb.MemberEntry) -> env.MemberEntry:
    return env.MemberEntry(
        name=name(message.name, "name"),
        role=_role(message.role),
        identity_key=exact(message.identity_key, KEY_BYTES, "identity_key"),
    )


def _check_version(data: bytes, sender: str) -> None:
    """Raise ``E-VERSION`` if bytes announce another version of the protocol, whatever else is in them.

    The version is field 1, and so first: nothing else is parsed before it is known.
    """
    try:
        version = leading_number(data)
    except Malformed:
        return  # the strict reader says what is wrong
    if version != PROTOCOL_VERSION:
        rule = f"{sender} speaks protocol version {version}, the other side version {PROTOCOL_VERSION}"
        raise PeerError.by_participant(sender, "E-VERSION", Phase.HANDSHAKE, rule)


def _version(number: int) -> int:
    if number != PROTOCOL_VERSION:
        raise Malformed("protocol_version is missing")
    return number
