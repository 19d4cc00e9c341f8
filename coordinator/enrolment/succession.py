"""An authority names the one that follows it, and then its key is gone.

Guarantees: the new authority has a key of its own, and so has the server from then on; members who pinned the authority
before accept what the listeners show until the overlap ends, and everybody who certified a key before it may still call
until then; whoever has only one of the two keys, the authority's and the operator's, cannot name a successor.
Leaves to others: writing it down (``authority``), telling members (``renewals``), when (an operator's command).
Source: docs/adr/0048-certificates-are-short-and-renew-themselves.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.enrolment.authority import Authority, Handover, issuer_of
from coordinator.enrolment.issuing import DAY, PATH_LENGTH, Issuer, authority_certificate
from host import credentials
from host.certificates import expires_at
from host.rendering import moment
from privacy.errors import LocalError
from privacy.interfaces import RandomSource
from protos.invitation import introduction
from protos.renewal import succession_bytes

LEAST_OVERLAP_DAYS: Final = 1
MOST_OVERLAP_DAYS: Final = 730


def succeed(
    authority: Authority, *, federation: str, hosts: Sequence[str], overlap_days: int, random: RandomSource, now: float
) -> Authority:
    """Return the authority that follows another one, with what that one says of it.

    Args:
        authority: the present one.
        federation: its name.
        hosts: names and IP addresses under which members reach the coordinator.
        overlap_days: for how long members who pinned the present one are still understood.
        random: source of keys, names and serial numbers.
        now: seconds since the Unix epoch.

    Raises:
        LocalError: ``E-USAGE``, the overlap is too short or too long, the last one has not ended, or this authority
            cannot name another.
    """
    if not LEAST_OVERLAP_DAYS <= overlap_days <= MOST_OVERLAP_DAYS:
        raise LocalError("E-USAGE", f"an overlap has {LEAST_OVERLAP_DAYS} to {MOST_OVERLAP_DAYS} days")
    if (before := authority.overlapping(now)) is not None:
        detail = f"members still follow from the authority before this one, until {moment(before.ends)} UTC"
        raise LocalError("E-USAGE", f"{detail}; wait for that")
    present = x509.load_pem_x509_certificate(authority.ca_certificate)
    if present.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length != PATH_LENGTH:
        raise LocalError("E-USAGE", "this authority was made by older software, and cannot name another below itself")
    ca_key, server_key = credentials.new_tls_key(random), credentials.new_tls_key(random)
    after = authority_certificate(ca_key, federation=federation, random=random, now=now)
    until = min(int(now) + overlap_days * DAY, expires_at(authority.ca_certificate))
    named = issuer_of(authority, random, now).successor(after, until=until)
    after_der = after.public_bytes(Encoding.DER)
    shown = introduction(federation=federation, authority=after_der, operator_key=authority.operator.public)
    signed = succession_bytes(federation=federation, before=authority.ca_der, named=_der(named), after=after_der)
    return Authority(
        ca_key=credentials.tls_key_pem(ca_key),
        ca_certificate=after.public_bytes(Encoding.PEM),
        server_key=credentials.tls_key_pem(server_key),
        server_certificate=Issuer(ca_key, after, random, now).server(server_key.public_key(), hosts, shown),
        operator_key=authority.operator_key,
        handover=Handover(authority.ca_certificate, named, authority.operator.sign(signed)),
    )


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
