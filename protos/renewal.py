"""Certificates are renewed, authorities follow each other, addresses change: what is said then, and what is signed.

Guarantees: each signed string begins with a label of its own, names the federation, and binds all that the statement is
about: a renewal counts for one member, one new TLS key and the one certificate that it replaces; a succession for one
authority and the one before it.
Leaves to others: bytes on the wire (``codec_renewal``), what is allowed (``coordinator.enrolment``), what is believed
(``participant.link.renewal``).
Source: docs/wire.md, "Identity over time".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from privacy.secagg.keys import framed, number

LABEL_RENEWAL: Final = b"onlysum/1/renewal"
LABEL_SUCCESSION: Final = b"onlysum/1/succession"
LABEL_ADDRESSES: Final = b"onlysum/1/addresses"
MAX_ADDRESSES: Final = 8  # under which a coordinator answers


@dataclass(frozen=True, slots=True)
class RenewalRequest:
    """A member asks for a certificate of a new TLS key; its identity key vouches for it."""

    certificate_request: bytes  # PKCS#10 DER, signed by the new TLS key
    identity_signature: bytes  # over (label, federation, name, SHA-256 of the present certificate, of the new TLS key)


@dataclass(frozen=True, slots=True)
class Succession:
    """An authority names the one that follows it, and the operator says so too."""

    certificate: bytes  # PEM: name and key of the new authority, signed by the one before
    operator_signature: bytes  # over (label, federation, and the certificates: before, this one, after)


@dataclass(frozen=True, slots=True)
class Renewal:
    """The coordinator's answer to a :class:`RenewalRequest`."""

    certificate: bytes  # PEM, SAN is the member's name
    authority: bytes  # PEM of the CA that issued it
    succession: Succession | None = None  # while that is newer than an authority that members may have pinned


@dataclass(frozen=True, slots=True)
class AddressNotice:
    """Where members dial from now on, said by the operator."""

    addresses: tuple[str, ...]  # host:port, tried in order
    said_at: int  # seconds since the Unix epoch
    signature: bytes  # of the operator's key, over (label, federation, time, addresses)


def renewal_bytes(*, federation: str, name: str, present: bytes, tls_key: bytes) -> bytes:
    """Return the string by which an identity key vouches for a new TLS key.

    Args:
        federation: name of the federation.
        name: the member's.
        present: certificate (DER) that the new one is to replace.
        tls_key: DER SubjectPublicKeyInfo of the new TLS key.
    """
    hashes = hashlib.sha256(present).digest(), hashlib.sha256(tls_key).digest()
    return framed(LABEL_RENEWAL, federation.encode(), name.encode(), *hashes)


def succession_bytes(*, federation: str, before: bytes, named: bytes, after: bytes) -> bytes:
    """Return the string by which an operator says that one authority follows another.

    Args:
        federation: name of the federation.
        before: certificate (DER) of the authority that members have pinned.
        named: certificate (DER) by which that one names its successor.
        after: the successor's own certificate (DER).
    """
    hashes = (hashlib.sha256(certificate).digest() for certificate in (before, named, after))
    return framed(LABEL_SUCCESSION, federation.encode(), *hashes)


def addresses_bytes(*, federation: str, said_at: int, addresses: Sequence[str]) -> bytes:
    """Return the string by which an operator says where members dial.

    Args:
        federation: name of the federation.
        said_at: seconds since the Unix epoch.
        addresses: host:port, in the order in which they are tried.
    """
    return framed(LABEL_ADDRESSES, federation.encode(), number(said_at), *(address.encode() for address in addresses))
