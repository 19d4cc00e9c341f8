"""What every test needs: nothing global is left behind for the next one; and a database of each kind, for who asks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from coordinator.storage.configured import Storage
from tests.worlds.object_store import ObjectServer
from tests.worlds.postgres import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, or a worker would be left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection of garbage: with torch that is a million objects."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def objects() -> Iterator[ObjectServer]:
    """Give an S3-compatible store that the tests of a process share; each takes a prefix of its own."""
    server = ObjectServer()
    yield server
    server.close()


ELSEWHERE = ("in another directory", pytest.param("S3", marks=pytest.mark.objects))


def _elsewhere(request: pytest.FixtureRequest, place: Path) -> Storage:
    if request.param == "S3":
        server: ObjectServer = request.getfixturevalue("objects")
        return server.storage(place.name, place)
    return Storage(url=f"file://{place}/kept")


@pytest.fixture(params=ELSEWHERE)
def storage_elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Give a place for runs and uploads beside a coordinator's directory: the test runs once with each kind."""
    return _elsewhere(request, tmp_path)


@pytest.fixture(params=["in the directory", *ELSEWHERE])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage | None:
    """Give where runs and uploads are kept: the test runs once with each place."""
    return None if request.param == "in the directory" else _elsewhere(request, tmp_path)


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
