"""Why TLS failed: gRPC says only that it did, an owner needs to know whom to ask.

Guarantees: looks at the certificates that are really shown, sends nothing of the participant's, and ends within
seconds; what it finds is a ``NetworkError(E-NET-TLS)`` in words, or nothing.
Leaves to others: when to look (``channel``, ``doctor``).
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from cryptography import x509

from privacy.errors import NetworkError

PROBE_SECONDS: Final = 5.0  # for each step
MAX_PROXY_ANSWER: Final = 8192  # bytes of a proxy's headers
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NAMES: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True, slots=True)
class Expected:
    """What a connection should meet."""

    authority: bytes  # PEM, pinned
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
            _connected(address, expected.proxy) as raw,
            _context(expected.authority).wrap_socket(raw, server_hostname=host),
        ):
            return _own_certificate(expected)
    except ssl.SSLCertVerificationError as error:
        return _tls(_shown_certificate(address, host, expected, error))
    except (ssl.SSLError, ConnectionResetError, EOFError):
        return _tls("the connection was closed in the TLS handshake: a firewall or proxy may not let TLS through")
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
    own = x509.load_pem_x509_certificate(expected.certificate)
    if own.not_valid_after_utc.timestamp() < time.time():
        return _tls(f"this participant's certificate expired on {own.not_valid_after_utc:%Y-%m-%d}; enrol again")
    if own.issuer != x509.load_pem_x509_certificate(expected.authority).subject:
        return _tls("this participant's certificate is by another authority than the one it pinned")
    return _tls("the coordinator's certificate is in order; it refused this participant's")


def _shown_certificate(address: str, host: str, expected: Expected, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return f"the coordinator's certificate has expired, or this machine's clock ({time.ctime()}) is wrong"
    if error.verify_code in _NAMES:
        return f"the coordinator's certificate is not for {host}; the operator adds the name, or it is another machine"
    issuer = "somebody else"
    with contextlib.suppress(OSError, ValueError):
        issuer = _issuer(address, expected.proxy)
    return (
        f"{address} shows a certificate issued by {issuer}, not by the pinned authority: TLS is intercepted on the way,"
        " or another coordinator answers"
    )


def shown_certificate(address: str, proxy: str) -> bytes:
    """Return the certificate (DER) that an address shows, whoever's it is; nothing is sent over this connection.

    Raises:
        OSError: nobody answers, or not in TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only looks at it: what it says counts if something else vouches for it
    host = address.rpartition(":")[0].strip("[]")
    with _connected(address, proxy) as raw, context.wrap_socket(raw, server_hostname=host) as shown:
        return shown.getpeercert(binary_form=True) or b""


def _issuer(address: str, proxy: str) -> str:
    name = x509.load_der_x509_certificate(shown_certificate(address, proxy)).issuer.rfc4514_string()
    return "".join(one for one in name if one.isprintable())[:200]


@contextlib.contextmanager
def _connected(address: str, proxy: str) -> Iterator[socket.socket]:
    """Give a connection to the address, through the proxy if there is one."""
    parts = urlsplit(proxy or f"//{address}")
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PROBE_SECONDS) as raw:
        if proxy:
            raw.sendall(_connect_request(address, parts.username, parts.password))
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                byte = raw.recv(1)  # not one byte of what follows the headers may be taken
                if not byte or len(answer) > MAX_PROXY_ANSWER:
                    raise OSError("the proxy did not answer")
                answer += byte
            if answer.split(b" ", 2)[1:2] != [b"200"]:
                raise OSError("the proxy refused")
        yield raw


def _connect_request(address: str, user: str | None, password: str | None) -> bytes:
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if user is not None:
        login = f"{unquote(user)}:{unquote(password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()
