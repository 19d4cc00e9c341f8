"""A coordinator as ``init`` leaves it, which commands of this process find by the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

import onlysum
from simulation.ports import free_ports


def initialised(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a coordinator's directory within a place and name it in ``ONLYSUM_HOME``."""
    directory = place / "clinic"
    address, enrolment = (f"127.0.0.1:{port}" for port in free_ports(2))
    words = ["coordinator", "init", str(directory), "--name", "clinics", "--operator", "The Institute"]
    assert onlysum.run([*words, "--address", address, "--enrolment-address", enrolment]) == 0
    monkeypatch.setenv("ONLYSUM_HOME", str(directory))
    return directory
