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


@pytest.fixture(autouse=True)
def _wide_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print sentences whole, so that tests can compare them; a narrower terminal breaks them between words."""
    monkeypatch.setenv("COLUMNS", "500")


@pytest.fixture(autouse=True)
def _ledgers_of_a_test(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep this user's own ledgers out of tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture
def eighty_columns(_wide_lines: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


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
