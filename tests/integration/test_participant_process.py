"""``onlysum participant start`` as a process: it stays when nobody answers, and ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from participant.daemon.status import read_status
from participant.home import Home
from tests.worlds.enrolled import authority, enrol


def started(home: Home) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "onlysum", "participant", "start", "--config", str(home.directory)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[Home, subprocess.Popen[str]]]:
    home = enrol(tmp_path / "alice", authority())
    running = started(home)
    yield home, running
    if running.poll() is None:
        running.kill()
    running.wait(10)
    assert running.stderr is not None
    running.stderr.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_daemon_whose_coordinator_is_not_there_stays_and_says_why_once(
    process: tuple[Home, subprocess.Popen[str]],
) -> None:
    home, running = process
    until(lambda: (seen := read_status(home)) is not None and seen.code == "E-NET-REFUSED")
    time.sleep(1.5)  # several more tries
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    assert running.stderr is not None
    lines = [json.loads(line) for line in running.stderr.read().splitlines()]
    trouble = [line for line in lines if line["event"] == "not connected"]
    assert [line["code"] for line in trouble] == ["E-NET-REFUSED"]
    assert "coordinator status" in trouble[0]["next"]
    status = read_status(home)
    assert status is not None
    assert status.running is False


def test_its_log_goes_to_the_configured_file(tmp_path: Path) -> None:
    home = enrol(tmp_path / "alice", authority())
    home.config.write_text(home.config.read_text().replace('# file = "participant.log"', 'file = "daemon.log"'))
    with started(home) as running:
        until(lambda: (seen := read_status(home)) is not None and seen.code == "E-NET-REFUSED")
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""
    lines = [json.loads(line) for line in (tmp_path / "alice" / "daemon.log").read_text().splitlines()]
    assert "not connected" in [line["event"] for line in lines]
