"""A coordinator restored from a backup of any age: what participants have passed since is not opened a second time."""

from __future__ import annotations

import asyncio
import copy
import shutil
from pathlib import Path

import pytest

from coordinator.daemon.backup import DATABASE
from coordinator.database import attempt_rows
from coordinator.database.store import Store, copy_sqlite
from coordinator.home import Home
from participant.protocol.memory import RoundClosed, SharesReleased, SurvivorsSigned
from tests.worlds.coordinator import World

STEP = 31.0  # seconds of a turn once nobody has anything to do, so that deadlines pass


def backed_up(world: World, directory: Path) -> Home:
    """Copy a coordinator's directory as ``backup`` does, but for its keys; uploads are in no backup."""
    home = Home(directory)
    directory.mkdir()
    copy_sqlite(world.home.directory / DATABASE, directory / DATABASE)
    shutil.copytree(world.home.runs, home.runs)
    return home


def restored(world: World, home: Home) -> World:
    """Return the world with the coordinator of the backup; its members are as they are now."""
    after = copy.copy(world)
    after.home = home
    after.store = Store.create(world.settings.database_url(home))
    with after.store.begin() as connection:
        attempt_rows.abort_open_attempts(connection, 0, "restored from a backup")
    after.runner = after.daemon()
    for member in after.members.values():
        member.world = after
    return after


def promises(world: World) -> dict[tuple[str, int, type], set[object]]:
    """Return what each member has signed and released in each round, and what it takes for the round's survivors."""
    found: dict[tuple[str, int, type], set[object]] = {}
    for name, member in world.members.items():
        for record in member.simulated.journal.records:
            if isinstance(record, SurvivorsSigned | SharesReleased | RoundClosed):
                said = found.setdefault((name, record.round, type(record)), set())
                said.add(record.survivors if isinstance(record, RoundClosed) else record.survivors.ids)
    return found


def histories(world: World) -> dict[int, set[object]]:
    """Return by round the transcripts that anybody has, the coordinator's rows among them."""
    found: dict[int, set[object]] = {}
    for member in world.members.values():
        for record in member.simulated.journal.memory.history:
            found.setdefault(record.round, set()).add(record.transcript)
    for row in world.rounds():
        found.setdefault(row.round, set()).add(row.transcript)
    return found


async def turns(world: World, count: int) -> None:
    """Let a few turns go by."""
    for _ in range(count):
        await world.turn()


async def to_the_end(world: World) -> None:
    """Let turns go by, and deadlines pass, until the run has ended."""
    for _ in range(400):
        if world.state().state.ended:
            return
        if not await world.turn():
            world.clock.seconds += STEP
    raise AssertionError("the run does not end")


@pytest.mark.parametrize(("age", "passed"), [(2, 11), (3, 1), (3, 3), (4, 1), (4, 2), (5, 1), (5, 2), (6, 1), (8, 5)])
def test_a_restored_coordinator_completes_no_round_twice_and_nobody_promises_two_things(
    age: int, passed: int, tmp_path: Path
) -> None:
    world = World(tmp_path, n=4, f=1, rounds=2)

    async def scenario() -> World:
        await turns(world, age)
        backup = backed_up(world, tmp_path / "restored")
        await turns(world, passed)
        after = restored(world, backup)
        await to_the_end(after)
        return after

    after = asyncio.run(scenario())
    assert all(len(said) == 1 for said in promises(after).values())
    assert all(len(transcripts) == 1 for transcripts in histories(after).values())
