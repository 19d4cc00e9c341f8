"""Why TLS failed: gRPC says only that it did, an owner needs to know whom to ask.

Guarantees: looks at the certificates that are really shown, sends nothing of the participant's, and ends within
seconds; what it finds is a ``NetworkError`` in words, or nothing. Where this machine's clock decides, its time is said.
Leaves to others: when to look (``channel``), the way there (``proxy``).
"""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from host.certificates import expires_at, invalid_now
from host.rendering import moment
from participant.link.proxy import dialled
from privacy.errors import NetworkError
from privacy.printable import printable

MAX_ISSUER: Final = 200  # characters that are shown of a name that a stranger chose
_CLOCK: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAMES: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True, slots=True)
class Expected:
    """What a connection should meet."""

    authority: bytes  # PEM, pinned; while another authority follows it, of both
    certificate: bytes | None  # PEM, the participant's own; none before it has enrolled
    proxy: str  # of HTTPS CONNECT, or empty


def explain_tls(address: str, expected: Expected) -> NetworkError | None:
    """Dial once more, look at what is shown, and say what is wrong with it.

    Args:
        address: host and port of the coordinator.
        expected: what the connection should meet.

    Returns:
        The cause, or ``None`` if no connection came about or everything was in order.
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        with (
            dialled(address, expected.proxy) as raw,
            _context(expected.authority).wrap_socket(raw, server_hostname=host),
        ):
            return _own_certificate(expected)
    except ssl.SSLCertVerificationError as error:
        return _tls(_shown_certificate(address, host, expected, error))
    except (ssl.SSLError, ConnectionResetError, EOFError):
        return _tls("the connection was closed in the TLS handshake: a firewall or proxy may not let TLS through")
    except NetworkError as error:
        return error
    except OSError:
        return None


def _tls(detail: str) -> NetworkError:
    return NetworkError("E-NET-TLS", detail)


def _context(authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.decode())
    return context


def _own_certificate(expected: Expected) -> NetworkError | None:
    """The coordinator's certificate was in order, so it is this participant's that was refused."""
    if expected.certificate is None:
        return None
    if reason := invalid_now(expected.certificate, time.time()):
        return _tls(f"this participant's certificate {reason}")
    own = x509.load_pem_x509_certificate(expected.certificate)
    if own.issuer not in {pinned.subject for pinned in x509.load_pem_x509_certificates(expected.authority)}:
        return _tls("this participant's certificate is by another authority than the one it pinned")
    until = f"which is valid until {moment(expires_at(expected.certificate))} UTC"
    return _tls(f"the coordinator refused this participant's certificate, {until}: its own clock may be wrong")


def _shown_certificate(address: str, host: str, expected: Expected, error: ssl.SSLCertVerificationError) -> str:
    shown: x509.Certificate | None = None
    with contextlib.suppress(OSError, ValueError, NetworkError):
        shown = x509.load_der_x509_certificate(shown_certificate(address, expected.proxy))
    if error.verify_code in _CLOCK:
        return _by_the_clock(shown, expected)
    if error.verify_code in _NAMES:
        return f"the coordinator's certificate is not for {host}; the operator adds the name, or it is another machine"
    issuer = "somebody else" if shown is None else printable(shown.issuer.rfc4514_string())[:MAX_ISSUER]
    return (
        f"{address} shows a certificate issued by {issuer}, not by the pinned authority: TLS is intercepted on the way,"
        " or another coordinator answers"
    )


def _by_the_clock(shown: x509.Certificate | None, expected: Expected) -> str:
    leaf = b"" if shown is None else shown.public_bytes(Encoding.PEM)
    for whose, pem in (("the coordinator's certificate", leaf), ("the pinned authority", expected.authority)):
        if pem and (reason := invalid_now(pem, time.time())):
            return f"{whose} {reason}"
    return f"a certificate is not valid now, and this machine's clock says {moment(int(time.time()))} UTC"


def shown_certificate(address: str, proxy: str) -> bytes:
    """Return the certificate (DER) that an address shows, whoever's it is; nothing is sent over this connection.

    Raises:
        OSError: nobody answers, or not in TLS.
        NetworkError: ``E-NET-PROXY``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only looks at it: what it says counts if something else vouches for it
    host = address.rpartition(":")[0].strip("[]")
    with dialled(address, proxy) as raw, context.wrap_socket(raw, server_hostname=host) as shown:
        return shown.getpeercert(binary_form=True) or b""
