"""Leases on both kinds of database: who leads a run, until when, and how another process and the members hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.database import attempt_rows, lease_rows, run_rows
from coordinator.database.lease_rows import Lease
from coordinator.database.store import Store
from coordinator.database.writer import Writer
from coordinator.leadership.leadership import LEASE_SECONDS, RENEW_SECONDS, Leadership
from privacy.errors import LocalError, NetworkError
from privacy.secagg.messages import Position
from protos.status import leader_address
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.federation import SeededSource

AT = Position(bytes(32), 1, 1)
OTHER_ADDRESS = "sum-b.example.org:8443"


def leadership(world: World, name: str, files: Path | None = None) -> Leadership:
    return Leadership(
        world.store,
        clock=world.clock,
        random=SeededSource(name),
        address=f"{name}.example.org:8443",
        files=world.home.run if files is None else lambda run: files / run,
    )


@pytest.fixture
def served(tmp_path: Path, database: str) -> Iterator[World]:
    """Give a world on each kind of database."""
    world = World(tmp_path, database=database)
    yield world
    world.store.close()


def expire(world: World) -> None:
    """Let all leases end, as time does."""
    with world.store.begin() as connection:
        connection.exec_driver_sql("UPDATE leases SET expires_at = 0")


# --- leases ---


def test_a_token_is_one_more_each_time_that_a_lease_is_taken_and_only_the_last_one_counts(served: World) -> None:
    for expected in (1, 2, 3):
        with served.store.begin() as connection:
            lease = lease_rows.take(connection, RUN_ID, holder="a" * 32, address="a:1", seconds=60)
            assert lease == Lease(RUN_ID, expected)
            lease.require(connection)
            for older in range(expected):
                with pytest.raises(LocalError, match="E-LEASE-LOST"):
                    Lease(RUN_ID, older).require(connection)


def test_a_lease_that_was_never_taken_is_nobodys(served: World) -> None:
    with served.store.begin() as connection, pytest.raises(LocalError, match="E-LEASE-LOST"):
        Lease(RUN_ID, 1).require(connection)


def test_a_lease_holds_by_the_databases_clock_and_who_lost_it_cannot_renew_it(served: World) -> None:
    with served.store.begin() as connection:
        first = lease_rows.take(connection, RUN_ID, holder="a" * 32, address="a:1", seconds=60)
        assert lease_rows.list_leases(connection)[RUN_ID].valid
        second = lease_rows.take(connection, RUN_ID, holder="b" * 32, address="b:1", seconds=-1)
        assert not lease_rows.list_leases(connection)[RUN_ID].valid
        lease_rows.renew(connection, [first], seconds=60, live={})
        assert not lease_rows.list_leases(connection)[RUN_ID].valid
        lease_rows.renew(connection, [second], seconds=60, live={RUN_ID: {"bob", "alice"}})
        record = lease_rows.list_leases(connection)[RUN_ID]
        assert (record.valid, record.holder, record.live) == (True, "b" * 32, ("alice", "bob"))
        lease_rows.hand_over(connection, [first])
        assert lease_rows.list_leases(connection)[RUN_ID].valid
        lease_rows.hand_over(connection, [second])
        assert not lease_rows.list_leases(connection)[RUN_ID].valid


def test_what_is_added_for_a_run_is_not_committed_under_a_lease_that_another_has_taken(served: World) -> None:
    with served.store.begin() as connection:
        first = lease_rows.take(connection, RUN_ID, holder="a" * 32, address="a:1", seconds=60)
    failed: list[str] = []

    async def scenario() -> None:
        writer = Writer(served.store)
        writer.rows(first, lambda: failed.append("rows")).add_event(
            RUN_ID, AT, kind="kind", sender="alice", body=b"", now=1
        )
        writer.also(first, lambda connection: run_rows.request_abort(connection, RUN_ID), lambda: failed.append("also"))
        with served.store.begin() as connection:
            lease_rows.take(connection, RUN_ID, holder="b" * 32, address="b:1", seconds=60)
        with pytest.raises(LocalError, match="E-LEASE-LOST"):
            await writer.written()
        writer.also(first, lambda connection: run_rows.request_abort(connection, RUN_ID))
        with pytest.raises(LocalError, match="E-LEASE-LOST"):
            await writer.written()

    asyncio.run(scenario())
    assert sorted(failed) == ["also", "rows"]
    assert not served.state().abort_requested
    with served.store.read() as connection:
        assert attempt_rows.list_events(connection, RUN_ID, AT) == ()


def test_a_process_takes_what_nobody_leads_and_keeps_it_while_it_renews(tmp_path: Path, served: World) -> None:
    first, second = leadership(served, "first"), leadership(served, "second")
    first.keep()
    assert first.lease(RUN_ID) == Lease(RUN_ID, 1)
    if not served.store.shared:
        second.keep()  # whoever holds the lock of the directory knows that nobody else runs
        assert second.lease(RUN_ID) == Lease(RUN_ID, 2)
        first.keep()
        return
    second.keep()
    assert second.lease(RUN_ID) is None
    assert second.address_for("alice") == "first.example.org:8443"
    assert second.address_for("nobody") == ""
    expire(served)
    served.clock.seconds += RENEW_SECONDS
    first.keep()  # late, and before anybody else
    assert first.lease(RUN_ID) == Lease(RUN_ID, 1)
    expire(served)
    second.keep()
    assert second.lease(RUN_ID) == Lease(RUN_ID, 2)
    first.keep()
    assert first.lease(RUN_ID) is None
    assert first.address_for("alice") == "second.example.org:8443"
    second.hand_over_all()
    assert second.lease(RUN_ID) is None
    first.keep()
    assert first.lease(RUN_ID) == Lease(RUN_ID, 3)


def test_a_process_that_slept_longer_than_its_lease_leads_nothing_before_it_has_asked(
    tmp_path: Path, postgres: object, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres").database()
    with closing(Store.create(url)):
        world = World(tmp_path, database=url)
        first = leadership(world, "first")
        first.keep()
        world.clock.seconds += LEASE_SECONDS
        assert first.lapsed
        assert first.lease(RUN_ID) is None
        first.keep()
        assert first.lease(RUN_ID) == Lease(RUN_ID, 1)
        away = leadership(world, "away", files=tmp_path / "not-mounted")
        expire(world)
        away.keep()
        assert away.lease(RUN_ID) is None
        assert away.unreachable() == (RUN_ID,)
        world.store.close()


def test_who_does_not_lead_a_run_sends_its_members_to_the_leader(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    world = World(tmp_path, database=request.getfixturevalue("postgres").database())
    leader = world.other_daemon(OTHER_ADDRESS)
    leader.discover()

    async def scenario() -> None:
        poll = asyncio.create_task(world.runner.next_task("alice", frozenset(), 20))
        await asyncio.sleep(0)
        world.runner.discover()  # hears of the leader: whoever polls here is told
        for call in (poll, world.runner.next_task("bob", frozenset(), 0)):
            with pytest.raises(NetworkError, match="E-NET-ELSEWHERE") as refused:
                await call
            assert leader_address(refused.value) == OTHER_ADDRESS
        assert await leader.next_task("bob", frozenset(), 0) is not None
        world.clock.seconds += LEASE_SECONDS
        with pytest.raises(NetworkError, match="E-NET-ELSEWHERE"):
            await leader.next_task("bob", frozenset(), 0)  # it has renewed nothing: another one may lead

    asyncio.run(scenario())
    world.store.close()
