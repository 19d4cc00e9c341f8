"""The invitation: one copyable line that lets one newcomer enrol once, and what it signs when it does.

Guarantees: a line that was cut or changed is refused before anything is sent; it carries the authority and the
operator's key, so that nothing is trusted on first use; its secret never shows in a repr.
Leaves to others: whether the token is known, unused and in time (the coordinator alone can say).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from privacy import canonical, patterns
from privacy.errors import LocalError
from privacy.plan_parts import Count, Hex128, Hex256, Name, PlanModel
from privacy.secagg.keys import framed
from privacy.secret import SecretBytes
from protos.envelope import Role

LABEL_ENROLMENT: Final = b"onlysum/1/enrolment"
LABEL_LEAVING: Final = b"onlysum/1/leaving"
LABEL_TOKEN: Final = b"onlysum/1/token-secret"
PREFIX: Final = "onlysum1-"
CHECKSUM_BYTES: Final = 4  # against copying mistakes, not against forgers
TOKEN_ID_BYTES: Final = 16
TOKEN_SECRET_BYTES: Final = 32
MAX_LINE: Final = 16_384  # characters
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
    """The JSON inside a line; bytes are hex or base64, because the whole is JSON in canonical form."""

    federation: Name
    name: Name
    role: Literal["participant", "evaluator"]
    token_id: Hex128
    secret: Hex256
    enrolment_addresses: _Addresses
    addresses: _Addresses
    authority: Annotated[str, StringConstraints(pattern=patterns.BASE64)]
    operator_key: Hex256
    expires_at: Count


def encode_invitation(invitation: Invitation) -> str:
    """Return the line that the operator sends to the newcomer over a private channel."""
    document = canonical.encode(
        {
            "federation": invitation.federation,
            "name": invitation.name,
            "role": invitation.role.value,
            "token_id": invitation.token_id,
            "secret": invitation.secret.reveal().hex(),
            "enrolment_addresses": list(invitation.enrolment_addresses),
            "addresses": list(invitation.addresses),
            "authority": base64.b64encode(invitation.authority).decode(),
            "operator_key": invitation.operator_key.hex(),
            "expires_at": invitation.expires_at,
        }
    )
    return PREFIX + base64.urlsafe_b64encode(document + _checksum(document)).rstrip(b"=").decode()


def decode_invitation(line: str) -> Invitation:
    """Parse a line; white space in it, as mail programs add it, is ignored.

    Raises:
        LocalError: ``E-TOKEN-INVALID``, it was cut, changed or is no invitation.
    """
    try:
        document = _document("".join(line.split()))
        canonical.decode(document)
        fields = _Line.model_validate_json(document)
        authority = base64.b64decode(fields.authority, validate=True)
    except (ValidationError, ValueError):
        # no detail of what the line holds: it is secret
        raise LocalError("E-TOKEN-INVALID", "the line is no invitation, or was cut or changed in copying") from None
    return Invitation(
        federation=fields.federation,
        name=fields.name,
        role=Role(fields.role),
        token_id=fields.token_id,
        secret=SecretBytes(bytes.fromhex(fields.secret)),
        enrolment_addresses=fields.enrolment_addresses,
        addresses=fields.addresses,
        authority=authority,
        operator_key=bytes.fromhex(fields.operator_key),
        expires_at=fields.expires_at,
    )


def _document(line: str) -> bytes:
    if not line.startswith(PREFIX) or len(line) > MAX_LINE or not line.isascii():
        raise ValueError("no invitation")
    body = line.removeprefix(PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
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
