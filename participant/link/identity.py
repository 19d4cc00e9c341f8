"""Who this participant is: its keys, made here and never sent, and its membership of one federation.

Guarantees: private keys stay in ``identity/`` (0700, files 0600) and out of every log and repr; keys are on disk before
a token is spent on them, so that a crash between the two loses neither; a certificate is accepted only for the own TLS
key and name, under the authority that the invitation carried, or one that follows it.
Leaves to others: the network (``channel``), new certificates (``renewal``), and whether the peers' fingerprints were
compared (``policy``).
Source: docs/protocol.md section 2; docs/wire.md.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from host import credentials
from host.fingerprints import fingerprint
from privacy import canonical
from privacy.errors import LocalError, PeerError, Phase, VerificationError
from privacy.interfaces import RandomSource
from privacy.plan import PROTOCOL_VERSION
from privacy.plan_parts import Hex256, Name, PlanModel, Text
from privacy.secagg.keys import KEY_BYTES, SigningKey
from privacy.secret import SecretBytes
from protos.envelope import Enrolment, Membership, Role
from protos.invitation import Invitation, enrolment_bytes

IDENTITY_KEY: Final = "identity.key"
TLS_KEY: Final = "tls.key"
TLS_CERTIFICATE: Final = "tls.crt"
AUTHORITY: Final = "ca.crt"
MEMBERSHIP: Final = "membership.json"
AUTHORITIES: Final = "authorities.json"  # there once an authority has followed the one in ca.crt: all, newest first
NEXT_KEY: Final = "tls-next.key"  # of a certificate that is asked for, and not used yet
NEXT_CERTIFICATE: Final = "tls-next.crt"
MAX_AUTHORITIES: Final = 16
TRIES: Final = 5  # the daemon may put a renewed pair in place meanwhile: two renames


@dataclass(frozen=True, slots=True)
class Predecessor:
    """An authority that another one follows."""

    certificate: bytes  # PEM
    ends: int  # when it counts no longer, in seconds since the Unix epoch
    followed: bool  # it named its successor itself, and the operator said so too

    @property
    def sha256(self) -> str:
        """The hash of its certificate (DER), in hexadecimal, as a policy names it."""
        return hashlib.sha256(_der(self.certificate)).hexdigest()


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The two private keys of a member."""

    identity: SecretBytes  # 32 bytes, Ed25519: signs what the member says in rounds and approvals
    tls: SecretBytes  # PEM, P-256: what connections are made with

    @property
    def signing(self) -> SigningKey:
        """The identity key."""
        return SigningKey(self.identity)


@dataclass(frozen=True, slots=True)
class Identity:
    """What ``identity/`` holds once a member has enrolled."""

    keys: OwnKeys
    federation: str
    name: str
    role: Role
    addresses: tuple[str, ...]  # host:port of the coordinator, tried in order
    operator_key: bytes  # Ed25519, signs plans; pinned at joining
    certificate: bytes  # PEM
    authority: bytes  # PEM; pinned at joining, or one that followed
    before: tuple[Predecessor, ...] = ()  # the authorities that it follows, newest first
    said_at: int = 0  # when the operator said these addresses; 0: they are the invitation's

    @property
    def signing(self) -> SigningKey:
        """The identity key."""
        return self.keys.signing

    @property
    def fingerprint(self) -> str:
        """The identity key's fingerprint, as peers compare it."""
        return fingerprint(self.signing.public)

    @property
    def authority_der(self) -> bytes:
        """The present authority's certificate, whose fingerprint a policy names."""
        return _der(self.authority)

    @property
    def authority_sha256(self) -> str:
        """The hash of that certificate, in hexadecimal."""
        return hashlib.sha256(self.authority_der).hexdigest()

    @property
    def origin_der(self) -> bytes:
        """The authority's certificate that was pinned at joining: by it a federation is known among others."""
        return _der(self.before[-1].certificate if self.before else self.authority)

    @property
    def followed(self) -> tuple[str, ...]:
        """Hashes of the authorities from which the present one follows without a break, newest first."""
        unbroken = itertools.takewhile(lambda one: one.followed, self.before)
        return tuple(one.sha256 for one in unbroken)

    def roots(self, now: float) -> bytes:
        """Return the authorities (PEM) whose certificates count at a time, in seconds since the Unix epoch."""
        return b"".join((self.authority, *(one.certificate for one in self.before if now < one.ends)))


class _Saved(PlanModel):
    """The form of ``membership.json``."""

    federation: Name
    name: Name
    role: Literal["participant", "evaluator"]
    addresses: tuple[Text, ...]
    operator_key: Hex256
    said_at: int = 0


class _SavedAuthority(PlanModel):
    """One of ``authorities.json``."""

    certificate: str
    ends: int
    followed: bool


class _SavedAuthorities(PlanModel):
    """The form of ``authorities.json``."""

    authorities: Annotated[tuple[_SavedAuthority, ...], Field(min_length=2, max_length=MAX_AUTHORITIES)]


def new_keys(random: RandomSource) -> OwnKeys:
    """Make a member's keys."""
    tls = credentials.tls_key_pem(credentials.new_tls_key(random))
    return OwnKeys(identity=SecretBytes(random.token_bytes(KEY_BYTES)), tls=tls)


def enrolment_request(invitation: Invitation, keys: OwnKeys) -> Enrolment:
    """Return the request by which an invited newcomer enrols with its keys."""
    tls = credentials.load_tls_key(keys.tls)
    signed = enrolment_bytes(
        federation=invitation.federation,
        token_id=invitation.token_id,
        name=invitation.name,
        tls_key=credentials.spki(tls.public_key()),
    )
    return Enrolment(
        protocol_version=PROTOCOL_VERSION,
        token_id=invitation.token_id,
        token_secret=invitation.secret,
        name=invitation.name,
        certificate_request=certificate_request(invitation.name, keys.tls),
        identity_key=keys.signing.public,
        identity_signature=keys.signing.sign(signed),
    )


def certificate_request(name: str, tls: SecretBytes) -> bytes:
    """Return a certificate request (PKCS#10, DER) for a TLS key (PEM), signed by it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(credentials.load_tls_key(tls), SHA256()).public_bytes(Encoding.DER)


def accept_membership(invitation: Invitation, keys: OwnKeys, membership: Membership) -> Identity:
    """Compare the coordinator's answer with the invitation and the own keys.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``, it is another's membership, or another authority's.
    """
    claimed = (membership.federation, membership.name, membership.role)
    if claimed != (invitation.federation, invitation.name, invitation.role):
        raise mismatch("the membership is not the one that the invitation promised")
    check_certificate(membership.certificate, authority=membership.authority, name=invitation.name, tls=keys.tls)
    if _der(membership.authority) != invitation.authority:
        raise mismatch("the authority is not the one in the invitation")
    return Identity(
        keys=keys,
        federation=invitation.federation,
        name=invitation.name,
        role=invitation.role,
        addresses=invitation.addresses,
        operator_key=invitation.operator_key,
        certificate=membership.certificate,
        authority=membership.authority,
    )


def check_certificate(pem: bytes, *, authority: bytes, name: str, tls: SecretBytes) -> None:
    """Refuse a certificate (PEM) that is not an authority's (PEM), for this name and this TLS key.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certified = certificate.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        raise mismatch("the certificate does not parse, or is not the authority's") from None
    if list(names) != [x509.DNSName(name)]:
        raise mismatch("the certificate bears another name")
    if certified != credentials.load_tls_key(tls).public_key():
        raise mismatch("the certificate is for another TLS key")


def mismatch(rule: str) -> PeerError:
    """Return the refusal of what a coordinator said of this member's identity."""
    return PeerError.by_coordinator("E-IDENTITY-MISMATCH", Phase.ENROLMENT, rule)


def save_keys(directory: Path, keys: OwnKeys) -> None:
    """Write a newcomer's keys, before a token is spent on them.

    Raises:
        LocalError: ``E-EXISTS``, there are keys: they are never overwritten.
    """
    credentials.make_private_directory(directory)
    if (directory / IDENTITY_KEY).exists():
        raise LocalError("E-EXISTS", f"{directory} holds an identity already; keys are never overwritten")
    credentials.write_private(directory / TLS_KEY, keys.tls)  # over one of a try that ended before the other was there
    credentials.write_private(directory / IDENTITY_KEY, credentials.signing_key_pem(keys.identity))


def has_keys(directory: Path) -> bool:
    """Return whether all keys were written: the last of them is there."""
    return (directory / IDENTITY_KEY).exists()


def load_keys(directory: Path) -> OwnKeys:
    """Read the keys.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    tls = credentials.read_private(directory / TLS_KEY)
    credentials.load_tls_key(tls)
    return OwnKeys(identity=credentials.load_signing_key(credentials.read_private(directory / IDENTITY_KEY)), tls=tls)


def save_identity(directory: Path, identity: Identity) -> None:
    """Write the membership beside the keys, which :func:`save_keys` wrote; the file that completes it comes last."""
    credentials.write_private(directory / AUTHORITY, identity.authority)
    credentials.write_private(directory / TLS_CERTIFICATE, identity.certificate)
    save_membership(directory, identity)


def save_membership(directory: Path, identity: Identity) -> None:
    """Write who this is and where its coordinator answers."""
    document: dict[str, canonical.Json] = {
        "federation": identity.federation,
        "name": identity.name,
        "role": identity.role.value,
        "addresses": [*identity.addresses],
        "operator_key": identity.operator_key.hex(),
    }
    if identity.said_at:
        document["said_at"] = identity.said_at
    credentials.write_private(directory / MEMBERSHIP, canonical.encode(document))


def save_authorities(directory: Path, identity: Identity) -> None:
    """Write which authorities followed each other; ``ca.crt`` stays what was pinned at joining."""
    own = Predecessor(identity.authority, 0, followed=True)
    authorities: list[canonical.Json] = [
        {"certificate": one.certificate.decode(), "ends": one.ends, "followed": one.followed}
        for one in (own, *identity.before)[:MAX_AUTHORITIES]
    ]
    credentials.write_private(directory / AUTHORITIES, canonical.encode({"authorities": authorities}))


def load_identity(directory: Path) -> Identity:
    """Read everything.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    document = credentials.read_public(directory / MEMBERSHIP)
    try:
        saved = _Saved.model_validate_json(document)
    except ValidationError:
        raise VerificationError("E-STATE-DAMAGED", f"{directory / MEMBERSHIP} does not parse") from None
    authority, before = _load_authorities(directory)
    keys, certificate = _load_pair(directory)
    return Identity(
        keys=keys,
        federation=saved.federation,
        name=saved.name,
        role=Role(saved.role),
        addresses=saved.addresses,
        operator_key=bytes.fromhex(saved.operator_key),
        certificate=certificate,
        authority=authority,
        before=before,
        said_at=saved.said_at,
    )


def _load_pair(directory: Path) -> tuple[OwnKeys, bytes]:
    """Return the keys with the certificate (PEM) that belongs to them.

    A renewed key may be in place before its certificate is: a crash came between the two.
    """
    for _ in range(TRIES):
        keys = load_keys(directory)
        for name in (TLS_CERTIFICATE, NEXT_CERTIFICATE):
            with suppress(LocalError):
                certificate = credentials.read_public(directory / name)
                if belongs(certificate, keys.tls):
                    return keys, certificate
    credentials.read_public(directory / TLS_CERTIFICATE)
    raise VerificationError("E-STATE-DAMAGED", f"{directory / TLS_CERTIFICATE} does not belong to {TLS_KEY}")


def belongs(certificate: bytes, tls: SecretBytes) -> bool:
    """Return whether a certificate (PEM) is for a TLS key (PEM).

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, either does not parse.
    """
    try:
        certified = x509.load_pem_x509_certificate(certificate).public_key()
    except ValueError:
        raise VerificationError("E-STATE-DAMAGED", "a certificate does not parse") from None
    return certified == credentials.load_tls_key(tls).public_key()


def _load_authorities(directory: Path) -> tuple[bytes, tuple[Predecessor, ...]]:
    path = directory / AUTHORITIES
    if not path.exists():
        return credentials.read_public(directory / AUTHORITY), ()
    try:
        saved = _SavedAuthorities.model_validate_json(credentials.read_public(path))
        loaded = [Predecessor(one.certificate.encode(), one.ends, one.followed) for one in saved.authorities]
        x509.load_pem_x509_certificates(b"".join(one.certificate for one in loaded))
    except (ValidationError, ValueError):
        raise VerificationError("E-STATE-DAMAGED", f"{path} does not parse") from None
    return loaded[0].certificate, tuple(loaded[1:])


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def authority_pem(invitation: Invitation) -> bytes:
    """Return the authority's certificate of an invitation as TLS wants it."""
    body = base64.encodebytes(invitation.authority).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n".encode()
