"""What every test needs: nothing global is left behind for the next one; and a database of each kind, for who asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.worlds.postgres import Server


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Undo a daemon's logging, which would write into a test's closed stream."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Give a PostgreSQL server that the tests of a process share; each takes a database of its own."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a database that is not there yet, or is empty: the test runs once with each kind."""
    if request.param == "SQLite":
        yield f"sqlite:///{tmp_path}/coordinator.db"
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.database()
    yield url
    server.drop(url)
