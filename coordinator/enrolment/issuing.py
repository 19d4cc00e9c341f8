"""Certificates as X.509 has them: of an authority, of its successor, of the coordinator and of members.

Guarantees: a member's certificate names it and nothing else, and serves as a client's only; no certificate outlasts the
authority that signs it; a request's own wishes are never looked at.
Leaves to others: whose keys these are and where they lie (``authority``), who gets one (``membership``, ``renewals``).
Source: RFC 5280 sections 4.1 and 4.2.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.interfaces import RandomSource
from protos.invitation import INTRODUCTION_OID

DAY: Final = 86_400
AUTHORITY_DAYS: Final = 3653  # ten years: members pin the authority, so it outlives their certificates
SERVER_DAYS: Final = 366  # the daemon renews it by itself, two months before it ends
SKEW: Final = dt.timedelta(hours=1)  # members' clocks may be behind
SERIAL_BYTES: Final = 16
INTRODUCTION: Final = x509.ObjectIdentifier(INTRODUCTION_OID)
MAX_COMMON_NAME: Final = 64  # RFC 5280, appendix A.1
PATH_LENGTH: Final = 1  # an authority may name one successor below itself, which signs certificates of members


def authority_certificate(
    key: ec.EllipticCurvePrivateKey, *, federation: str, random: RandomSource, now: float
) -> x509.Certificate:
    """Return a new authority's own certificate; its name has a random part, so that no two authorities share one.

    Args:
        key: the authority's.
        federation: its name, which the certificate bears.
        random: source of the serial number and of the name's random part.
        now: seconds since the Unix epoch.
    """
    own = random.token_bytes(SERIAL_BYTES).hex()
    common = x509.NameAttribute(NameOID.COMMON_NAME, f"onlysum {federation}"[:MAX_COMMON_NAME])
    subject = x509.Name([common, x509.NameAttribute(NameOID.SERIAL_NUMBER, own)])
    until = now + AUTHORITY_DAYS * DAY
    builder = _builder(subject, subject, key.public_key(), random=random, now=now, until=until)
    return _authority(builder, key.public_key(), path_length=PATH_LENGTH).sign(key, SHA256())


def _authority(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, *, path_length: int
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


@dataclass(frozen=True, slots=True)
class Issuer:
    """Signs certificates at one moment."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    random: RandomSource
    now: float

    def server(self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], shown: bytes) -> bytes:
        """Return the coordinator's own certificate (PEM), in which it shows who it is."""
        names = [general_name(host) for host in hosts]
        purpose = ExtendedKeyUsageOID.SERVER_AUTH
        return self._leaf(key, hosts[0], names, purpose, days=SERVER_DAYS, shown=shown)

    def member(self, key: ec.EllipticCurvePublicKey, name: str, *, days: int) -> bytes:
        """Return a member's certificate (PEM): one alternative name, its own."""
        return self._leaf(key, name, [x509.DNSName(name)], ExtendedKeyUsageOID.CLIENT_AUTH, days=days)

    def successor(self, after: x509.Certificate, *, until: int) -> bytes:
        """Return the certificate (PEM) by which this authority names the one that follows it, until a time."""
        key = after.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # made by `authority_certificate`
        builder = _builder(
            after.subject, self.certificate.subject, key, random=self.random, now=self.now, until=float(until)
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        signed = _authority(builder, key, path_length=0).add_extension(issuer, critical=False).sign(self.key, SHA256())
        return signed.public_bytes(Encoding.PEM)

    def _leaf(
        self,
        key: ec.EllipticCurvePublicKey,
        common_name: str,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        *,
        days: int,
        shown: bytes = b"",
    ) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:MAX_COMMON_NAME])])
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        issuer_key = self.key.public_key()
        until = min(self.now + days * DAY, self.certificate.not_valid_after_utc.timestamp())
        builder = _builder(subject, self.certificate.subject, key, random=self.random, now=self.now, until=until)
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


def general_name(value: str) -> x509.GeneralName:
    """Return a host as certificates name it: an IP address, or a DNS name."""
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
    until: float,
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
        .not_valid_after(dt.datetime.fromtimestamp(until, dt.UTC))
    )
