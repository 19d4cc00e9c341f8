"""A member that leaves says so with its identity key: the key counts no longer, and runs that need it say why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.database import member_rows
from coordinator.database.run_rows import RunState
from privacy.errors import PeerError
from protos.envelope import MemberLeft
from protos.invitation import leaving_bytes
from tests.worlds.coordinator import World
from tests.worlds.plans import signing_key


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, n=4, f=1, rounds=2)

    async def started() -> None:
        for _ in range(3):
            await made.turn()

    asyncio.run(started())
    assert made.state().state is RunState.RUNNING
    return made


def left(world: World, *, signer: str = "bob", name: str = "bob", federation: str = "") -> MemberLeft:
    named = leaving_bytes(federation=federation or world.settings.federation, name=name)
    return MemberLeft(signing_key(signer).sign(named))


def test_whoever_leaves_counts_no_longer_and_its_run_ends_with_that_reason(world: World) -> None:
    asyncio.run(world.runner.submit("bob", left(world)))
    asyncio.run(world.runner.tick())
    row = world.state()
    assert (row.state, row.code, row.reason.split(";")[0]) == (
        RunState.ABORTED,
        "E-MEMBER-LEFT",
        "bob has left the federation",
    )
    with world.store.read() as connection:
        member = member_rows.find_member(connection, "bob")
        rows = member_rows.security_log(connection)
    assert member is not None
    assert not member.active
    assert [entry.subject for entry in rows if entry.kind == "left"] == ["bob"]
    with pytest.raises(PeerError, match="E-MEMBER-REVOKED"):
        asyncio.run(world.runner.submit("bob", left(world)))


@pytest.mark.parametrize(
    "lie",
    [{"signer": "alice"}, {"name": "alice"}, {"federation": "another"}],
    ids=["another key signed", "it is said of somebody else", "it is said in another federation"],
)
def test_malicious_leaving_is_refused_and_changes_nothing_if(lie: dict[str, str], world: World) -> None:
    with pytest.raises(PeerError, match="E-ROUND-SIGNATURE"):
        asyncio.run(world.runner.submit("bob", left(world, **lie)))
    with world.store.read() as connection:
        member = member_rows.find_member(connection, "bob")
    assert member is not None
    assert member.active
    assert world.state().state is RunState.RUNNING
