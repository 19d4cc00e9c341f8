"""Members that are connected and do not answer: what they cost the others, who is told, and how they come back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

import onlysum
from coordinator.config import Durations, settings_template
from coordinator.database import standing_rows
from coordinator.database.run_rows import RunState
from coordinator.opened import OpenHome
from coordinator.runs.liveness import Latecomers
from coordinator.views.overview import Overview, overview
from host.state_format import write_format
from privacy.errors import Phase
from privacy.secagg.messages import MaskedUpload, Position
from protos.envelope import Abstained, MemberExcluded
from tests.worlds.coordinator import RUN_ID, ScriptedMember, World

PATIENCE = 30.0
DURATIONS = Durations(phase_seconds=PATIENCE, update_seconds=PATIENCE)


def federation(directory: Path, *, n: int = 5, rounds: int = 6, min_survivors: int = 4) -> World:
    return World(directory, n=n, f=1, rounds=rounds, min_survivors=min_survivors, durations=DURATIONS)


class Stuck:
    """A member whose daemon polls and whose work hangs: it takes no task any more."""

    def __init__(self, member: ScriptedMember) -> None:
        self._member, self._step = member, member.step
        member.step = self._poll_only  # type: ignore[method-assign]  # a fault on order

    async def _poll_only(self) -> bool:
        await self._member.world.runner.next_task(self._member.name, frozenset(), 0)
        return False

    def recover(self) -> None:
        """Let it take tasks again."""
        self._member.step = self._step  # type: ignore[method-assign]


async def approved(world: World) -> None:
    """Let everybody approve the plan."""
    while len(world.answers()) < world.plan.n:
        await world.turn()


async def seconds_of_rounds(world: World, number: int, *, step: float = 0.5) -> list[float]:
    """Let the federation complete rounds up to one; return how long each of the new ones took."""
    taken, started, known = [], world.clock.seconds, len(world.rounds())
    while known < number:
        await world.turn()
        if len(world.rounds()) > known:
            known = len(world.rounds())
            taken.append(world.clock.seconds - started)
            started = world.clock.seconds
        else:
            world.clock.seconds += step
        assert world.clock.seconds - started < 5 * PATIENCE, "the run does not go on"
    return taken


def shown(world: World) -> Overview:
    return overview(OpenHome(world.home, world.settings, world.store), RUN_ID)


def hang_in_training(world: World, name: str) -> None:
    """Let a member hang in its training: it has advertised and dealt, and uploads nothing."""
    member = world.members[name]

    async def hang(message: object) -> None:
        if isinstance(message, MaskedUpload):
            Stuck(member)
        else:
            await member.deliver(message)

    member.send = hang


def test_a_member_that_hangs_while_it_polls_costs_one_rounds_patience_and_not_every_rounds(tmp_path: Path) -> None:
    world = federation(tmp_path)

    async def scenario() -> list[float]:
        await seconds_of_rounds(world, 1)
        Stuck(world.members["erin"])
        return await seconds_of_rounds(world, 6)

    first, *others = asyncio.run(scenario())
    assert PATIENCE <= first < PATIENCE + 10
    assert max(others) < 10, "the others need about five seconds here, and so does a round without erin"
    assert [done.dropouts for done in world.rounds()] == [(), *[("erin",)] * 5]


def test_a_member_whose_training_hangs_is_late_once_and_then_not_waited_for_in_any_phase(tmp_path: Path) -> None:
    world = federation(tmp_path)

    async def scenario() -> list[float]:
        hang_in_training(world, "erin")
        return await seconds_of_rounds(world, 3)

    first, *others = asyncio.run(scenario())
    assert first >= PATIENCE
    assert max(others) < 10
    assert world.state().code == ""


def test_a_latecomer_that_is_in_time_again_is_in_the_sum_though_nobody_waits_for_it(tmp_path: Path) -> None:
    world = federation(tmp_path, rounds=5)

    async def scenario() -> None:
        await approved(world)
        stuck = Stuck(world.members["erin"])
        await seconds_of_rounds(world, 2)
        stuck.recover()
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert [done.dropouts for done in world.rounds()][2:] == [(), (), ()]


def test_no_attempt_is_spent_on_a_member_that_is_needed_and_has_sent_nothing_since_it_was_late(tmp_path: Path) -> None:
    world = federation(tmp_path, n=3, min_survivors=3)

    async def scenario() -> None:
        await seconds_of_rounds(world, 1)
        stuck = Stuck(world.members["carol"])
        for _ in range(20):
            await world.turn()
            world.clock.seconds += PATIENCE / 2
        assert [attempt.state for attempt in world.attempts() if attempt.round == 2] == ["aborted"]
        assert world.state().state is RunState.RUNNING
        stuck.recover()  # it takes the task that says so of the attempt, and answers it
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED


def abstention(world: World, number: int, attempt: int) -> Abstained:
    return Abstained(RUN_ID, Position(world.plan.hash, number, attempt), "E-DISK-FULL")


def test_the_abstention_of_a_member_ends_the_wait_for_it_and_is_shown_with_its_code(tmp_path: Path) -> None:
    world = federation(tmp_path, n=5, rounds=1, min_survivors=5)

    async def scenario() -> None:
        await approved(world)
        Stuck(world.members["erin"])
        for _ in range(2):
            await world.turn()
        await world.runner.submit("erin", abstention(world, 1, 1))
        phase = shown(world).phase
        assert phase is not None
        assert phase.abstained == {"erin": "E-DISK-FULL"}
        assert "erin" not in phase.missing
        assert "cannot take part in this attempt: erin (E-DISK-FULL)" in phase.to_lines()
        await world.turn()
        await world.turn()

    asyncio.run(scenario())
    assert "erin takes no part (E-DISK-FULL)" in world.attempts()[0].reason


def test_run_show_says_until_when_a_phase_waits_and_since_when_somebody_is_late(tmp_path: Path) -> None:
    world = federation(tmp_path)

    async def scenario() -> None:
        await seconds_of_rounds(world, 1)
        Stuck(world.members["erin"])
        opened = world.clock.seconds
        await world.turn()
        phase = shown(world).phase
        assert phase is not None
        assert phase.missing[-1] == "erin"
        assert phase.since == int(opened)
        assert phase.deadline == int(opened + PATIENCE)
        await seconds_of_rounds(world, 3)

    asyncio.run(scenario())
    (late,) = shown(world).late
    assert (late.member, late.phase) == ("erin", "SHARE_KEYS")
    assert late.since > world.plan.created_at
    assert [value["member"] for value in json.loads(json.dumps(shown(world).to_json()))["late"]] == ["erin"]


def test_lateness_outlives_a_restart_of_the_coordinator(tmp_path: Path) -> None:
    world = federation(tmp_path)

    async def scenario() -> list[float]:
        await approved(world)
        Stuck(world.members["erin"])
        await seconds_of_rounds(world, 2)
        world.runner = world.daemon()
        return await seconds_of_rounds(world, 4)

    assert max(asyncio.run(scenario())) < PATIENCE


def test_malicious_member_that_is_late_now_and_then_costs_a_runs_patience_few_times() -> None:
    latecomers, waited = Latecomers(), 0
    for _ in range(1000):
        if "mallory" in latecomers.in_phase(Phase.COLLECT_MASKED):
            latecomers.heard_of("mallory")
            latecomers.was_in_time("mallory", Phase.COLLECT_MASKED)
        else:
            waited += 1
            latecomers.was_late("mallory", Phase.COLLECT_MASKED)
            latecomers.heard_of("mallory")
    assert waited == 9, "log2(1000)"


def test_lateness_in_one_phase_is_none_in_another_once_a_member_is_heard_of() -> None:
    latecomers = Latecomers()
    latecomers.was_late("erin", Phase.COLLECT_MASKED)
    assert latecomers.silent == {"erin"}
    assert latecomers.in_phase(Phase.ADVERTISE_KEYS) == {"erin"}
    latecomers.heard_of("erin")
    assert latecomers.silent == frozenset()
    assert latecomers.in_phase(Phase.ADVERTISE_KEYS) == frozenset()
    assert latecomers.in_phase(Phase.COLLECT_MASKED) == {"erin"}
    latecomers.was_in_time("erin", Phase.ADVERTISE_KEYS)
    latecomers.was_in_time("erin", Phase.COLLECT_MASKED)
    assert latecomers.in_phase(Phase.COLLECT_MASKED) == {"erin"}
    latecomers.was_in_time("erin", Phase.COLLECT_MASKED)
    assert latecomers.in_phase(Phase.COLLECT_MASKED) == frozenset()


# --- run exclude ---


@pytest.fixture
def commanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A federation of five of whom four must survive, and its directory as commands find it."""
    world = federation(tmp_path)
    text = settings_template(
        federation="test-federation",
        operator="Test Operator",
        also=[],
        participants="127.0.0.1:1",
        enrolment="127.0.0.1:2",
    )
    (tmp_path / "coordinator.toml").write_text(text)
    write_format(tmp_path)
    monkeypatch.setenv("ONLYSUM_HOME", str(tmp_path))
    return world


def exclude(member: str, word: str = "exclude") -> int:
    return onlysum.run(["coordinator", "run", word, RUN_ID[:8], member, "--json"])


def told(world: World, name: str) -> list[str]:
    """Return the kinds of tasks that a member has now."""
    run = world.run()
    numbered = [due.numbered() for due in run.tasks(name)]
    return [type(one.task).__name__ for one in numbered if one is not None]


def test_an_excluded_member_is_waited_for_no_more_told_left_out_and_taken_back(
    commanded: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world = commanded

    async def scenario() -> None:
        await seconds_of_rounds(world, 1)
        stuck = Stuck(world.members["erin"])
        await world.turn()
        capsys.readouterr()
        assert exclude("erin") == 0
        assert json.loads(capsys.readouterr().out)["left"] == 4
        assert await seconds_of_rounds(world, 2) < [PATIENCE / 2], "the open attempt waits for it no longer"
        stuck.recover()
        await seconds_of_rounds(world, 3)
        assert shown(world).excluded == ("erin",)
        assert MemberExcluded.__name__ in told(world, "erin")
        world.runner = world.daemon()  # and that outlives a restart
        await seconds_of_rounds(world, 4)
        assert exclude("erin", "include") == 0
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    dropouts = [done.dropouts for done in world.rounds()]
    assert dropouts == [(), *[("erin",)] * 4, ()], "the fifth round was open when it was taken back"


def test_nobody_is_excluded_whom_the_least_survivors_need(commanded: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert exclude("erin") == 0
    capsys.readouterr()
    assert exclude("dave") == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "E-USAGE"
    assert "without dave 3 of 5 would be left, and the plan asks for at least 4" in error["detail"]
    assert exclude("erin") == 0, "a repetition changes nothing"
    assert exclude("zoe") != 0
    with commanded.store.read() as connection:
        assert list(standing_rows.excluded_members(connection, RUN_ID)) == ["erin"]


def test_an_attempt_that_was_open_before_an_exclusion_opens_again_after_a_restart(commanded: World) -> None:
    world = commanded

    async def scenario() -> None:
        await approved(world)
        for _ in range(2):
            await world.turn()
        assert [attempt.state for attempt in world.attempts()] == ["open"]
        assert exclude("erin") == 0
        world.runner = world.daemon()
        await seconds_of_rounds(world, 2)

    asyncio.run(scenario())
    assert [attempt.state for attempt in world.attempts()[:2]] == ["completed", "completed"]
    assert world.rounds()[1].dropouts == ("erin",)
