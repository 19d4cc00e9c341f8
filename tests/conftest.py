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
