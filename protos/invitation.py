"""The invitation: one copyable line that lets one newcomer enrol once, and what it signs when it does.

Guarantees: a line that was cut or changed is refused before anything is sent; it pins the authority, the operator's key
and the federation's name by their hash, so that nothing is trusted on first use, and the coordinator shows them to
whoever dials; its secret never shows in a repr.
Leaves to others: whether the token is known, unused and in time (the coordinator alone can say).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from privacy import canonical, patterns
from privacy.errors import LocalError
from privacy.plan_parts import Hex256, Name, PlanModel
from privacy.secagg.keys import framed
from privacy.secret import SecretBytes
from protos.envelope import Role

LABEL_ENROLMENT: Final = b"onlysum/1/enrolment"
LABEL_LEAVING: Final = b"onlysum/1/leaving"
LABEL_TOKEN: Final = b"onlysum/1/token-secret"
LABEL_INTRODUCTION: Final = b"onlysum/1/introduction"
PREFIX: Final = "onlysum2-"
# The extension of the server's certificate in which a newcomer finds what its invitation pins; an arc made from a UUID
# (X.667), which needs no registry.
INTRODUCTION_OID: Final = "2.25.47137213582917386012597236416508215"
CHECKSUM_BYTES: Final = 4  # against copying mistakes, not against forgers
TOKEN_ID_BYTES: Final = 16
TOKEN_SECRET_BYTES: Final = 32
PIN_BYTES: Final = 32
TIME_BYTES: Final = 6
MAX_LINE: Final = 4096  # characters: eight addresses of each kind; a usual one has fewer than 300
MAX_INTRODUCTION: Final = 8192  # bytes
_ROLES: Final = (Role.PARTICIPANT, Role.EVALUATOR)
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a newcomer needs to enrol, and whom it will trust from then on."""

    federation: str
    name: str
    role: Role
    token_id: str  # 32 hex digits
    secret: SecretBytes
    enrolment_addresses: tuple[str, ...]  # host:port, tried in order
    addresses: tuple[str, ...]
    authority: bytes  # DER certificate of the coordinator's CA
    operator_key: bytes  # Ed25519, signs plans
    expires_at: int  # seconds since the Unix epoch


def is_address(value: str) -> bool:
    """Return whether a text is ``host:port``, with an IPv6 host in brackets."""
    parts = _ADDRESS.fullmatch(value)
    return parts is not None and 1 <= int(parts[2]) <= 65_535


def _address(value: str) -> str:
    if not is_address(value):
        raise ValueError("an address is host:port")
    return value


_Addresses = Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], Field(min_length=1, max_length=8)]


class _Line(PlanModel):
    """What of a line is text."""

    name: Name
    enrolment_addresses: _Addresses
    addresses: _Addresses


class _Introduction(PlanModel):
    """What a coordinator shows of itself; bytes are hex or base64, because the whole is JSON in canonical form."""

    authority: Annotated[str, StringConstraints(pattern=patterns.BASE64)]
    federation: Name
    operator_key: Hex256


def introduction(*, federation: str, authority: bytes, operator_key: bytes) -> bytes:
    """Return what a coordinator shows of itself to whoever dials it, and what every line of its invitations pins.

    Args:
        federation: its name.
        authority: DER certificate of its CA.
        operator_key: Ed25519, signs plans.
    """
    fields = {"authority": base64.b64encode(authority).decode(), "federation": federation}
    return canonical.encode({**fields, "operator_key": operator_key.hex()})


@dataclass(frozen=True, slots=True)
class InvitationLine:
    """What fits on the line that a newcomer gets; ``pin`` says which coordinator shows the rest."""

    name: str
    role: Role
    token_id: str  # 32 hex digits
    secret: SecretBytes
    enrolment_addresses: tuple[str, ...]
    addresses: tuple[str, ...]
    pin: bytes  # SHA-256 of the introduction
    expires_at: int  # seconds since the Unix epoch

    def completed(self, shown: bytes) -> Invitation:
        """Return the whole invitation, with what the coordinator showed of itself.

        Raises:
            ValueError: it is not what the line pins.
        """
        if len(shown) > MAX_INTRODUCTION or _pin(shown) != self.pin:
            raise ValueError("another coordinator than the one that invited")
        fields = _Introduction.model_validate_json(shown)
        return Invitation(
            federation=fields.federation,
            name=self.name,
            role=self.role,
            token_id=self.token_id,
            secret=self.secret,
            enrolment_addresses=self.enrolment_addresses,
            addresses=self.addresses,
            authority=base64.b64decode(fields.authority, validate=True),
            operator_key=bytes.fromhex(fields.operator_key),
            expires_at=self.expires_at,
        )


def encode_invitation(invitation: Invitation) -> str:
    """Return the line that the operator sends to the newcomer over a private channel."""
    shown = introduction(
        federation=invitation.federation, authority=invitation.authority, operator_key=invitation.operator_key
    )
    host = invitation.enrolment_addresses[0].rpartition(":")[0]
    texts = (
        invitation.name,
        ",".join(invitation.enrolment_addresses),
        ",".join(address.removeprefix(host) for address in invitation.addresses),
    )
    document = b"".join(
        (
            bytes.fromhex(invitation.token_id),
            invitation.secret.reveal(),
            _pin(shown),
            bytes([_ROLES.index(invitation.role)]),
            invitation.expires_at.to_bytes(TIME_BYTES),
            "\n".join(texts).encode(),
        )
    )
    return PREFIX + base64.urlsafe_b64encode(document + _checksum(document)).rstrip(b"=").decode()


def decode_invitation(line: str) -> InvitationLine:
    """Parse a line; white space in it, as mail programs add it, is ignored.

    Raises:
        LocalError: ``E-TOKEN-INVALID``, it was cut, changed or is no invitation.
    """
    try:
        return _read(_document("".join(line.split())))
    except (ValidationError, ValueError, IndexError):
        # no detail of what the line holds: it is secret
        raise LocalError("E-TOKEN-INVALID", "the line is no invitation, or was cut or changed in copying") from None


def _read(document: bytes) -> InvitationLine:
    source = io.BytesIO(document)
    token_id, secret, pin = source.read(TOKEN_ID_BYTES), source.read(TOKEN_SECRET_BYTES), source.read(PIN_BYTES)
    role, expires_at = _ROLES[source.read(1)[0]], int.from_bytes(source.read(TIME_BYTES))
    name, enrolment, members = source.read().decode("ascii").split("\n")
    host = enrolment.split(",")[0].rpartition(":")[0]
    addresses = [host + address if address.startswith(":") else address for address in members.split(",")]
    fields = _Line.model_validate(
        {"name": name, "enrolment_addresses": tuple(enrolment.split(",")), "addresses": tuple(addresses)}
    )
    return InvitationLine(
        name=fields.name,
        role=role,
        token_id=token_id.hex(),
        secret=SecretBytes(secret),
        enrolment_addresses=fields.enrolment_addresses,
        addresses=fields.addresses,
        pin=pin,
        expires_at=expires_at,
    )


def _pin(shown: bytes) -> bytes:
    return hashlib.sha256(framed(LABEL_INTRODUCTION, shown)).digest()


def _document(line: str) -> bytes:
    if not line.startswith(PREFIX) or len(line) > MAX_LINE or not line.isascii():
        raise ValueError("no invitation")
    body = line.removeprefix(PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != body:
        raise ValueError("not base64url as it is written here")  # the last letter may have bits that say nothing
    document, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if checksum != _checksum(document):
        raise ValueError("wrong checksum")
    return document


def _checksum(document: bytes) -> bytes:
    return hashlib.sha256(document).digest()[:CHECKSUM_BYTES]


def token_hash(token_id: str, secret: SecretBytes) -> bytes:
    """Return what a coordinator stores of a token: SHA-256, enough for a secret of 256 random bits."""
    return hashlib.sha256(framed(LABEL_TOKEN, token_id.encode(), secret.reveal())).digest()


def leaving_bytes(*, federation: str, name: str) -> bytes:
    """Return the string that an identity key signs when its member leaves; it ends this key's membership and no other.

    Args:
        federation: name of the federation.
        name: the member's.
    """
    return framed(LABEL_LEAVING, federation.encode(), name.encode())


def enrolment_bytes(*, federation: str, token_id: str, name: str, tls_key: bytes) -> bytes:
    """Return the string by which an identity key vouches for a TLS key at enrolment.

    Args:
        federation: name of the federation.
        token_id: 32 hex digits.
        name: the newcomer's.
        tls_key: DER SubjectPublicKeyInfo of its TLS key.
    """
    hashed = hashlib.sha256(tls_key).digest()
    return framed(LABEL_ENROLMENT, federation.encode(), token_id.encode(), name.encode(), hashed)
