"""Two coordinators on one PostgreSQL database: the leader is killed or stopped in every phase, and the run goes on.

Whatever happens to a leader, a round's sum is the exact sum of the survivors of the one set that was signed, and it is
released once; with a directory that both see as with a storage, where each has a directory of its own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.protocol.transitions import TRANSITIONS
from coordinator.runs.attempt import SIGNED
from coordinator.storage.configured import Storage
from privacy.errors import Phase
from privacy.secagg.messages import SurvivorSignature, UnmaskShares
from protos import codec
from tests.worlds.around_coordinators import onlysum
from tests.worlds.daemons import until as happens
from tests.worlds.plans import names
from tests.worlds.postgres import Server
from tests.worlds.replicas import HeldBack, Replicas

MEMBERS = names(3)
PATIENCE_SECONDS = (
    240.0  # members notice after 20 s that who leads their run was stopped; here on a machine with other work
)
until = partial(happens, seconds=PATIENCE_SECONDS)
PHASES = [phase for phase in TRANSITIONS if phase is not Phase.RESULT]
HERE, ELSEWHERE, S3 = "in the directory", "in another directory", "S3"
pytestmark = pytest.mark.early


def at(place: str, *further: Any, often: bool = True) -> Any:
    """Return a case: where runs and uploads are kept, and more; one not ``often`` is in `make test-all` alone."""
    marks = [pytest.mark.objects] if place == S3 else []
    return pytest.param(place, *further, marks=marks if often else [*marks, pytest.mark.slow])


def kept(*often: str) -> pytest.MarkDecorator:
    """Let a test run with runs and uploads in each place; in `make test` in some."""
    places = [at(place, often=place in often) for place in (HERE, ELSEWHERE, S3)]
    return pytest.mark.parametrize("storage", places, indirect=True)


@pytest.fixture
def replicas(tmp_path: Path, postgres: Server, storage: Storage | None) -> Iterator[Replicas]:
    url = postgres.database()
    made = Replicas(tmp_path, url, storage)
    try:
        for one in made.both:
            one.start()
        yield made
    finally:
        made.close()
        postgres.drop(url)


def check_one_set_a_round(replicas: Replicas, run: str) -> None:
    """Nobody has signed two survivor sets of a round, and shares were released along the one that was completed."""
    signed: dict[tuple[int, str], bytes] = {}
    for at, event in replicas.events(run, SIGNED):
        message = codec.decode_submission(event.body, sender=event.sender)
        assert isinstance(message, SurvivorSignature)
        assert (at.round, event.sender) not in signed
        signed[at.round, event.sender] = message.signature
    released = {(at.round, at.attempt) for at, _ in replicas.events(run, UnmaskShares.__name__)}
    assert released == {(row.round, row.attempt) for row in replicas.rounds(run)}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldBack:
    """What of carol's a test holds back, so that a phase stays open."""
    return HeldBack(MEMBERS[-1], monkeypatch)


@pytest.mark.parametrize(
    ("storage", "phases"),
    [
        at(HERE, [Phase.ADVERTISE_KEYS, Phase.UNMASK]),
        at(S3, [Phase.COLLECT_MASKED, Phase.AGREE_SURVIVORS]),
        *(at(place, PHASES, often=False) for place in (HERE, ELSEWHERE, S3)),
    ],
    indirect=["storage"],
    ids=[f"{HERE}, two phases", f"{S3}, two phases", HERE, ELSEWHERE, S3],
)
def test_a_leader_killed_once_in_every_phase_is_replaced_and_each_sum_is_exactly_the_survivors(
    replicas: Replicas, held: HeldBack, phases: list[Phase]
) -> None:
    held.hold(1, phases[0])
    with replicas.members(MEMBERS):
        run = replicas.create_run(MEMBERS, rounds=len(phases))
        for number, phase in enumerate(phases, start=1):
            until(held.arrived, f"round {number} in {phase.name}")
            assert replicas.at(run) == (number, phase.name)
            leader = replicas.await_leader(run)
            leader.kill()
            begun = time.monotonic()
            replicas.await_leader(run, other_than=leader)
            assert time.monotonic() - begun < 30  # seconds, on a machine with much else to do
            held.let_go()
            if number < len(phases):
                held.hold(number + 1, phases[number])
            leader.start()
        until(lambda: replicas.state(run) == "completed", "the run completes")
    assert len(replicas.rounds(run)) == len(phases)
    assert {row.survivors for row in replicas.rounds(run)} == {len(MEMBERS)}
    replicas.check_sums(run, MEMBERS)
    check_one_set_a_round(replicas, run)
    lease = replicas.lease(run)
    assert lease is not None
    assert lease.token == len(phases) + 1  # each one that was killed lost it, and nobody else


@pytest.mark.parametrize(
    ("storage", "phase"),
    [
        *(at(place, Phase.COLLECT_MASKED, often=place == S3) for place in (HERE, ELSEWHERE, S3)),
        *(at(place, Phase.UNMASK, often=place == HERE) for place in (HERE, ELSEWHERE, S3)),
    ],
    indirect=["storage"],
    ids=lambda value: value.name if isinstance(value, Phase) else value,
)
def test_a_leader_that_was_stopped_and_wakes_after_it_was_replaced_releases_nothing(
    replicas: Replicas, held: HeldBack, phase: Phase
) -> None:
    held.hold(1, phase)
    with replicas.members(MEMBERS):
        run = replicas.create_run(MEMBERS, rounds=2)
        until(held.arrived, f"round 1 in {phase.name}")
        stopped = replicas.await_leader(run)
        stopped.signal(signal.SIGSTOP)
        other = replicas.await_leader(run, other_than=stopped)
        held.let_go()
        until(lambda: bool(replicas.rounds(run)), "the other one completes the round")
        stopped.signal(signal.SIGCONT)
        until(lambda: "run-led-elsewhere" in stopped.said(), "the one that was stopped hears of it")
        until(lambda: replicas.state(run) == "completed", "the run completes")
    lease = replicas.lease(run)
    assert lease is not None
    assert (lease.address, lease.token) == (other.address, 2)
    replicas.check_sums(run, MEMBERS)
    check_one_set_a_round(replicas, run)
    assert not list(replicas.files(run).directory.glob("led-*"))
    assert [(row.round, row.survivors) for row in replicas.rounds(run)] == [(1, 3), (2, 3)]


@kept(HERE)
def test_commands_beside_either_coordinator_say_who_leads_and_who_is_there(replicas: Replicas, held: HeldBack) -> None:
    held.hold(2, Phase.SHARE_KEYS)
    with replicas.members(MEMBERS):
        run = replicas.create_run(MEMBERS, rounds=2)
        until(held.arrived, "round 2 in SHARE_KEYS")
        leader = replicas.await_leader(run)
        time.sleep(2)  # seconds, in which it renews its lease and says who polls
        for one in replicas.both:
            shown = onlysum("run", "show", run, "--config", str(one.directory))
            assert shown["leader"] == leader.address
            status = onlysum("status", "--config", str(one.directory))
            assert [(each["run"], each["leader"]) for each in status["runs"]] == [(run, leader.address)]
            assert all(member["live"] for member in status["members"])
        held.let_go()
        until(lambda: replicas.state(run) == "completed", "the run completes")
        for one in replicas.both:  # also where members poll the other one, and neither leads a run
            until(partial(everybody_is_live, one.directory), f"{one.address} knows who is there")


def everybody_is_live(directory: Path) -> bool:
    """Return whether a coordinator's status calls every member live."""
    return all(member["live"] for member in onlysum("status", "--config", str(directory))["members"])


def examined(directory: Path, check: str) -> str:
    """Return what the doctor says of one check; nothing if it makes none of this name."""
    command = [sys.executable, "-m", "onlysum", "coordinator", "doctor", "--config", str(directory), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # fails: this server has no fsync
    return str(next((each["detail"] for each in json.loads(done.stdout)["checks"] if each["name"] == check), ""))


@kept(HERE)
def test_the_doctor_of_either_coordinator_says_that_both_run_share_a_directory_and_agree_on_the_time(
    replicas: Replicas, storage: Storage | None
) -> None:
    own, other = replicas.both
    seen = f"{replicas.shared}, also seen from {other.address}" if storage is None else ""
    assert examined(own.directory, "shared directory") == seen
    assert examined(other.directory, "coordinators").count("leads no run") == 2
    assert examined(own.directory, "clocks").endswith(f"this machine, {other.address}")
    if storage is None:
        configuration = own.directory / "coordinator.toml"
        text, elsewhere = configuration.read_text(), replicas.place / "elsewhere"
        elsewhere.mkdir()
        configuration.write_text(text.replace(f'"{replicas.shared}"', f'"{elsewhere}"'))
        assert examined(own.directory, "shared directory").startswith("E-REPLICA-DIRECTORY")
        configuration.write_text(text)
    other.signal(signal.SIGTERM)
    until(lambda: "does not run" in examined(own.directory, "coordinators"), "the other one says that it ends")
    assert "next: look there" in examined(own.directory, "coordinators")


@kept(S3)
def test_a_leader_that_is_told_to_end_hands_its_runs_over_at_once(replicas: Replicas, held: HeldBack) -> None:
    held.hold(1, Phase.AGREE_SURVIVORS)
    with replicas.members(MEMBERS):
        run = replicas.create_run(MEMBERS, rounds=2)
        until(held.arrived, "round 1 in AGREE_SURVIVORS")
        replicas.check_all_know_both(MEMBERS)
        leader = replicas.await_leader(run)
        leader.signal(signal.SIGTERM)
        replicas.await_leader(run, other_than=leader)
        held.let_go()
        until(lambda: replicas.state(run) == "completed", "the run completes")
    replicas.check_sums(run, MEMBERS)
    check_one_set_a_round(replicas, run)
