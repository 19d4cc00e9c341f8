"""The federation's certificate authority, its operator's signing key, and the checks of an enrolment.

Guarantees: a newcomer gets a certificate only for a TLS key that it holds and that its identity key vouches for. Keys
never leave ``authority/`` (0700, files 0600), and an authority is replaced whole or not at all.
Leaves to others: what certificates say (``issuing``), which tokens were issued and spent, and who is revoked
(``membership``), how an authority names its successor (``succession``).
Source: docs/protocol.md section 2; docs/wire.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import StringConstraints, ValidationError

from coordinator.config import MEMBER_DAYS
from coordinator.enrolment.issuing import INTRODUCTION, Issuer, authority_certificate, general_name
from host import credentials, durable
from host.certificates import expires_at
from host.fingerprints import fingerprint
from privacy import canonical, patterns
from privacy.errors import LocalError, PeerError, Phase, VerificationError
from privacy.interfaces import RandomSource
from privacy.plan_parts import PlanModel
from privacy.secagg import keys
from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes
from protos.envelope import Enrolment, Role
from protos.invitation import (
    TOKEN_ID_BYTES,
    TOKEN_SECRET_BYTES,
    Invitation,
    enrolment_bytes,
    introduction,
)

CA_KEY: Final = "ca.key"
CA_CERTIFICATE: Final = "ca.crt"
SERVER_KEY: Final = "server.key"
SERVER_CERTIFICATE: Final = "server.crt"
OPERATOR_KEY: Final = "operator.key"
HANDOVER: Final = "handover.json"  # there while members follow from the authority before
NEXT: Final = "next"  # a replacement on its way: its files, and the mark that all of them are there
READY: Final = "ready"
REPLACED: Final = (CA_KEY, CA_CERTIFICATE, SERVER_KEY, SERVER_CERTIFICATE, HANDOVER)


@dataclass(frozen=True, slots=True)
class Handover:
    """How members get from the authority that they pinned to the one after it."""

    before: bytes  # PEM, of the authority before: its key is gone
    named: bytes  # PEM, by which it names its successor; its end is the end of the overlap
    operator_signature: bytes

    @property
    def ends(self) -> int:
        """When the authority before counts no longer, in seconds since the Unix epoch."""
        return expires_at(self.named)


class _Handover(PlanModel):
    """The form of ``handover.json``."""

    before: str
    named: str
    operator_signature: Annotated[str, StringConstraints(pattern=patterns.HEX_512)]


@dataclass(frozen=True, slots=True)
class Authority:
    """What ``authority/`` holds."""

    ca_key: SecretBytes  # PEM
    ca_certificate: bytes  # PEM
    server_key: SecretBytes  # PEM
    server_certificate: bytes  # PEM
    operator_key: SecretBytes  # 32 private bytes
    handover: Handover | None = None

    @property
    def operator(self) -> SigningKey:
        """The key that signs plans."""
        return SigningKey(self.operator_key)

    @property
    def ca_der(self) -> bytes:
        """The authority's certificate as invitations carry it."""
        return x509.load_pem_x509_certificate(self.ca_certificate).public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> str:
        """The authority's fingerprint, as owners compare it."""
        return fingerprint(self.ca_der)

    def overlapping(self, now: float) -> Handover | None:
        """Return the handover from the authority before, while that one still counts."""
        return self.handover if self.handover is not None and now < self.handover.ends else None

    def trusted(self, now: float) -> bytes:
        """Return whose certificates of members count (PEM): this authority's, and of the one before for a while."""
        handover = self.overlapping(now)
        return self.ca_certificate + (handover.before if handover else b"")

    def chain(self, now: float) -> bytes:
        """Return what the listeners show (PEM), so that those who pinned either authority accept it."""
        handover = self.overlapping(now)
        return self.server_certificate + (handover.named if handover else b"")


def create_authority(*, federation: str, hosts: Sequence[str], random: RandomSource, now: float) -> Authority:
    """Make all keys and certificates of a new coordinator.

    Args:
        federation: its name, which the authority's certificate bears.
        hosts: names and IP addresses under which members reach the coordinator, at least one.
        random: source of keys and serial numbers.
        now: seconds since the Unix epoch.
    """
    ca_key, server_key = credentials.new_tls_key(random), credentials.new_tls_key(random)
    ca = authority_certificate(ca_key, federation=federation, random=random, now=now)
    issuer, operator_key = Issuer(ca_key, ca, random, now), SecretBytes(random.token_bytes(keys.KEY_BYTES))
    shown = introduction(
        federation=federation,
        authority=ca.public_bytes(Encoding.DER),
        operator_key=SigningKey(operator_key).public,
    )
    return Authority(
        ca_key=credentials.tls_key_pem(ca_key),
        ca_certificate=ca.public_bytes(Encoding.PEM),
        server_key=credentials.tls_key_pem(server_key),
        server_certificate=issuer.server(server_key.public_key(), hosts, shown),
        operator_key=operator_key,
    )


def renew_server(authority: Authority, *, hosts: Sequence[str], random: RandomSource, now: float) -> bytes:
    """Return a new server certificate (PEM) for the same key: for other hosts, or before the old one expires."""
    key = credentials.load_tls_key(authority.server_key)
    shown = introduction_of(x509.load_pem_x509_certificate(authority.server_certificate))
    return issuer_of(authority, random, now).server(key.public_key(), hosts, shown)


def introduction_of(certificate: x509.Certificate) -> bytes:
    """Return what a server's certificate shows of its coordinator.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, it shows nothing.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(INTRODUCTION).value
    except x509.ExtensionNotFound:
        raise VerificationError("E-STATE-DAMAGED", "the server's certificate does not show its coordinator") from None
    assert isinstance(extension, x509.UnrecognizedExtension)  # of an identifier that no library knows
    return extension.value


def issue_member(
    authority: Authority, *, request: bytes, name: str, random: RandomSource, now: float, days: int = MEMBER_DAYS
) -> bytes:
    """Return a member's certificate (PEM) for the key of its certificate request, for so many days.

    Raises:
        PeerError: as :func:`check_request`.
    """
    return issuer_of(authority, random, now).member(check_request(request, name), name, days=days)


def save_server_certificate(directory: Path, certificate: bytes) -> None:
    """Put a renewed server certificate in the place of the old one."""
    credentials.write_private(directory / SERVER_CERTIFICATE, certificate)


def save_authority(directory: Path, authority: Authority) -> None:
    """Write a new authority.

    Raises:
        LocalError: ``E-EXISTS``, there is one: its keys are never overwritten.
    """
    if directory.exists():
        raise LocalError("E-EXISTS", f"{directory}; keys are never overwritten")
    credentials.make_private_directory(directory)
    credentials.write_private(directory / CA_KEY, authority.ca_key)
    credentials.write_private(directory / CA_CERTIFICATE, authority.ca_certificate)
    credentials.write_private(directory / SERVER_KEY, authority.server_key)
    credentials.write_private(directory / SERVER_CERTIFICATE, authority.server_certificate)
    credentials.write_private(directory / OPERATOR_KEY, credentials.signing_key_pem(authority.operator_key))


def replace_authority(directory: Path, authority: Authority) -> None:
    """Put another authority with its server's key in the place of the present one; the operator's key stays.

    A crash leaves the old one, or the new one: what is not moved yet is moved when the directory is read next.
    """
    draft = directory / NEXT
    if draft.exists():
        shutil.rmtree(draft)  # of a replacement that was not complete: `load_authority` has finished any other
    assert authority.handover is not None
    credentials.make_private_directory(draft)
    credentials.write_private(draft / CA_KEY, authority.ca_key)
    credentials.write_private(draft / CA_CERTIFICATE, authority.ca_certificate)
    credentials.write_private(draft / SERVER_KEY, authority.server_key)
    credentials.write_private(draft / SERVER_CERTIFICATE, authority.server_certificate)
    credentials.write_private(draft / HANDOVER, _handover_bytes(authority.handover))
    credentials.write_private(draft / READY, b"")
    _finish_replacement(directory)


def _finish_replacement(directory: Path) -> None:
    """Move what a complete replacement still has in its directory; several processes may do it at once."""
    draft = directory / NEXT
    if not (draft / READY).exists():
        return
    with durable.disk_errors(directory):
        for name in REPLACED:
            with suppress(FileNotFoundError):  # moved already
                (draft / name).replace(directory / name)
        durable.sync_directory(directory)
        shutil.rmtree(draft, ignore_errors=True)
        durable.sync_directory(directory)


def load_authority(directory: Path) -> Authority:
    """Read an authority, after moving in what a crash has left of its replacement.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    _finish_replacement(directory)
    authority = Authority(
        ca_key=credentials.read_private(directory / CA_KEY),
        ca_certificate=credentials.read_public(directory / CA_CERTIFICATE),
        server_key=credentials.read_private(directory / SERVER_KEY),
        server_certificate=credentials.read_public(directory / SERVER_CERTIFICATE),
        operator_key=credentials.load_signing_key(credentials.read_private(directory / OPERATOR_KEY)),
        handover=_load_handover(directory / HANDOVER),
    )
    for key, certificate in (
        (authority.ca_key, authority.ca_certificate),
        (authority.server_key, authority.server_certificate),
    ):
        _check_pair(key, certificate)
    return authority


def _handover_bytes(handover: Handover) -> bytes:
    return canonical.encode(
        {
            "before": handover.before.decode(),
            "named": handover.named.decode(),
            "operator_signature": handover.operator_signature.hex(),
        }
    )


def _load_handover(path: Path) -> Handover | None:
    if not path.exists():
        return None
    try:
        saved = _Handover.model_validate_json(credentials.read_public(path))
        handover = Handover(saved.before.encode(), saved.named.encode(), bytes.fromhex(saved.operator_signature))
        x509.load_pem_x509_certificates(handover.before + handover.named)
    except (ValidationError, ValueError):
        raise VerificationError("E-STATE-DAMAGED", f"{path} does not parse") from None
    return handover


def covers(certificate: bytes, host: str) -> bool:
    """Return whether a server certificate (PEM) names a host, so that members who dial it accept the connection."""
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return general_name(host) in names.value


def invite(
    authority: Authority,
    *,
    federation: str,
    name: str,
    role: Role,
    enrolment_addresses: Sequence[str],
    addresses: Sequence[str],
    random: RandomSource,
    until: int,
) -> Invitation:
    """Return a new invitation; the caller stores ``token_hash`` of it, never the secret.

    Args:
        authority: whose certificate and operator key it carries.
        federation: its name.
        name: of the newcomer.
        role: that it will have.
        enrolment_addresses: of the newcomers' listener, host and port.
        addresses: of the members' listener, host and port.
        random: source of id and secret.
        until: when it expires, in seconds since the Unix epoch.
    """
    return Invitation(
        federation=federation,
        name=name,
        role=role,
        token_id=random.token_bytes(TOKEN_ID_BYTES).hex(),
        secret=SecretBytes(random.token_bytes(TOKEN_SECRET_BYTES)),
        enrolment_addresses=tuple(enrolment_addresses),
        addresses=tuple(addresses),
        authority=authority.ca_der,
        operator_key=authority.operator.public,
        expires_at=until,
    )


def check_request(request: bytes, name: str) -> ec.EllipticCurvePublicKey:
    """Return the TLS key of a certificate request (PKCS#10, DER) that is signed by that very key.

    Raises:
        PeerError: ``E-WIRE-MALFORMED``, it does not parse, is not signed by its key, or its key is not P-256.
    """
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        signed = parsed.is_signature_valid
    except (ValueError, InvalidSignature, x509.UnsupportedGeneralNameType):
        raise PeerError.by_participant(
            name, "E-WIRE-MALFORMED", Phase.ENROLMENT, "the certificate request does not parse"
        ) from None
    if not signed:
        raise PeerError.by_participant(
            name, "E-WIRE-MALFORMED", Phase.ENROLMENT, "the certificate request is not signed by the key in it"
        )
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerError.by_participant(name, "E-WIRE-MALFORMED", Phase.ENROLMENT, "the TLS key is not a P-256 key")
    return key


def check_enrolment(request: Enrolment, *, federation: str) -> None:
    """Check all of an enrolment that does not depend on what is stored: keys and signatures.

    Raises:
        PeerError: ``E-IDENTITY-KEY``, ``E-IDENTITY-MISMATCH`` or ``E-WIRE-MALFORMED``.
    """
    tls_key = check_request(request.certificate_request, request.name)
    if not keys.is_safe_identity_key(request.identity_key):
        raise PeerError.by_participant(
            request.name, "E-IDENTITY-KEY", Phase.ENROLMENT, "the identity key is of small order or no point"
        )
    signed = enrolment_bytes(
        federation=federation, token_id=request.token_id, name=request.name, tls_key=credentials.spki(tls_key)
    )
    if not keys.verify(request.identity_key, request.identity_signature, signed):
        raise PeerError.by_participant(
            request.name,
            "E-IDENTITY-MISMATCH",
            Phase.ENROLMENT,
            "the identity key did not sign this name, token and TLS key",
        )


def _check_pair(key: SecretBytes, certificate: bytes) -> None:
    try:
        certified = x509.load_pem_x509_certificate(certificate).public_key()
    except ValueError:
        raise VerificationError("E-STATE-DAMAGED", "a certificate does not parse") from None
    if certified != credentials.load_tls_key(key).public_key():
        raise VerificationError("E-STATE-DAMAGED", "a certificate does not belong to its key")


def issuer_of(authority: Authority, random: RandomSource, now: float) -> Issuer:
    """Return what signs certificates at a moment, in seconds since the Unix epoch."""
    ca = x509.load_pem_x509_certificate(authority.ca_certificate)
    return Issuer(credentials.load_tls_key(authority.ca_key), ca, random, now)
