"""What every test needs: nothing global is left behind for the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Undo a daemon's logging, which would write into a test's closed stream."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _wide_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print sentences whole, so that tests can compare them; a narrower terminal breaks them between words."""
    monkeypatch.setenv("COLUMNS", "500")


@pytest.fixture
def eighty_columns(_wide_lines: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
