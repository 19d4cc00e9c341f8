"""Several coordinators on one database: which are known, whether they share a directory, and how their clocks go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.config import Listener, Replicas, Settings
from coordinator.daemon.doctor import replica_checks
from coordinator.database import coordinator_rows, lease_rows, run_rows
from coordinator.database.coordinator_rows import GONE_SECONDS
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.database.store import Store
from coordinator.home import Home
from coordinator.leadership import examination, presence
from coordinator.leadership.leadership import LEASE_SECONDS
from coordinator.leadership.presence import Mark, Presence, read_mark, write_mark
from coordinator.storage.configured import Storage
from coordinator.views.leaders import live_anywhere
from privacy.errors import LocalError
from tests.worlds.plans import CREATED_AT, make_plan, sign_plan
from tests.worlds.postgres import Server

A, B, STRANGER = (f"sum-{name}.example.org:8443" for name in "abx")


@dataclass
class WallClock:
    """The machine's clock, some seconds off."""

    off: float = 0.0

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return time.time() + self.off

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""
        return time.monotonic()


@pytest.fixture
def store(postgres: Server) -> Iterator[Store]:
    url = postgres.database()
    with closing(Store.create(url)) as opened:
        yield opened
    postgres.drop(url)


def settings(directory: Path, *, own: str = A, others: tuple[str, ...] = (B,)) -> Settings:
    """Return what stands in a coordinator.toml beside a database on a server."""
    return Settings(
        federation="clinics",
        operator="The Institute",
        participants=Listener(address=own),
        enrolment=Listener(address=own.replace("8443", "8444")),
        database="postgresql://onlysum@db.example.org/clinics",
        replicas=Replicas(
            directory=str(directory),
            addresses=others,
            enrolment_addresses=tuple(address.replace("8443", "8444") for address in others),
        ),
    )


def runs_at(store: Store, address: str, shared: Path | None, *, off: float = 0.0, process: str = "") -> Presence:
    """Return a process that has said that it runs."""
    said = Presence(store, clock=WallClock(off), process=process or address[4] * 32, address=address, shared=shared)
    said.say()
    return said


def silent_for(store: Store, address: str, seconds: float) -> None:
    """Let the processes at an address have said nothing for some time."""
    with store.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE coordinators SET seen_at = seen_at - :ms, started_at = started_at - :ms WHERE address = :at"
            ),
            {"ms": int(seconds * 1000), "at": address},
        )


def code_of(error: pytest.ExceptionInfo[LocalError]) -> str:
    return error.value.code


# --- which are known ---


def test_coordinators_that_run_are_named_with_what_each_leads(store: Store, tmp_path: Path) -> None:
    plan, _ = make_plan()
    record = RunRecord(
        plan.run_id, plan.to_bytes(), sign_plan(plan), RunState.CREATED, "", "", False, False, CREATED_AT, None
    )
    for address in (A, B):
        runs_at(store, address, tmp_path)
    with store.begin() as connection:
        run_rows.add_run(connection, record)
        lease_rows.take(connection, plan.run_id, holder="b" * 32, address=B, seconds=60)
    said = examination.coordinators(settings(tmp_path), store)
    assert said == f"{A} (this one, 0.1.0) leads no run; {B} (0.1.0) leads {plan.run_id[:8]}"


def test_another_that_was_never_seen_or_says_nothing_any_more_is_missed(store: Store, tmp_path: Path) -> None:
    runs_at(store, A, tmp_path)
    with pytest.raises(LocalError) as refused:
        examination.coordinators(settings(tmp_path), store)
    assert (code_of(refused), refused.value.detail) == (
        "E-REPLICA-AWAY",
        f"{B} does not run, or not on this database",
    )
    runs_at(store, B, tmp_path)
    silent_for(store, B, GONE_SECONDS + 10)
    with pytest.raises(LocalError, match=rf"E-REPLICA-AWAY: {B} has said nothing for 3\d s"):
        examination.coordinators(settings(tmp_path), store)


def test_members_that_poll_one_are_live_at_every_other_while_it_runs(store: Store, tmp_path: Path) -> None:
    runs_at(store, A, tmp_path).say(("carol", "alice"))

    def live() -> frozenset[str]:
        with store.read() as connection:
            return live_anywhere(connection, ("bob",))

    assert live() == {"alice", "bob", "carol"}
    silent_for(store, A, GONE_SECONDS + 10)
    assert live() == {"bob"}


def test_one_that_ends_says_so_and_one_that_was_killed_is_replaced_by_its_successor(
    store: Store, tmp_path: Path
) -> None:
    runs_at(store, A, tmp_path).end()
    runs_at(store, B, tmp_path, process="1" * 32)
    silent_for(store, B, 5)  # it was killed, and another one is started at once
    runs_at(store, B, tmp_path, process="2" * 32)
    assert examination.coordinators(settings(tmp_path), store) == f"{B} (0.1.0) leads no run"
    assert examination.shared_directory(settings(tmp_path), store) == f"{tmp_path}, also seen from {B}"
    silent_for(store, B, GONE_SECONDS + 10)
    runs_at(store, B, tmp_path, process="3" * 32)
    with store.read() as connection:
        assert [known.process for known in coordinator_rows.list_coordinators(connection)] == ["3" * 32]


def test_one_that_nobody_named_is_found_also_by_a_coordinator_that_knows_of_no_other(
    store: Store, tmp_path: Path
) -> None:
    runs_at(store, STRANGER, None)
    alone = settings(tmp_path).model_copy(update={"replicas": None})
    for own in (settings(tmp_path), alone):
        with pytest.raises(LocalError, match=STRANGER) as refused:
            examination.coordinators(own, store)
        assert code_of(refused) == "E-REPLICA-UNKNOWN"


def test_two_that_run_at_once_under_one_address_are_found(store: Store, tmp_path: Path) -> None:
    first = runs_at(store, A, tmp_path, process="1" * 32)
    second = runs_at(store, A, tmp_path, process="2" * 32)
    first.say()
    second.say()
    with pytest.raises(LocalError) as refused:
        examination.coordinators(settings(tmp_path), store)
    assert code_of(refused) == "E-REPLICA-TWICE"


def test_a_database_in_a_file_keeps_no_such_rows(tmp_path: Path) -> None:
    with closing(Store.create(f"sqlite:///{tmp_path}/coordinator.db")) as alone:
        runs_at(alone, A, tmp_path).end()
        with alone.read() as connection:
            assert coordinator_rows.list_coordinators(connection) == ()
    assert not (tmp_path / presence.DIRECTORY).exists()


# --- whether the directory is shared ---


def test_where_a_storage_has_what_is_shared_no_directory_is_looked_at(tmp_path: Path) -> None:
    beside = settings(tmp_path)
    elsewhere = beside.model_copy(
        update={
            "replicas": beside.replicas and beside.replicas.model_copy(update={"directory": ""}),
            "storage": Storage(url="s3://clinics/sums"),
        }
    )
    looked = [[check.name for check in replica_checks(Home(tmp_path), each)] for each in (beside, elsewhere)]
    assert looked == [["coordinators", "shared directory", "clocks"], ["coordinators", "clocks"]]


def test_a_directory_is_shared_if_what_every_other_one_wrote_is_there(store: Store, tmp_path: Path) -> None:
    own = settings(tmp_path)
    runs_at(store, A, tmp_path)
    assert examination.shared_directory(own, store) == f"{tmp_path}; nobody else runs who could show it"
    runs_at(store, B, tmp_path)
    assert examination.shared_directory(own, store) == f"{tmp_path}, also seen from {B}"


def test_another_directory_under_the_same_name_is_not_shared_nor_is_one_that_is_missing(
    store: Store, tmp_path: Path
) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    mine.mkdir()
    others.mkdir()
    runs_at(store, A, mine)
    runs_at(store, B, others)
    for directory in (mine, tmp_path / "missing"):
        with pytest.raises(LocalError) as refused:
            examination.shared_directory(settings(directory), store)
        assert code_of(refused) == "E-REPLICA-DIRECTORY"


def test_a_copy_of_the_shared_directory_is_found_out(store: Store, tmp_path: Path) -> None:
    shared, copy = tmp_path / "shared", tmp_path / "copy"
    shared.mkdir()
    other = runs_at(store, B, shared)
    shutil.copytree(shared, copy)
    for _ in range(examination.BEATS_BEHIND):
        other.say()
    assert examination.shared_directory(settings(copy), store).startswith(str(copy))  # as a slow file system may
    other.say()
    with pytest.raises(LocalError, match="E-REPLICA-DIRECTORY"):
        examination.shared_directory(settings(copy), store)
    assert examination.shared_directory(settings(shared), store).startswith(str(shared))


def test_who_cannot_write_there_says_that_it_runs_all_the_same_and_is_found(store: Store, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / presence.DIRECTORY).write_text("")  # a file where the directory would be
    runs_at(store, B, blocked)
    with pytest.raises(LocalError, match="E-REPLICA-DIRECTORY"):
        examination.shared_directory(settings(blocked), store)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"process": "b"}', b"\xff" * 2000, b'{"beat": {}, "process": 1}'])
def test_a_mark_that_is_none_is_read_as_none(tmp_path: Path, text: bytes) -> None:
    write_mark(tmp_path, B, Mark("b" * 32, 7))
    assert read_mark(tmp_path, B) == Mark("b" * 32, 7)
    presence.mark_file(tmp_path, B).write_bytes(text)
    assert read_mark(tmp_path, B) is None


# --- how the clocks go ---


def test_clocks_may_differ_from_the_databases_by_as_long_as_a_lease_holds(store: Store, tmp_path: Path) -> None:
    runs_at(store, B, tmp_path, off=LEASE_SECONDS / 2)
    said = examination.clocks(settings(tmp_path), store, WallClock())
    assert said == f"within 3.0 s of the database's: this machine, {B}"


WRONG: dict[str, tuple[float, float, str]] = {
    "this machine's clock is ahead": (90.0, 0.0, "this machine 90 s ahead of it"),
    "this machine's clock is behind": (-LEASE_SECONDS - 1, 0.0, "this machine 7 s behind it"),
    "another one's clock is behind": (0.0, -3600.0, f"{B} 3600 s behind it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_clock_is_wrong_where(case: str, store: Store, tmp_path: Path) -> None:
    mine, other, words = WRONG[case]
    runs_at(store, B, tmp_path, off=other)
    with pytest.raises(LocalError) as refused:
        examination.clocks(settings(tmp_path), store, WallClock(mine))
    assert code_of(refused) == "E-REPLICA-CLOCK"
    assert refused.value.detail == f"by the database's clock: {words}; 6 s are allowed"


def test_a_record_says_when_its_process_was_started_and_last_seen(store: Store) -> None:
    said = runs_at(store, A, None)
    with store.read() as connection:
        (first,) = coordinator_rows.list_coordinators(connection)
    said.say()
    with store.read() as connection:
        (second,) = coordinator_rows.list_coordinators(connection)
    assert (first.beat, second.beat, first.version) == (1, 2, "0.1.0")
    assert second.seen_at >= first.seen_at == first.started_at
    assert replace(second, seen_at=0, age=0.0, beat=0, clock_ms=0) == replace(
        first, seen_at=0, age=0.0, beat=0, clock_ms=0
    )
