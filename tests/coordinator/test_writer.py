"""What members send is committed together, in order, and while nobody waits for the lock of a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from coordinator.database import attempt_rows
from coordinator.database.store import Store
from coordinator.database.writer import Writer
from privacy.errors import LocalError
from privacy.secagg.messages import Advertisement, Position
from tests.worlds.coordinator import RUN_ID, ScriptedMember, World

FULL = LocalError("E-DISK-FULL", "/data: No space left on device")


class SlowDisk:
    """Lets commits wait until a test lets them go, or fail."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.fails, self.commits = threading.Event(), False, 0
        begin = Store.begin

        @contextmanager
        def slowly(one: Store) -> Iterator[Connection]:
            if one is store:
                assert self.open.wait(20)
                self.commits += 1
                if self.fails:
                    raise FULL
            with begin(one) as connection:
                yield connection

        monkeypatch.setattr(Store, "begin", slowly)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, n=5, rounds=1)


@pytest.fixture
def disk(world: World, monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    slow = SlowDisk(world.store, monkeypatch)
    slow.open.set()
    return slow


async def until(condition: Callable[[], bool]) -> None:
    """Let others go on until something has happened."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


async def to_the_first_phase(world: World) -> None:
    while not world.attempts():
        await world.turn()


def holding_back(member: ScriptedMember, kind: type, kept: list[Callable[[], Awaitable[None]]]) -> None:
    """Let a member keep a message for the test to send."""

    async def send(message: Any) -> None:
        if isinstance(message, kind):
            kept.append(lambda: member.deliver(message))
        else:
            await member.deliver(message)

    member.send = send


def advertised(world: World) -> int:
    at = Position(world.run().plan.hash, 1, 1)
    with world.store.read() as connection:
        events = attempt_rows.list_events(connection, RUN_ID, at)
    return sum(event.kind == Advertisement.__name__ for event in events)


async def kept_advertisements(world: World) -> list[Callable[[], Awaitable[None]]]:
    kept: list[Callable[[], Awaitable[None]]] = []
    for member in world.members.values():
        holding_back(member, Advertisement, kept)
    await to_the_first_phase(world)
    while len(kept) < len(world.members):
        await world.turn()
    return kept


def test_messages_that_come_while_the_disk_is_slow_are_taken_and_committed_together(
    world: World, disk: SlowDisk
) -> None:
    async def scenario() -> None:
        kept, run = await kept_advertisements(world), world.run()
        disk.open.clear()
        before = disk.commits
        sending = [asyncio.ensure_future(send()) for send in kept]
        await until(lambda: run.attempt is not None and len(run.attempt.machine.answered()) == len(kept))
        assert not run.lock.locked(), "nobody holds the run while the disk is waited for"
        assert not any(sent.done() for sent in sending), "nothing is answered that is not durable"
        assert advertised(world) == 0
        disk.open.set()
        await asyncio.gather(*sending)
        assert advertised(world) == len(kept)
        assert disk.commits - before <= 2, "the first, and all that came meanwhile"
        await world.settle()

    asyncio.run(scenario())
    assert world.rounds()[0].survivors == 5


def test_messages_that_could_not_be_committed_are_forgotten_and_may_come_again(world: World, disk: SlowDisk) -> None:
    async def scenario() -> None:
        kept, run = await kept_advertisements(world), world.run()
        disk.fails = True
        refused = await asyncio.gather(*(send() for send in kept), return_exceptions=True)
        assert {error.code for error in refused if isinstance(error, LocalError)} == {"E-DISK-FULL"}
        assert run.attempt is None, "memory was ahead of the rows"
        disk.fails = False
        await world.runner.tick()
        assert run.attempt is not None
        assert not run.attempt.machine.answered()
        await asyncio.gather(*(send() for send in kept))
        await world.settle()

    asyncio.run(scenario())
    assert world.rounds()[0].survivors == 5


def test_malicious_cancelling_of_a_call_neither_undoes_its_message_nor_hides_that_it_was_not_committed(
    world: World, disk: SlowDisk
) -> None:
    async def scenario() -> None:
        kept, run = await kept_advertisements(world), world.run()
        disk.open.clear()
        calls = [asyncio.ensure_future(send()) for send in kept]
        await until(lambda: run.attempt is not None and len(run.attempt.machine.answered()) == len(kept))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        disk.fails = True
        disk.open.set()
        await until(lambda: run.attempt is None)
        disk.fails = False
        await world.runner.tick()
        await asyncio.gather(*(send() for send in kept))
        await world.settle()

    asyncio.run(scenario())
    assert world.rounds()[0].survivors == 5


def test_what_was_added_before_a_failure_is_known_is_not_committed_after_it(tmp_path: Path) -> None:
    store = Store.create(f"sqlite:///{tmp_path / 'rows.db'}")
    writer, failed, written = Writer(store), list[str](), list[str]()
    begun, gate = threading.Event(), threading.Event()

    def breaks(connection: Connection) -> None:
        begun.set()
        assert gate.wait(20)
        raise FULL

    async def scenario() -> list[object]:
        writer.also(None, breaks, lambda: failed.append("first"))
        first = asyncio.ensure_future(writer.written())
        await until(begun.is_set)
        writer.also(None, lambda connection: written.append("second"), lambda: failed.append("second"))
        second = asyncio.ensure_future(writer.written())
        gate.set()
        errors = await asyncio.gather(first, second, return_exceptions=True)
        writer.also(None, lambda connection: written.append("third"))
        await writer.written()
        return list(errors)

    assert asyncio.run(scenario()) == [FULL, FULL]
    assert (failed, written) == (["first", "second"], ["third"])
    store.close()
