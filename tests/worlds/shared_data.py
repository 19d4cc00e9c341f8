"""Where public test data lies that is not copied into the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]


def shared_data(name: str) -> Path:
    """Return a file of the shared data (``ONLYSUM_DATA``, or ``../shared/data``), or skip the test by name."""
    base = Path(os.environ.get("ONLYSUM_DATA") or ROOT.parent / "shared" / "data")
    if not (base / name).exists():
        pytest.skip(f"shared data {name} is not here; set ONLYSUM_DATA to the folder that holds it")
    return base / name
