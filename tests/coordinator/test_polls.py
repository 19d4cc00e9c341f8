"""A change wakes only those whose task changed, and what many are told alike is made once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from coordinator.daemon.encoding import EncodedOnce
from coordinator.daemon.runner import Runner
from protos import codec
from protos import codec_transport as wire
from protos.envelope import KeysAdvertised, NumberedTask, RunEnded
from tests.worlds.coordinator import RUN_ID, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, n=5, rounds=1)


async def until_advertising(world: World) -> None:
    while True:
        await world.runner.tick()
        if world.attempts():
            return
        for member in world.members.values():
            await member.step()


def test_an_answer_wakes_nobody_and_the_close_of_its_phase_everybody_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, first = Counter[str](), Runner._first_task

    def counted(runner: Runner, member: str, seen: frozenset[bytes]) -> NumberedTask | None:
        looks[member] += 1
        return first(runner, member, seen)

    async def scenario() -> list[NumberedTask | None]:
        await until_advertising(world)
        seen = {name: frozenset(due.id for due in world.run().tasks(name)) for name in world.members}
        monkeypatch.setattr(Runner, "_first_task", counted)
        polls = [asyncio.ensure_future(world.runner.next_task(name, seen[name], 20)) for name in world.members]
        await asyncio.sleep(0.01)
        for number, member in enumerate(world.members.values(), start=1):
            await member.step()
            assert looks == dict.fromkeys(world.members, 1) | dict.fromkeys(list(world.members)[:number], 2), (
                "each has looked once for its own task, and nobody was woken"
            )
        await world.runner.tick()
        return list(await asyncio.gather(*polls))

    told = asyncio.run(scenario())
    assert looks == dict.fromkeys(world.members, 3)
    assert {type(one.task) for one in told if one is not None} == {KeysAdvertised}
    assert len({id(one) for one in told}) == 1, "one object for all"


def test_what_many_are_told_is_encoded_once_and_kept_for_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encode = list[bytes](), codec.encode_task

    def counted(task: NumberedTask) -> bytes:
        encoded.append(task.id)
        return encode(task)

    monkeypatch.setattr(codec, "encode_task", counted)
    task, once = NumberedTask(b"t" * 16, RunEnded("ab" * 16, "completed", "")), EncodedOnce()

    async def scenario() -> None:
        answers = await asyncio.gather(*(once.task(task) for _ in range(20)))
        assert len({id(chunks) for chunks, _ in answers}) == 1
        (chunk,) = answers[0][0]
        part = wire.decode_task_part(chunk)
        assert (codec.decode_task(part.chunk.data), part.last) == (task, True)
        assert sum(seconds > 0 for _, seconds in answers) <= 1, "whoever comes first pays"
        for number in range(40):
            await once.task(NumberedTask(bytes([number]) * 16, RunEnded("ab" * 16, "completed", "")))
        assert len(once._tasks) == 16

    asyncio.run(scenario())
    assert encoded.count(b"t" * 16) == 1


def test_a_member_that_asks_while_a_thread_works_is_told_when_it_is_done(world: World) -> None:
    async def scenario() -> NumberedTask | None:
        await until_advertising(world)
        run = world.run()
        run._offered_tasks.clear()
        going, gate = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            run._working += 1
            going.set()
            await gate.wait()
            run._working -= 1
            run._answer_who_asked()

        working = asyncio.ensure_future(work())
        await going.wait()
        poll = asyncio.ensure_future(world.runner.next_task("alice", frozenset(), 20))
        await asyncio.sleep(0.01)
        assert not poll.done()
        gate.set()
        await working
        return await poll

    told = asyncio.run(scenario())
    assert told is not None
    assert told.task.run_id == RUN_ID
