"""Which coordinator invited: it shows itself before it is trusted, and the invitation says whether it is the one.

Guarantees: what is returned has the hash that the invitation pins, so that whoever answers at the address, or sits on
the way to it, can only make joining fail; nothing is sent before, and over the connection that shows it nothing at all.
Leaves to others: enrolling over a connection that the authority verifies (``channel``).
Source: docs/adr/0024-an-invitation-pins-what-the-coordinator-shows.md.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from cryptography import x509

from participant.link.tls_diagnosis import shown_certificate
from privacy.errors import NetworkError
from protos.invitation import INTRODUCTION_OID, Invitation, InvitationLine

INTRODUCTION: Final = x509.ObjectIdentifier(INTRODUCTION_OID)


def introduced(line: InvitationLine, *, proxy: str = "") -> Invitation:
    """Dial the coordinator, look at what it shows of itself, and return the whole invitation.

    Raises:
        NetworkError: no address answers, or none shows the coordinator that invited.
    """
    failure = NetworkError("E-NET-REFUSED", "no address")
    for address in line.enrolment_addresses:
        try:
            return line.completed(_introduction(shown_certificate(address, proxy)))
        except ValueError:
            detail = (
                f"{address} does not show the coordinator that invited: TLS is intercepted on the way, another service "
                "answers, or the invitation is of another coordinator"
            )
            failure = NetworkError("E-NET-TLS", detail)
        except OSError as error:
            failure = _unreachable(address, error)
    raise failure


def _introduction(certificate: bytes) -> bytes:
    try:
        extension = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_oid(INTRODUCTION).value
    except x509.ExtensionNotFound:
        raise ValueError("no introduction") from None
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise ValueError("no introduction")
    return extension.value


def _unreachable(address: str, error: OSError) -> NetworkError:
    if isinstance(error, socket.gaierror):
        return NetworkError("E-NET-DNS", f"{address}: the name is not known")
    if isinstance(error, TimeoutError):
        return NetworkError("E-NET-TIMEOUT", f"{address}: no answer")
    if isinstance(error, ssl.SSLError | ConnectionResetError | EOFError):
        return NetworkError("E-NET-TLS", f"{address}: the connection was closed in the TLS handshake")
    return NetworkError("E-NET-REFUSED", f"{address}: {error.strerror or error}")
