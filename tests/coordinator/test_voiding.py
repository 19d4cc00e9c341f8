"""When a coordinator goes on without a round's sum, and what everybody is told and shown of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from audit.verify import verify_report
from coordinator.config import Durations
from coordinator.database.run_rows import RunState
from coordinator.opened import OpenHome
from coordinator.views.overview import overview
from coordinator.views.runs import run_list
from coordinator.views.watch import Watcher
from privacy.secagg.messages import SurvivorSignature, UnmaskShares
from tests.worlds.coordinator import RUN_ID, World

DURATIONS = Durations(update_seconds=60)


def muted(world: World, name: str, kind: type[object], rounds: set[int]) -> None:
    """Let a member never send a message of a kind in some rounds."""
    member = world.members[name]

    async def send(message: object) -> None:
        at = getattr(message, "position", None)
        if not (isinstance(message, kind) and at is not None and at.round in rounds):
            await member.deliver(message)

    member.send = send


async def played(world: World) -> None:
    """Let the run come to its end, however often a phase must expire first."""
    for _ in range(6):
        await world.settle()
        if world.state().state.ended:
            return
        world.clock.seconds += 61


@pytest.mark.parametrize("silent", [SurvivorSignature, UnmaskShares])
def test_a_round_that_fails_after_its_commit_point_is_voided_and_the_run_goes_on_at_the_next(
    tmp_path: Path, silent: type[object]
) -> None:
    world = World(tmp_path, n=3, rounds=3, mode="local", durations=DURATIONS)
    muted(world, "bob", silent, {2})
    asyncio.run(played(world))
    assert world.state().state is RunState.COMPLETED
    assert [(done.round, done.voided, done.survivors) for done in world.rounds()] == [
        (1, False, 3),
        (2, True, 0),
        (3, False, 3),
    ]
    assert world.adapter(2).tolist() == world.adapter(1).tolist()
    assert world.adapter(3).tolist() != world.adapter(2).tolist()
    for member in world.members.values():
        memory = member.simulated.journal.memory
        assert memory.transcript == world.rounds()[2].transcript
        assert [closed.survivors == () for closed in memory.history] == [False, True, False]
    assert [(attempt.round, attempt.state) for attempt in world.attempts()] == [
        (1, "completed"),
        (2, "aborted"),
        (3, "completed"),
    ]


def test_the_report_of_a_run_with_a_voided_round_charges_it_and_verifies(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=3, mode="local", durations=DURATIONS)
    muted(world, "bob", UnmaskShares, {2})
    asyncio.run(played(world))
    outcome = verify_report((world.home.run(RUN_ID) / "report.json").read_bytes())
    assert [entry.certificate is not None for entry in outcome.report.rounds] == [True, False, True]
    assert outcome.report.privacy is not None
    assert outcome.report.transcript_sha256 == world.rounds()[2].transcript.hex()


def test_a_voided_round_is_shown_watched_and_not_counted_as_completed(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=3, mode="local", durations=DURATIONS)
    muted(world, "bob", UnmaskShares, {2})
    asyncio.run(played(world))
    opened = OpenHome(world.home, world.settings, world.store)
    assert "  round 2: voided, charged and without a sum" in overview(opened, RUN_ID).to_lines()
    assert run_list(opened).runs[0].rounds_completed == 2
    watcher = Watcher(world.store, RUN_ID)
    events = [event.fields for _ in range(2) for event in watcher.new_events()]
    assert [event["round"] for event in events if event["event"] == "void"] == [2]


def test_who_missed_a_voided_round_learns_of_it_from_the_history_of_the_next_offer(tmp_path: Path) -> None:
    world = World(tmp_path, n=5, rounds=4, min_survivors=4, mode="local", durations=DURATIONS)
    for name in ("bob", "carol"):
        muted(world, name, UnmaskShares, {2})
    erin = world.members["erin"]

    async def scenario() -> None:
        while not world.rounds():
            await world.turn()
        erin.present = False
        world.clock.seconds += 3
        for _ in range(8):
            await world.settle()
            world.clock.seconds += 61 if len(world.rounds()) < 2 else 1
            if len(world.rounds()) >= 3:
                break
        erin.present = True
        await played(world)

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert [done.voided for done in world.rounds()] == [False, True, False, False]
    assert erin.simulated.journal.memory.transcript == world.rounds()[3].transcript


def test_a_restart_after_a_voided_round_offers_the_next_one_on_the_same_history(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=3, mode="local", durations=DURATIONS)
    muted(world, "bob", UnmaskShares, {2})

    async def scenario() -> None:
        while len(world.rounds()) < 2:
            await world.turn()
            world.clock.seconds += 1
        world.runner = world.daemon()
        await played(world)

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert [done.voided for done in world.rounds()] == [False, True, False]


WHERE_NOT = {
    "without noise": ("none", {2}, "2"),
    "in the last round": ("local", {3}, "3"),
    "twice in a row: who spoils every round spends no more of anybody's budget": ("local", {1, 2}, "2"),
}


@pytest.mark.parametrize("case", WHERE_NOT.values(), ids=WHERE_NOT.keys())
def test_no_round_is_voided_and_the_run_ends_with_the_cause(tmp_path: Path, case: tuple[str, set[int], str]) -> None:
    mode, rounds, ended_in = case
    world = World(tmp_path, n=3, rounds=3, mode=mode, durations=DURATIONS)
    muted(world, "bob", UnmaskShares, rounds)
    asyncio.run(played(world))
    state = world.state()
    assert (state.state, state.code) == (RunState.ABORTED, "E-ROUND-DEADLINE")
    assert state.reason.startswith(f"round {ended_in}, attempt 1: ")
    verify_report((world.home.run(RUN_ID) / "report.json").read_bytes())


def test_malicious_garbage_upload_costs_a_round_and_not_the_run(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=2, mode="local")
    simulated = world.members["bob"].simulated
    honest = simulated.train
    simulated.train = lambda number: honest(number) + (2**29 if number == 1 else 0)
    asyncio.run(played(world))
    assert world.state().state is RunState.COMPLETED
    assert [done.voided for done in world.rounds()] == [True, False]
