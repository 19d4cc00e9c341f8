"""Strangers at every listener of a coordinator's process while rounds go on: these complete, with the exact sums."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.worlds.around_coordinators import onlysum
from tests.worlds.coordinator_process import CoordinatorProcess, coordinator_process
from tests.worlds.plans import names

MEMBERS = names(3)
ROUNDS = 6
IDLE = 2_000
STRANGERS = 3  # that do something, at a time
GROWTH_BYTES = 192 * 2**20  # of the coordinator's process, under all of it at once
LOG_CHARACTERS = 20_000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x9


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Return a frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


# Before TLS, at any listener.
PLAIN: dict[str, bytes] = {
    "every byte": bytes(range(256)) * 200,
    "a ClientHello that is noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(506),
    "half of a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "HTTP/1.1": b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
    "half of a form": b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nname=",
}
# Within TLS, where newcomers are listened to: anybody may speak HTTP/2 there.
WITHIN_TLS: dict[str, bytes] = {
    "no HTTP/2": bytes(range(256)) * 200,
    "half of the preface": PREFACE[:10],
    "a frame of an unknown kind": PREFACE + frame(SETTINGS) + frame(0xEE, bytes(1000), stream=1),
    "a frame that is too long": PREFACE + frame(SETTINGS) + frame(DATA, bytes(2**20), stream=1),
    "headers that are noise": PREFACE + frame(SETTINGS) + frame(HEADERS, os.urandom(4000), flags=0x4, stream=1),
    "headers without end": PREFACE
    + frame(SETTINGS)
    + frame(HEADERS, bytes(16_000), stream=1)
    + frame(CONTINUATION, bytes(16_000), stream=1) * 500,
    "streams that are opened and reset": PREFACE
    + frame(SETTINGS)
    + b"".join(
        frame(HEADERS, b"\x83\x86\x84", flags=0x4, stream=number)
        + frame(RST_STREAM, struct.pack("!I", 8), stream=number)
        for number in range(1, 20_001, 2)
    ),
    "pings without end": PREFACE + frame(SETTINGS) + frame(PING, bytes(8)) * 20_000,
    "settings without end": PREFACE + frame(SETTINGS, struct.pack("!HI", 4, 65535)) * 20_000,
}


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    with coordinator_process(tmp_path_factory.mktemp("strangers") / "coordinator") as running:
        yield running


def reached(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def say(address: str, words: bytes) -> None:
    """Say something and wait for what comes of it, for a while."""
    with suppress(OSError), reached(address) as connection:
        connection.settimeout(1)
        connection.sendall(words)
        while connection.recv(65536):
            pass


def say_within_tls(address: str, words: bytes) -> None:
    """Say something as somebody who has no certificate and asks for none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with suppress(OSError), reached(address) as plain, context.wrap_socket(plain) as connection:
        connection.settimeout(1)
        connection.sendall(words)
        while connection.recv(65536):
            pass


@contextmanager
def besieged(coordinator: CoordinatorProcess) -> Iterator[Callable[[], int]]:
    """Let strangers do all of it, again and again, while the block runs; yields how often they have done it."""
    done, stop = [0] * STRANGERS, threading.Event()
    plain = [coordinator.address, coordinator.enrolment, coordinator.admin]
    deeds = [partial(say, address, words) for words in PLAIN.values() for address in plain]
    deeds += [
        partial(say_within_tls, address, words)
        for words in WITHIN_TLS.values()
        for address in (coordinator.enrolment, coordinator.address)
    ]

    def siege(number: int) -> None:
        while not stop.is_set():
            for deed in deeds[number::STRANGERS]:
                deed()
            done[number] += 1

    with ExitStack() as stack:
        for number in range(IDLE):
            stack.enter_context(reached(plain[number % len(plain)]))
        threads = [threading.Thread(target=siege, args=[number], daemon=True) for number in range(STRANGERS)]
        for thread in threads:
            thread.start()
        try:
            yield lambda: min(done)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)


def resident_bytes(coordinator: CoordinatorProcess) -> int:
    assert coordinator.process is not None
    pages = int(Path(f"/proc/{coordinator.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def check_log(coordinator: CoordinatorProcess) -> None:
    """Look whether strangers can fill the log or have a place of the program shown in it."""
    text = coordinator.log.read_text()
    assert "Traceback" not in text
    assert len(text) < LOG_CHARACTERS, text[-2000:]


def admin_answers(coordinator: CoordinatorProcess) -> bool:
    host, _, port = coordinator.admin.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/livez")
    answer = connection.getresponse()
    connection.close()
    return answer.status == 200


def test_rounds_complete_with_exact_sums_while_strangers_are_at_every_listener(
    coordinator: CoordinatorProcess, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with coordinator.members(tmp_path, MEMBERS):
            before = resident_bytes(coordinator)
            with besieged(coordinator) as rounds_of_it:
                run = coordinator.create_run(tmp_path / "draft", MEMBERS, rounds=ROUNDS)
                coordinator.await_end(run)
                assert admin_answers(coordinator)
                while not rounds_of_it():  # short rounds may be over before everything was said once
                    assert coordinator.process is not None
                    assert coordinator.process.poll() is None
                    threading.Event().wait(0.1)
                grown = resident_bytes(coordinator) - before
            assert grown < GROWTH_BYTES
            assert [row.survivors for row in coordinator.check_sums(run, MEMBERS)] == [len(MEMBERS)] * ROUNDS
            assert all(member["live"] for member in onlysum("status", *coordinator.where)["members"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    check_log(coordinator)


@pytest.mark.parametrize("case", WITHIN_TLS)
def test_what_is_said_within_tls_ends_there_and_newcomers_are_served(
    coordinator: CoordinatorProcess, tmp_path: Path, case: str
) -> None:
    before = resident_bytes(coordinator)
    with ThreadPoolExecutor(STRANGERS) as strangers:
        list(strangers.map(say_within_tls, [coordinator.enrolment] * STRANGERS, [WITHIN_TLS[case]] * STRANGERS))
    assert resident_bytes(coordinator) - before < GROWTH_BYTES
    with coordinator.members(tmp_path, [f"newcomer-{list(WITHIN_TLS).index(case)}"]):  # who joins at this listener
        pass
    check_log(coordinator)
