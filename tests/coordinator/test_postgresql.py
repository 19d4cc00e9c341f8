"""The coordinator on a PostgreSQL server, begun once, written in turn, waited for; and what SQLite promises as well."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from typing import Any, cast

import psycopg
import pytest
import sqlalchemy as sa

import onlysum
from coordinator.config import parse_settings
from coordinator.daemon.runner import Runner
from coordinator.database import member_rows
from coordinator.database.engines import connect, refusals
from coordinator.database.run_rows import RunState
from coordinator.database.store import HEAD, Store
from coordinator.enrolment.invitations import make_invitation
from coordinator.opened import open_home
from privacy.errors import LocalError, PeerError
from protos.envelope import DatasetOffer, Role
from simulation.ports import free_ports
from tests.worlds.coordinator import ScriptedMember, World
from tests.worlds.federation import SeededSource
from tests.worlds.postgres import Server

NOW = 1_800_000_000
AWAY = LocalError("E-DATABASE-AWAY", "the database: the connection broke")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What ``init`` leaves: a database of its own beside the keys."""
    directory = tmp_path / "clinic"
    address, enrolment = (f"127.0.0.1:{port}" for port in free_ports(2))
    words = ["coordinator", "init", str(directory), "--name", "clinics", "--operator", "I"]
    assert onlysum.run([*words, "--address", address, "--enrolment-address", enrolment]) == 0
    return directory


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that a test may stop."""
    made = Server()
    yield made
    made.remove()


def move_to(home: Path, url: str) -> None:
    """Name another database in coordinator.toml, as an operator does with an editor."""
    file = home / "coordinator.toml"
    text = file.read_text().replace('# database = "sqlite:///coordinator.db"', f'database = "{url}"')
    file.write_text(text)
    assert parse_settings(text).database == url


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert onlysum.run(["coordinator", *words, "--json"]) == code
    printed = capsys.readouterr()
    return json.loads(printed.err)["error"] if not printed.out else json.loads(printed.out)


# --- begun once ---


@pytest.mark.parametrize("first", ["migrate", "status", "doctor", "invite"])
def test_the_empty_database_of_a_new_coordinator_is_begun_by_whatever_opens_it_first(
    home: Path, postgres: Server, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    move_to(home, postgres.database())
    code = 3 if first == "status" else 0  # there is no daemon
    said(capsys, first, *(["alice"] if first == "invite" else []), "--config", str(home), code=code)
    assert said(capsys, "invite", "bob", "--config", str(home))["name"] == "bob"


def test_init_takes_the_url_of_an_empty_database_and_leaves_its_tables_there(
    tmp_path: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url, home = postgres.database(), tmp_path / "clinic"
    said(capsys, "init", str(home), "--name", "clinics", "--operator", "I", "--database", url)
    assert not (home / "coordinator.db").exists()
    with closing(Store.open(url)) as store, store.read() as connection:
        assert member_rows.list_members(connection) == ()
    assert said(capsys, "migrate", "--config", str(home)) == {"from": HEAD, "to": HEAD}


@pytest.mark.parametrize("words", [("status",), ("migrate",), ("start",), ("member", "list")])
def test_a_database_on_a_server_that_was_emptied_is_never_begun_anew(
    home: Path, postgres: Server, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    move_to(home, postgres.database())
    said(capsys, "invite", "alice", "--config", str(home))
    text = (home / "coordinator.toml").read_text()
    other = postgres.database()
    (home / "coordinator.toml").write_text(text.replace(parse_settings(text).database, other))
    refused = said(capsys, *words, "--config", str(home), code=6)
    assert refused["code"] == "E-STATE-DAMAGED"
    assert "never begun anew" in refused["detail"]
    with connect(other).connect() as connection:
        assert sa.inspect(connection).get_table_names() == []


def test_a_coordinator_that_has_opened_its_own_database_begins_no_other(
    home: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "invite", "alice", "--config", str(home))
    move_to(home, postgres.database())
    assert said(capsys, "status", "--config", str(home), code=6)["code"] == "E-STATE-DAMAGED"


def test_a_database_that_cannot_hold_every_text_is_refused_at_once(home: Path, postgres: Server) -> None:
    with pytest.raises(LocalError, match="the database's encoding is SQL_ASCII"):
        Store.create(postgres.database(encoding="SQL_ASCII"))


@pytest.mark.parametrize("url", ["mysql://u@h/n", "postgresql+asyncpg://u@h/n", "sqlite://", "clinic.db"])
def test_a_database_that_no_driver_of_ours_opens_is_refused_by_its_line(home: Path, url: str) -> None:
    text = (
        (home / "coordinator.toml")
        .read_text()
        .replace('# database = "sqlite:///coordinator.db"', f'database = "{url}"')
    )
    with pytest.raises(LocalError, match=r"line \d+: database: a database is sqlite:///FILE or postgresql://"):
        parse_settings(text)


def test_a_bundle_for_support_holds_no_password_of_a_database(
    home: Path, tmp_path: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.database()
    move_to(home, url.replace("@", ":s3cret/@", 1))
    bundle = tmp_path / "bundle.zip"
    said(capsys, "doctor", "--bundle", str(bundle), "--config", str(home))  # empty: how its server runs is not asked
    written = zipfile.ZipFile(bundle).read("coordinator.toml").decode()
    assert "s3cret" not in written
    assert url.partition("@")[2] in written


# --- written in turn ---


def test_twelve_invitations_at_once_all_hold_and_the_security_log_stays_a_chain(home: Path, database: str) -> None:
    if database.startswith("postgresql"):
        move_to(home, database)
    with open_home(home):
        pass  # begun before the commands run at once

    def invite(number: int) -> str:
        with open_home(home) as opened:
            name, until = f"member-{number}", NOW + 60
            return make_invitation(opened, name=name, role=Role.PARTICIPANT, labels=[], now=NOW, until=until)

    with ThreadPoolExecutor(12) as commands:
        assert len(set(commands.map(invite, range(12)))) == 12
    with open_home(home) as opened, opened.store.read() as connection:
        rows = member_rows.security_log(connection)
        assert len(rows) == len(member_rows.list_tokens(connection)) == 12
    member_rows.verify_security_log(rows)


def test_a_reader_sees_one_state_and_keeps_no_writer_waiting(database: str) -> None:
    with closing(Store.create(database)) as store, store.read() as reading:
        assert member_rows.security_log(reading) == ()
        with store.begin() as writing:
            member_rows.log_security(writing, NOW, "kind", "subject", "")
        assert member_rows.security_log(reading) == ()


def test_a_transaction_that_reads_before_it_writes_finds_no_other_between(database: str) -> None:
    began, store = Event(), Store.create(database)

    def append(_: int) -> None:
        with store.begin() as connection:
            began.set()
            member_rows.log_security(connection, NOW, "kind", "subject", "")

    with closing(store), ThreadPoolExecutor(1) as other:
        with store.begin() as connection:
            second = other.submit(append, 2)
            assert not began.wait(0.2)
            member_rows.log_security(connection, NOW, "kind", "subject", "")
        second.result(10)
        with store.read() as connection:
            member_rows.verify_security_log(member_rows.security_log(connection))


@pytest.mark.parametrize("begun", ["between two statements", "in the middle of one"])
def test_a_writer_that_was_stopped_keeps_the_others_waiting_for_seconds_only(postgres: Server, begun: str) -> None:
    url = postgres.database()
    with closing(Store.create(url)) as other:
        stopped = connect(url).connect()
        transaction = stopped.begin()
        driver = cast("psycopg.Connection[Any]", stopped.connection.driver_connection)
        if begun == "in the middle of one":  # as when a stop comes while rows are being sent
            driver.pgconn.enter_pipeline_mode()
            driver.pgconn.send_query_params(b"SELECT 1", None)
            driver.pgconn.send_flush_request()
            driver.pgconn.flush()
        begin, written = time.monotonic(), False
        while not written and time.monotonic() < begin + 45:
            with suppress(LocalError), other.begin() as connection:  # E-STATE-BUSY: once more, as the daemon does
                member_rows.log_security(connection, NOW, "kind", "subject", "")
                written = True
        waited = time.monotonic() - begin
        stopped.invalidate()
        transaction.rollback()
    postgres.drop(url)
    assert written
    assert waited < 20


def test_names_come_in_the_order_of_their_bytes_whatever_the_locale_of_the_server(database: str) -> None:
    names = ["wards", "wards-2024", "wards.b", "wards2", "wards_a"]
    with closing(Store.create(database)) as store, store.begin() as connection:
        offers = [DatasetOffer(name, 1) for name in reversed(names)]
        member_rows.announce(connection, "alice", version="1", offers=offers)
        assert [offer.name for offer in member_rows.announced(connection, "alice")] == sorted(names)


# --- waited for ---


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (None, "E-DATABASE-AWAY"),
        ("08006", "E-DATABASE-AWAY"),
        ("57P01", "E-DATABASE-AWAY"),
        ("57P03", "E-DATABASE-AWAY"),
        ("53300", "E-DATABASE-AWAY"),
        ("53100", "E-DISK-FULL"),
        ("58030", "E-DISK-FAILED"),
        ("40P01", "E-STATE-BUSY"),
        ("XX001", "E-STATE-DAMAGED"),
        ("42P01", "E-STATE-DAMAGED"),
        ("23505", "E-BUG"),
    ],
)
def test_what_a_server_refuses_is_told_apart_from_damage(state: str | None, code: str) -> None:
    said = psycopg.OperationalError("as the server\n\tputs it")
    said.sqlstate = state
    with pytest.raises(LocalError) as caught, refusals():
        raise sa.exc.OperationalError("INSERT", {}, said)
    assert caught.value.code == code
    assert "\n" not in caught.value.detail


def test_a_statement_that_breaks_a_rule_of_the_tables_is_our_bug_and_shows_no_value(database: str) -> None:
    twice = [DatasetOffer("secret-name", 1)] * 2
    with (
        closing(Store.create(database)) as store,
        pytest.raises(LocalError, match="E-BUG: a statement was refused") as caught,
        store.begin() as connection,
    ):
        member_rows.announce(connection, "alice", version="1", offers=twice)
    assert "secret" not in str(caught.value)


class FlakyStore(Store):
    """Fails now and then: before a transaction that reads; in one that writes, which is undone, or after its commit."""

    def __init__(self, engine: sa.Engine, *, committed: bool) -> None:
        super().__init__(engine)
        self._committed = committed
        self._chances = Random(7)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        fails = self._chances.random() < 0.2
        with super().begin() as connection:
            yield connection
            if fails and not self._committed:
                raise AWAY
        if fails:
            raise AWAY

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        if self._chances.random() < 0.05:
            raise AWAY
        with super().read() as connection:
            yield connection


async def ticked(world: World) -> None:
    with suppress(LocalError):
        await world.runner.tick()


async def stubborn(member: ScriptedMember, message: Any) -> None:
    """Send a message until it is taken, as a member's daemon does."""
    for _ in range(100):
        try:
            await member.deliver(message)
        except (LocalError, PeerError) as error:
            if error.code not in ("E-DATABASE-AWAY", "E-WIRE-UNEXPECTED"):
                raise
            await ticked(member.world)
        else:
            return
    raise AssertionError("the message is never taken")


@pytest.mark.parametrize("committed", [False, True], ids=["undone", "committed, and the answer is lost"])
def test_a_database_that_fails_again_and_again_costs_no_attempt_and_no_exactness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    monkeypatch.setattr("coordinator.runs.run.OPENED_WITHIN_SECONDS", 0)  # nobody opens anything between these steps
    world = World(tmp_path, rounds=2)
    world.runner = Runner(
        FlakyStore(world.store.engine, committed=committed),
        world.home,
        world.settings,
        world.authority,
        clock=world.clock,
        random=SeededSource("runner"),
    )

    async def through() -> None:
        for member in world.members.values():
            member.send = partial(stubborn, member)
        for _ in range(200):
            for member in world.members.values():
                await ticked(world)
                await member.step()
            if all(member.ended for member in world.members.values()):
                return

    asyncio.run(through())
    assert world.state().state is RunState.COMPLETED
    assert [(one.round, one.attempt) for one in world.attempts()] == [(1, 1), (2, 1)]
    for number in (1, 2):
        move = world.adapter(number) - world.adapter(number - 1)
        assert [round(float(step) * 3 * 2**16, 3) for step in move[:3]] == [1, 1, 1]


def test_the_daemon_waits_out_a_restart_of_the_server_and_goes_on(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.leadership.led_runs.TROUBLE_SECONDS", 0.05)
    world = World(tmp_path, rounds=2, database=server.database())

    async def through() -> None:
        serving = asyncio.create_task(world.runner.serve())
        await world.settle()
        server.stop()
        await asyncio.sleep(0.6)
        assert not serving.done()
        server.start()
        with world.store.begin() as connection:
            member_rows.log_security(connection, NOW, "kind", "subject", "")
        await asyncio.sleep(0.6)
        assert not serving.done()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(through())
    assert world.state().state is RunState.COMPLETED


def test_a_coordinators_process_outlives_a_restart_of_its_server(
    home: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    move_to(home, server.database())
    command = [sys.executable, "-m", "onlysum", "coordinator", "start", "--config", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline().startswith("Ready")
            server.stop()
            assert said(capsys, "status", "--config", str(home), code=5)["code"] == "E-DATABASE-AWAY"
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.wait(3)
            server.start()
            assert said(capsys, "status", "--config", str(home))["federation"] == "clinics"
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20) == 0
        finally:
            daemon.kill()


# --- kept elsewhere ---


def test_a_backup_is_refused_and_says_how_a_server_is_backed_up(
    home: Path, tmp_path: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    move_to(home, postgres.database())
    refused = said(capsys, "backup", str(tmp_path / "kept.tar.gz"), "--config", str(home), code=2)
    assert refused["code"] == "E-USAGE"
    assert "pg_dump" in refused["detail"]
    assert not (tmp_path / "kept.tar.gz").exists()


def test_doctor_names_the_server_and_its_schema_and_finds_that_it_forgets_what_is_committed(
    home: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    move_to(home, postgres.database())
    said(capsys, "migrate", "--config", str(home))
    checks = {check["name"]: check for check in said(capsys, "doctor", "--config", str(home), code=2)["checks"]}
    assert "fsync = off" in checks["database"]["detail"]
    postgres.execute("ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()")
    try:
        checks = {check["name"]: check for check in said(capsys, "doctor", "--config", str(home))["checks"]}
    finally:
        postgres.execute("ALTER SYSTEM RESET fsync", "SELECT pg_reload_conf()")
    assert checks["database"]["detail"].startswith("postgresql ")
    assert checks["database"]["detail"].endswith(f"schema {HEAD}")
