"""``onlysum coordinator start`` as a process: it tells systemd its state, and logs where it is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onlysum
from simulation.ports import free_ports


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "clinic"
    address, enrolment = (f"127.0.0.1:{port}" for port in free_ports(2))
    words = ["coordinator", "init", str(directory), "--name", "clinics", "--operator", "I"]
    assert onlysum.run([*words, "--address", address, "--enrolment-address", enrolment]) == 0
    return directory


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        yield listener


def started(home: Path, notify: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "onlysum", "coordinator", "start", "--config", str(home)]
    environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_systemd_is_told_that_the_coordinator_is_ready_and_that_it_stops(
    home: Path, tmp_path: Path, systemd: socket.socket
) -> None:
    with started(home, tmp_path / "notify") as daemon:
        try:
            assert systemd.recv(100) == b"READY=1"
            assert daemon.poll() is None
            daemon.send_signal(signal.SIGTERM)
            assert systemd.recv(100) == b"STOPPING=1"
            assert daemon.wait(20) == 0
        finally:
            daemon.kill()
    assert not (home / "daemon.json").exists()


def test_its_log_goes_to_the_configured_file_from_the_configured_level_on(
    home: Path, tmp_path: Path, systemd: socket.socket
) -> None:
    configuration = home / "coordinator.toml"
    text = configuration.read_text().replace('# file = "coordinator.log"', 'file = "daemon.log"')
    configuration.write_text(text.replace('# level = "info"', 'level = "debug"'))
    with started(home, tmp_path / "notify") as daemon:
        try:
            assert systemd.recv(100) == b"READY=1"
            daemon.send_signal(signal.SIGINT)
            assert daemon.wait(20) == 0
            assert daemon.stderr is not None
            assert daemon.stderr.read() == ""
        finally:
            daemon.kill()
    assert all(json.loads(line) for line in (home / "daemon.log").read_text().splitlines())
    assert (home / "daemon.log").stat().st_mode & 0o777 == 0o600
