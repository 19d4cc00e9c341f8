"""A member that cancels its own calls: what they began is finished, and nothing starts anew for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from coordinator.config import Durations
from coordinator.database.run_rows import RunState
from coordinator.runs.attempt import Attempt
from coordinator.runs.run import to_the_end
from privacy.secagg.messages import MaskedUpload, Receipt
from tests.worlds.coordinator import World


async def cancelled_after(seconds: float, call: asyncio.Task[None]) -> None:
    """Cancel a call a little after it began, as gRPC does when its caller goes away; then wait for its end."""
    await asyncio.sleep(seconds)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def cancelling_its_receipt(world: World, name: str) -> None:
    """Let a member cancel the call with its receipt while the coordinator hashes the upload."""
    member = world.members[name]

    async def send(message: object) -> None:
        if not isinstance(message, MaskedUpload):
            await member.deliver(message)
            return
        await member.upload(message.receipt, bytes(message.masked))
        await cancelled_after(0.02, asyncio.create_task(world.runner.submit(name, message.receipt)))

    member.send = send


def test_malicious_cancelling_of_a_receipt_that_is_hashed_drops_no_attempt_and_counts_the_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, n=3, rounds=1)
    cancelling_its_receipt(world, "bob")
    accumulate, opened, hashed = Attempt.accumulate, list[object](), list[str]()
    opening = Attempt.open

    def slowly(attempt: Attempt, receipt: Receipt) -> bool:
        time.sleep(0.1)
        hashed.append(receipt.sender)
        return accumulate(attempt, receipt)

    def counted(*args: object, **kwargs: object) -> Attempt:
        opened.append(args)
        return opening(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Attempt, "accumulate", slowly)
    monkeypatch.setattr(Attempt, "open", counted)
    asyncio.run(world.settle())
    assert world.state().state is RunState.COMPLETED
    assert world.rounds()[0].survivors == 3
    assert len(opened) == 1, "nothing was replayed"
    assert sorted(hashed) == ["alice", "bob", "carol"]


def test_opening_an_attempt_again_gains_no_time_for_its_phase(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1, durations=Durations(update_seconds=60, stall_seconds=1))

    async def scenario() -> None:
        while not world.attempts() or world.attempts()[0].phase != "COLLECT_MASKED":
            await world.turn()
        for _ in range(7):
            world.clock.seconds += 10
            world.run().attempt = None  # as after a failure
            async with asyncio.timeout(10):
                await world.runner.next_task("bob", frozenset(), 0)  # who is there, and never uploads
            await world.runner.tick()

    world.members["bob"].present = True
    member = world.members["bob"]

    async def never(message: object) -> None:
        if not isinstance(message, MaskedUpload):
            await member.deliver(message)

    member.send = never
    asyncio.run(scenario())
    assert world.attempts()[0].code == "E-ROUND-DEADLINE"


def test_work_that_is_cancelled_twice_is_done_to_its_end_before_its_caller_ends() -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.append("work")

    async def scenario() -> None:
        call = asyncio.create_task(to_the_end(work()))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        done.append("caller")

    asyncio.run(scenario())
    assert done == ["work", "caller"]
