"""A daemon tells systemd its state, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.service_manager import READY, StopSignals, notify


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_systemd_hears_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"onlysum-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}" if abstract else str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else str(tmp_path / "notify"))
        notify(READY)
        assert systemd.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was opened"))
    notify(READY)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_current_step_finish_and_the_second_does_not(
    handlers: None, number: signal.Signals
) -> None:
    stop = threading.Event()
    StopSignals(stop.set).install()
    signal.raise_signal(number)
    assert stop.is_set()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_only_a_person_at_a_terminal_is_told_how_to_stop_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    StopSignals(lambda: None)()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    StopSignals(lambda: None)()
    assert capsys.readouterr().err == "Stopping after the current step; press Ctrl-C again to stop now.\n"


BUSY = """
import os, signal, sys, time
from host.service_manager import StopSignals
StopSignals(lambda: None, at_most=0.5).install()
print("busy", flush=True)
{work}
"""
WORK = {
    "a step that does not look up": "while True: time.sleep(0.01)",
    "a computation in C that takes long": "import numpy\nx = numpy.ones((3000, 3000))\nwhile True: x = x @ x * 1e-4",
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_ends_in_time_whatever_it_is_doing(work: str, number: signal.Signals) -> None:
    script = BUSY.replace("{work}", WORK[work])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "busy\n"
            time.sleep(0.3)
            daemon.send_signal(number)
            assert daemon.wait(10) == 0
        finally:
            daemon.kill()
