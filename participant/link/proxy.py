"""The way to the coordinator, dialled by hand: gRPC does not say which end of a proxy was silent.

Guarantees: sends a proxy nothing but the request to connect and the configured login; a proxy is named by host and
port, never with its login.
Leaves to others: when to look (``channel``), what is spoken on the connection (``tls_diagnosis``).
Source: RFC 9110 section 9.3.6 (CONNECT), section 15 (statuses).
"""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from privacy.errors import NetworkError

PROBE_SECONDS: Final = 5.0  # for each step
MAX_PROXY_ANSWER: Final = 8192  # bytes of a proxy's headers
_GATEWAY: Final = frozenset({b"502", b"503", b"504"})  # the proxy works, what is behind it does not answer


@contextlib.contextmanager
def dialled(address: str, proxy: str) -> Iterator[socket.socket]:
    """Give a connection to the address, through the proxy if there is one.

    Raises:
        NetworkError: ``E-NET-PROXY``, the proxy does not open the way; ``E-NET-REFUSED``, it says that the coordinator
            does not answer.
        OSError: there is no proxy, and the address does not answer.
    """
    if not proxy:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS) as raw:
            yield raw
        return
    with _dial_proxy(urlsplit(proxy)) as raw:
        _ask(raw, address, urlsplit(proxy))
        yield raw


def explain_proxy(address: str, proxy: str) -> NetworkError | None:
    """Dial once more through the proxy, and say what it does wrong; ``None`` if it opened the way."""
    try:
        with dialled(address, proxy):
            return None
    except NetworkError as error:
        return error


def _dial_proxy(parts: SplitResult) -> socket.socket:
    try:
        return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=PROBE_SECONDS)
    except socket.gaierror:
        raise _broken(parts, "its name does not resolve") from None
    except OSError as error:
        raise _broken(parts, f"it does not answer: {error.strerror or 'timed out'}") from None


def _ask(raw: socket.socket, address: str, parts: SplitResult) -> None:
    try:
        raw.sendall(_connect_request(address, parts.username, parts.password))
        head = _headers(raw)
    except OSError:
        raise _broken(parts, "it took the connection and then did not answer") from None
    version, _, rest = head.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/") or not status.isdigit():
        raise _broken(parts, "what answers there is no HTTP proxy")
    if status == b"407":
        raise _broken(parts, "it asks for another login: http://USER:PASSWORD@HOST:PORT in participant.toml")
    if status in _GATEWAY:
        detail = f"the proxy {_shown(parts)} answers, and cannot reach {address} (status {status.decode()})"
        raise NetworkError("E-NET-REFUSED", detail)
    if not status.startswith(b"2"):
        raise _broken(parts, f"it does not let connections to {address} pass (status {status.decode()})")


def _headers(raw: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = raw.recv(1)  # not one byte of what follows the headers may be taken
        if not byte or len(answer) > MAX_PROXY_ANSWER:
            return answer
        answer += byte
    return answer


def _broken(parts: SplitResult, reason: str) -> NetworkError:
    return NetworkError("E-NET-PROXY", f"the proxy {_shown(parts)}: {reason}")


def _shown(parts: SplitResult) -> str:
    return f"{parts.hostname}:{parts.port or 80}"


def _connect_request(address: str, user: str | None, password: str | None) -> bytes:
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if user is not None:
        login = f"{unquote(user)}:{unquote(password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()
