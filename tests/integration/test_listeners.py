"""Strangers on the coordinator's two listeners: garbage, and connections that say nothing, many of them."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from participant.link import channel
from participant.link.channel import Channel
from participant.link.identity import enrolment_request, new_keys
from privacy.plan import PROTOCOL_VERSION
from protos import transport
from protos.envelope import Hello, LedgerHead, Role
from tests.worlds.daemons import until
from tests.worlds.loopback import Loopback, coordinator, new_authority
from tests.worlds.seeded import SeededRandom

LISTENERS = ["for members", "for newcomers"]
MANY = 10_000
GARBAGE = {
    "every byte": bytes(range(256)) * 20,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n",
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "a TLS record of a wrong length": b"\x16\x03\x01\xff\xff\x01" + bytes(1000),
    "a ClientHello that is noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(506),
    "a mebibyte of zeros": bytes(2**20),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Loopback]:
    with coordinator(new_authority()) as running:
        yield running


def address(service: Loopback, listener: str) -> tuple[str, int]:
    listeners = service.listeners
    host, _, port = (listeners.address if listener == "for members" else listeners.enrolment_address).rpartition(":")
    return host, int(port)


def serves(service: Loopback, name: str) -> None:
    """Let somebody enrol at one listener and shake hands at the other."""
    invitation = service.invitation(name)
    request = enrolment_request(invitation, new_keys(SeededRandom(name)))
    assert channel.enrol(invitation, request).name == name
    hello = Hello(PROTOCOL_VERSION, "0.1.0", name, Role.PARTICIPANT, LedgerHead(0, b""), ())
    with Channel(service.member(name)) as link:
        assert link.handshake(hello).federation == "test-federation"


@pytest.mark.parametrize("case", GARBAGE)
@pytest.mark.parametrize("listener", LISTENERS)
def test_garbage_is_answered_with_nothing_but_tls_and_others_are_served(
    service: Loopback, listener: str, case: str
) -> None:
    with socket.create_connection(address(service, listener), timeout=2 * transport.HANDSHAKE_SECONDS) as connection:
        answer = b""
        try:
            connection.sendall(GARBAGE[case])
            while data := connection.recv(65536):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert len(answer) <= 7  # an alert of TLS, or nothing
    assert answer[:1] in (b"", b"\x15")
    serves(service, f"{listener}-{case}".replace(" ", "-").replace("/", "-").lower())


def many_idle(service: Loopback, count: int, stack: ExitStack) -> list[socket.socket]:
    """Open connections that say nothing, at both listeners, until the stack is left."""
    return [
        stack.enter_context(socket.create_connection(address(service, LISTENERS[number % 2]), timeout=30))
        for number in range(count)
    ]


def test_connections_that_say_nothing_keep_nobody_out(service: Loopback) -> None:
    with ExitStack() as stack:
        many_idle(service, 400, stack)
        begun = time.monotonic()
        serves(service, "among-idle-ones")
        assert time.monotonic() - begun < transport.HANDSHAKE_SECONDS, "before they are closed"


@pytest.mark.slow
def test_ten_thousand_connections_that_say_nothing_keep_nobody_out_and_are_closed(service: Loopback) -> None:
    """As many as descriptors allow: both ends are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = _descriptors()
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        idle = many_idle(service, min(MANY, (hard - before - 500) // 2), stack)
        serves(service, "among-ten-thousand")
        until(lambda: _descriptors() <= before + len(idle) + 50, "the coordinator has closed its ends")
        for connection in idle[:: len(idle) // 100]:
            connection.settimeout(5)
            assert connection.recv(1) == b"", "it is told"
    serves(service, "after-ten-thousand")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
