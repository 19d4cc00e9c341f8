"""Renewals and notices of addresses to bytes and back.

Guarantees: as ``codec``; every address is host:port, and there are at most eight.
Leaves to others: what certificates say, and whether signatures hold.
"""

from __future__ import annotations

from typing import Final

from privacy.secagg.keys import SIGNATURE_BYTES
from protos import federation_pb2 as pb
from protos import renewal
from protos.codec_fields import COORDINATOR, Malformed, bounded, count, each, exact, part, read, some, write
from protos.invitation import is_address

MAX_CLOCK: Final = 253_402_300_799  # seconds since the Unix epoch at the end of the year 9999
MAX_CERTIFICATE_BYTES: Final = 2**14  # PEM; those of this software have less than 2 KiB
MAX_REQUEST_BYTES: Final = 2**12  # of a certificate request for a P-256 key: one has 300 bytes
MAX_REQUEST_MESSAGE: Final = 2 * MAX_REQUEST_BYTES
MAX_RENEWAL_BYTES: Final = 4 * MAX_CERTIFICATE_BYTES


def encode_renewal_request(value: renewal.RenewalRequest) -> bytes:
    """Return the bytes of a member's request for a new certificate."""
    message = pb.RenewalRequest(
        certificate_request=value.certificate_request, identity_signature=value.identity_signature
    )
    return write(message, most=MAX_REQUEST_MESSAGE)


def decode_renewal_request(data: bytes, *, sender: str) -> renewal.RenewalRequest:
    """Return a member's request for a new certificate."""
    return read(pb.RenewalRequest, data, _read_renewal_request, sender=sender, most=MAX_REQUEST_MESSAGE)


def _read_renewal_request(message: pb.RenewalRequest) -> renewal.RenewalRequest:
    return renewal.RenewalRequest(
        certificate_request=bounded(message.certificate_request, MAX_REQUEST_BYTES, "certificate_request"),
        identity_signature=exact(message.identity_signature, SIGNATURE_BYTES, "identity_signature"),
    )


def encode_renewal(value: renewal.Renewal) -> bytes:
    """Return the bytes of the answer to a request for a new certificate."""
    message = pb.Renewal(certificate=value.certificate, authority=value.authority)
    if value.succession is not None:
        message.succession.certificate = value.succession.certificate
        message.succession.operator_signature = value.succession.operator_signature
    return write(message, most=MAX_RENEWAL_BYTES)


def decode_renewal(data: bytes) -> renewal.Renewal:
    """Return the answer to a request for a new certificate."""
    return read(pb.Renewal, data, _read_renewal, sender=COORDINATOR, most=MAX_RENEWAL_BYTES)


def _read_renewal(message: pb.Renewal) -> renewal.Renewal:
    return renewal.Renewal(
        certificate=bounded(message.certificate, MAX_CERTIFICATE_BYTES, "certificate"),
        authority=bounded(message.authority, MAX_CERTIFICATE_BYTES, "authority"),
        succession=part(message, "succession", _read_succession) if message.HasField("succession") else None,
    )


def _read_succession(message: pb.Succession) -> renewal.Succession:
    return renewal.Succession(
        certificate=bounded(message.certificate, MAX_CERTIFICATE_BYTES, "certificate"),
        operator_signature=exact(message.operator_signature, SIGNATURE_BYTES, "operator_signature"),
    )


def write_notice(value: renewal.AddressNotice) -> pb.AddressNotice:
    """Return the message of a notice."""
    return pb.AddressNotice(addresses=value.addresses, said_at=value.said_at, signature=value.signature)


def read_notice(message: pb.AddressNotice) -> renewal.AddressNotice:
    """Return the notice of a message, or raise :class:`Malformed`."""
    addresses = each(message.addresses, "addresses", _address, most=renewal.MAX_ADDRESSES)
    some(addresses, "addresses")
    return renewal.AddressNotice(
        addresses=addresses,
        said_at=count(message.said_at, "said_at", least=1, most=MAX_CLOCK),
        signature=exact(message.signature, SIGNATURE_BYTES, "signature"),
    )


def _address(value: str) -> str:
    if not is_address(value):
        raise Malformed("addresses holds what is not host:port")
    return value
