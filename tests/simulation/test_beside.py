"""The demo's figure with local noise: measured in a process of its own, or said to be missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulation import beside
from simulation.beside import Beside
from simulation.processes import Daemon


def ended(tmp_path: Path, code: int) -> Daemon:
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"], text=True)
    process.wait()
    return Daemon("local-noise", process, tmp_path / "local-noise.log")


def test_the_figure_is_the_one_that_the_process_left(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text('{"accuracy": 0.91, "epsilon": 7.99}')
    assert Beside(ended(tmp_path, 0), tmp_path / "outcome.json").accuracy() == 0.91


def test_a_process_that_failed_leaves_no_figure_and_names_its_log(tmp_path: Path) -> None:
    failed = Beside(ended(tmp_path, 1), tmp_path / "outcome.json")
    assert failed.accuracy() is None
    assert "local-noise.log" in failed.trouble


def test_a_process_that_takes_too_long_leaves_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "PATIENCE", 0.2)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True)
    try:
        slow = Beside(Daemon("local-noise", process, tmp_path / "local-noise.log"), tmp_path / "outcome.json")
        assert slow.accuracy() is None
        assert slow.trouble == "is not ready in time"
    finally:
        process.kill()
        process.wait()
