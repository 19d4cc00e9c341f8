"""One POST to a webhook, and one run of a command, each within a number of seconds.

Guarantees: whatever the other side does (hangs, sends a byte a minute, redirects, answers without end), a call is over
after its seconds; no redirect is followed, no proxy and no cookie is used, and of the answer only its status is read.
HTTPS is verified against the system's authorities. A command gets the event on standard input, no shell, and of the
daemon's environment only where programs and the home directory are; what it started ends with it if it takes too long.
Leaves to others: trying again (``host.events.announcer``).
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
AGENT: Final = "onlysum"


def post(url: str, body: bytes, *, seconds: float, headers: Mapping[str, str]) -> tuple[str, bool]:
    """Send a body to a webhook.

    Args:
        url: as ``host.events.event.Events`` has checked it.
        body: JSON.
        seconds: after which the connection is cut, wherever it stands.
        headers: beside those that say what the body is and who sends it.

    Returns:
        What went wrong, empty if it was taken (status 2xx), and whether trying again may help.
    """
    parts = urlsplit(url)
    host, path = parts.hostname or "", f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    connection = (
        HTTPSConnection(host, parts.port, timeout=seconds, context=ssl.create_default_context())
        if parts.scheme == "https"
        else HTTPConnection(host, parts.port, timeout=seconds)
    )
    over = threading.Event()
    cut = threading.Timer(seconds, _cut, [connection, over])
    cut.daemon = True
    cut.start()
    try:
        connection.connect()
        if over.is_set():  # while it was being made there was nothing to cut
            return f"not done within {seconds:g} s", True
        connection.request("POST", path, body, {"Content-Type": "application/json", "User-Agent": AGENT, **headers})
        status = connection.getresponse().status
    except (OSError, HTTPException, UnicodeError) as error:
        return type(error).__name__, True
    finally:
        cut.cancel()
        connection.close()
    if over.is_set():
        return f"not done within {seconds:g} s", True
    again = status >= 500 or status in (408, 425, 429)
    return ("", False) if 200 <= status < 300 else (f"status {status}", again)


def _cut(connection: HTTPConnection, over: threading.Event) -> None:
    over.set()
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def run(command: Sequence[str], body: bytes, *, seconds: float) -> str:
    """Run a command with a body on its standard input.

    Args:
        command: program and arguments.
        body: JSON.
        seconds: after which it is killed, with all that it started.

    Returns:
        What went wrong; empty if it ended with exit code 0.
    """
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    try:
        process = subprocess.Popen(  # noqa: S603  # the configured command, without a shell
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return type(error).__name__
    try:
        process.communicate(body, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:g} s"
    finally:
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"exit code {process.returncode}" if process.returncode else ""
