"""A member's new certificate: asked for, compared, tried, and only then put in the place of the present one.

Guarantees: the new key and certificate are on disk before the present pair is touched, and the present one stays until
a call with the new one was answered; an authority is followed only if the one that was trusted until now names it, and
the operator's pinned key says so too; an address is believed only from the operator, and never an older one.
Leaves to others: when (``participant.link.upkeep``), the network (``channel``).
Source: docs/adr/0048-certificates-are-short-and-renew-themselves.md.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from host import credentials, durable
from host.certificates import expires_at, invalid_now
from participant.link.identity import (
    NEXT_CERTIFICATE,
    NEXT_KEY,
    TLS_CERTIFICATE,
    TLS_KEY,
    Identity,
    OwnKeys,
    Predecessor,
    accept_membership,
    belongs,
    certificate_request,
    check_certificate,
    mismatch,
    save_authorities,
    save_membership,
)
from privacy.errors import LocalError, VerificationError
from privacy.interfaces import RandomSource
from privacy.secagg import keys
from privacy.secret import SecretBytes
from protos.envelope import Membership
from protos.invitation import Invitation
from protos.renewal import (
    AddressNotice,
    Renewal,
    RenewalRequest,
    Succession,
    addresses_bytes,
    renewal_bytes,
    succession_bytes,
)

MOST_AUTHORITIES_KEPT: Final = 8  # an owner's policy may still name the oldest of them


def next_key(directory: Path, random: RandomSource) -> SecretBytes:
    """Return the TLS key (PEM) that a certificate is asked for, durable before anybody is asked.

    One that is there is used again: the answer to what was asked with it may have been lost.
    """
    path = directory / NEXT_KEY
    if path.exists():
        with suppress(VerificationError):
            tls = credentials.read_private(path)
            credentials.load_tls_key(tls)
            return tls
    tls = credentials.tls_key_pem(credentials.new_tls_key(random))
    credentials.write_private(path, tls)
    return tls


def renewal_request(identity: Identity, tls: SecretBytes) -> RenewalRequest:
    """Return the request by which a member asks for a certificate of a new TLS key (PEM)."""
    signed = renewal_bytes(
        federation=identity.federation,
        name=identity.name,
        present=_der(identity.certificate),
        tls_key=credentials.spki(credentials.load_tls_key(tls).public_key()),
    )
    return RenewalRequest(certificate_request(identity.name, tls), identity.signing.sign(signed))


def accept_renewal(identity: Identity, tls: SecretBytes, renewal: Renewal, *, now: float) -> Identity:
    """Return the identity with the certificate that the coordinator issued, and with an authority that follows.

    Args:
        identity: as it is.
        tls: the new key (PEM).
        renewal: the coordinator's answer.
        now: seconds since the Unix epoch.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``, the certificate is not for this member and key, is not valid now, or its
            authority is neither the trusted one nor one that follows it.
    """
    known = identity
    if _parsed_der(renewal.authority) != identity.authority_der:
        if renewal.succession is None:
            raise mismatch("the certificate is of another authority, which no trusted one names")
        known = follow(identity, renewal.authority, renewal.succession, now=now)
    check_certificate(renewal.certificate, authority=renewal.authority, name=identity.name, tls=tls)
    if reason := invalid_now(renewal.certificate, now):
        raise mismatch(f"the renewed certificate {reason}")
    return replace(known, keys=OwnKeys(identity.keys.identity, tls), certificate=renewal.certificate)


def follow(identity: Identity, authority: bytes, succession: Succession, *, now: float) -> Identity:
    """Return the identity with the authority (PEM) that the present one names as its successor.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``.
    """
    try:
        after = x509.load_pem_x509_certificate(authority)
        named = x509.load_pem_x509_certificate(succession.certificate)
        before = x509.load_pem_x509_certificate(identity.authority)
        named.verify_directly_issued_by(before)
        after.verify_directly_issued_by(after)
        agree = (named.subject, named.public_key()) == (after.subject, after.public_key())
        is_authority = after.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        raise mismatch("the trusted authority does not name the new one") from None
    if not agree or not is_authority:
        raise mismatch("the trusted authority names another one than this")
    for whose, pem in (("the new authority", authority), ("what names it", succession.certificate)):
        if reason := invalid_now(pem, now):
            raise mismatch(f"{whose} {reason}")
    signed = succession_bytes(
        federation=identity.federation,
        before=identity.authority_der,
        named=_parsed_der(succession.certificate),
        after=_parsed_der(authority),
    )
    if not keys.verify(identity.operator_key, succession.operator_signature, signed):
        raise mismatch("the operator did not say that the new authority follows the trusted one")
    ended = Predecessor(identity.authority, expires_at(succession.certificate), followed=True)
    return replace(identity, authority=authority, before=(ended, *identity.before)[:MOST_AUTHORITIES_KEPT])


def accept_invitation(identity: Identity, invitation: Invitation, tls: SecretBytes, membership: Membership) -> Identity:
    """Return the identity with the certificate that an invitation for it brought, whatever authority issues now.

    Args:
        identity: as it is.
        invitation: the operator's, for this very member.
        tls: the new key (PEM).
        membership: the coordinator's answer.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``, it is another's, or another coordinator's.
    """
    asked = OwnKeys(identity.keys.identity, tls)
    enrolled = accept_membership(invitation, asked, membership)
    before = identity.before
    if enrolled.authority_der != identity.authority_der:  # the line pins it, and no authority that was trusted does
        before = (Predecessor(identity.authority, 0, followed=False), *before)[:MOST_AUTHORITIES_KEPT]
    return replace(enrolled, before=before, said_at=identity.said_at)


def take_membership(
    directory: Path, identity: Identity, invitation: Invitation, tls: SecretBytes, membership: Membership
) -> Identity:
    """Write down what an invitation for this member brought, see :func:`accept_invitation`; return the identity."""
    new = accept_invitation(identity, invitation, tls, membership)
    if new.before != identity.before:
        save_authorities(directory, new)
    save_membership(directory, new)
    save_next_certificate(directory, new.certificate)
    put_in_place(directory)
    return new


def check_invitation(identity: Identity, invitation: Invitation) -> None:
    """Refuse an invitation that is not for this member, from the operator that it knows.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``.
    """
    known = (identity.federation, identity.name, identity.role)
    if (invitation.federation, invitation.name, invitation.role) != known:
        invited = f"{invitation.role.value} {invitation.name} in {invitation.federation}"
        raise mismatch(f"the invitation is for {invited}, this is {known[2].value} {known[1]} in {known[0]}")
    if invitation.operator_key != identity.operator_key:
        raise mismatch("the invitation is of another operator than the one that was pinned at joining")


def accept_notice(identity: Identity, notice: AddressNotice) -> Identity | None:
    """Return the identity with the addresses that the operator says; None if it knows these or newer ones.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``, the operator did not say it.
    """
    if notice.said_at <= identity.said_at:
        return None
    signed = addresses_bytes(federation=identity.federation, said_at=notice.said_at, addresses=notice.addresses)
    if not keys.verify(identity.operator_key, notice.signature, signed):
        raise mismatch("the operator did not say these addresses")
    return replace(identity, addresses=notice.addresses, said_at=notice.said_at)


def save_next_certificate(directory: Path, certificate: bytes) -> None:
    """Keep a certificate beside its key, until a call with it was answered."""
    credentials.write_private(directory / NEXT_CERTIFICATE, certificate)


def load_next(directory: Path, identity: Identity) -> Identity | None:
    """Return the identity with a new pair that was not used yet, or None: there is none, or it is not whole."""
    if not (directory / NEXT_CERTIFICATE).exists() or not (directory / NEXT_KEY).exists():
        return None
    try:
        tls = credentials.read_private(directory / NEXT_KEY)
        certificate = credentials.read_public(directory / NEXT_CERTIFICATE)
        whole = belongs(certificate, tls)
    except (LocalError, VerificationError):
        return None
    return replace(identity, keys=OwnKeys(identity.keys.identity, tls), certificate=certificate) if whole else None


def put_in_place(directory: Path) -> None:
    """Put the new pair in the place of the present one; a crash between the two loses neither."""
    with durable.disk_errors(directory):
        for new, present in ((NEXT_KEY, TLS_KEY), (NEXT_CERTIFICATE, TLS_CERTIFICATE)):
            with suppress(FileNotFoundError):  # a crash came after this one
                (directory / new).replace(directory / present)
                durable.sync_directory(directory)


def discard_next(directory: Path) -> None:
    """Forget a new pair that the coordinator does not take."""
    with durable.disk_errors(directory):
        durable.erase(directory / NEXT_CERTIFICATE, directory / NEXT_KEY)


def half_in_place(directory: Path) -> bool:
    """Return whether a crash has left the new key in place and its certificate not."""
    return (directory / NEXT_CERTIFICATE).exists() and not (directory / NEXT_KEY).exists()


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def _parsed_der(pem: bytes) -> bytes:
    try:
        return _der(pem)
    except ValueError:
        raise mismatch("an authority's certificate does not parse") from None
