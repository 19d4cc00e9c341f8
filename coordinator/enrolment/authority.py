"""The federation's certificate authority, its operator's signing key, and the checks of an enrolment.

Guarantees: a member's certificate names it and nothing else, and serves as a client's only, so that no member can stand
in for the coordinator whatever its name; a newcomer gets one only for a TLS key that it holds and that its identity key
vouches for. Keys never leave ``authority/`` (0700, files 0600).
Leaves to others: which tokens were issued and spent, and who is revoked (``store``, ``runner``).
Source: RFC 5280 sections 4.1 and 4.2; docs/protocol.md section 2; docs/wire.md.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from host import credentials
from host.fingerprints import fingerprint
from privacy.errors import LocalError, PeerError, Phase, VerificationError
from privacy.interfaces import RandomSource
from privacy.secagg import keys
from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes
from protos.envelope import Enrolment, Role
from protos.invitation import (
    INTRODUCTION_OID,
    TOKEN_ID_BYTES,
    TOKEN_SECRET_BYTES,
    Invitation,
    enrolment_bytes,
    introduction,
)

AUTHORITY_DAYS: Final = 3653  # ten years: members pin the authority, so it outlives their certificates
CERTIFICATE_DAYS: Final = 1826  # five years: there is no renewal call yet, and a revocation counts at once
SKEW: Final = dt.timedelta(hours=1)  # members' clocks may be behind
SERIAL_BYTES: Final = 16
INTRODUCTION: Final = x509.ObjectIdentifier(INTRODUCTION_OID)
MAX_COMMON_NAME: Final = 64  # RFC 5280, appendix A.1
CA_KEY: Final = "ca.key"
CA_CERTIFICATE: Final = "ca.crt"
SERVER_KEY: Final = "server.key"
SERVER_CERTIFICATE: Final = "server.crt"
OPERATOR_KEY: Final = "operator.key"


@dataclass(frozen=True, slots=True)
class Authority:
    """What ``authority/`` holds."""

    ca_key: SecretBytes  # PEM
    ca_certificate: bytes  # PEM
    server_key: SecretBytes  # PEM
    server_certificate: bytes  # PEM
    operator_key: SecretBytes  # 32 private bytes

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


def create_authority(*, federation: str, hosts: Sequence[str], random: RandomSource, now: float) -> Authority:
    """Make all keys and certificates of a new coordinator.

    Args:
        federation: its name, which the authority's certificate bears.
        hosts: names and IP addresses under which members reach the coordinator, at least one.
        random: source of keys and serial numbers.
        now: seconds since the Unix epoch.
    """
    ca_key, server_key = credentials.new_tls_key(random), credentials.new_tls_key(random)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"onlysum {federation}"[:MAX_COMMON_NAME])])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    ca = (
        _builder(subject, subject, ca_key.public_key(), random=random, now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )
    issuer, operator_key = _Issuer(ca_key, ca, random, now), SecretBytes(random.token_bytes(keys.KEY_BYTES))
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
    return _issuer(authority, random, now).server(key.public_key(), hosts, shown)


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


def issue_member(authority: Authority, *, request: bytes, name: str, random: RandomSource, now: float) -> bytes:
    """Return a member's certificate (PEM) for the key of its certificate request.

    Raises:
        PeerError: as :func:`check_request`.
    """
    return _issuer(authority, random, now).member(check_request(request, name), name)


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


def load_authority(directory: Path) -> Authority:
    """Read an authority.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    authority = Authority(
        ca_key=credentials.read_private(directory / CA_KEY),
        ca_certificate=credentials.read_public(directory / CA_CERTIFICATE),
        server_key=credentials.read_private(directory / SERVER_KEY),
        server_certificate=credentials.read_public(directory / SERVER_CERTIFICATE),
        operator_key=credentials.load_signing_key(credentials.read_private(directory / OPERATOR_KEY)),
    )
    for key, certificate in (
        (authority.ca_key, authority.ca_certificate),
        (authority.server_key, authority.server_certificate),
    ):
        _check_pair(key, certificate)
    return authority


def covers(certificate: bytes, host: str) -> bool:
    """Return whether a server certificate (PEM) names a host, so that members who dial it accept the connection."""
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return _host(host) in names.value


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


def _issuer(authority: Authority, random: RandomSource, now: float) -> _Issuer:
    ca = x509.load_pem_x509_certificate(authority.ca_certificate)
    return _Issuer(credentials.load_tls_key(authority.ca_key), ca, random, now)


@dataclass(frozen=True, slots=True)
class _Issuer:
    """Signs certificates at one moment."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    random: RandomSource
    now: float

    def server(self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], shown: bytes) -> bytes:
        """Return the coordinator's own certificate, in which it shows who it is."""
        names = [_host(host) for host in hosts]
        return self._leaf(key, hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH, shown=shown)

    def member(self, key: ec.EllipticCurvePublicKey, name: str) -> bytes:
        """Return a member's certificate: one alternative name, its own."""
        return self._leaf(key, name, [x509.DNSName(name)], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _leaf(
        self,
        key: ec.EllipticCurvePublicKey,
        common_name: str,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        *,
        shown: bytes = b"",
    ) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:MAX_COMMON_NAME])])
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        issuer_key = self.key.public_key()
        builder = _builder(
            subject, self.certificate.subject, key, random=self.random, now=self.now, days=CERTIFICATE_DAYS
        )
        if shown:
            builder = builder.add_extension(x509.UnrecognizedExtension(INTRODUCTION, shown), critical=False)
        signed = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
            .sign(self.key, SHA256())
        )
        return signed.public_bytes(Encoding.PEM)


def _host(value: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(value.strip("[]")))
    except ValueError:
        return x509.DNSName(value)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    random: RandomSource,
    now: float,
    days: int,
) -> x509.CertificateBuilder:
    begin = dt.datetime.fromtimestamp(now, dt.UTC)
    serial = int.from_bytes(random.token_bytes(SERIAL_BYTES), "big") | 1  # positive, 128 random bits
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(begin - SKEW)
        .not_valid_after(begin + dt.timedelta(days=days))
    )
