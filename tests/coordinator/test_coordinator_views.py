"""What an operator sees is one value, and the terminal and --json print that very value."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import onlysum
from coordinator.commands.choices import GraphKind, MemberRole, Suite, UserRole, Weights
from coordinator.commands.coordinator import app
from coordinator.config import settings_template
from coordinator.daemon.status import DaemonStatus, live_members, read_status, write_status
from coordinator.database import attempt_rows, member_rows, user_rows
from coordinator.database.member_rows import TokenRecord
from coordinator.enrolment.authority import save_authority
from coordinator.home import Home
from coordinator.opened import OpenHome, open_home
from coordinator.runs.creation import RunRequest
from coordinator.runs.thresholds import Requested
from coordinator.views.members import fingerprints, member_details, member_list
from coordinator.views.overview import overview
from coordinator.views.phase import Waiting, open_phase
from coordinator.views.proposal import Proposal
from coordinator.views.runs import run_list
from coordinator.views.status import service_status
from coordinator.views.users import user_list
from host.console import laid_out
from host.locks import only_daemon
from host.rendering import View, moment
from host.state_format import write_format
from privacy.secagg.messages import Position
from protos.envelope import Role
from tests.worlds.coordinator import EVALUATOR, RUN_ID, World

NOW = 10**6


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A coordinator with a completed run, a running daemon, and an invitation that nobody has used."""
    world = World(tmp_path, rounds=2, evaluated=True)
    asyncio.run(world.settle())
    save_authority(world.home.authority, world.authority)
    (tmp_path / "coordinator.toml").write_text(
        settings_template(federation="clinics", operator="I", also=[], participants="h:1", enrolment="h:2")
    )
    write_format(tmp_path)
    write_status(world.home, DaemonStatus(os.getpid(), NOW, "h:1", "h:2", live=("alice",)))
    with world.store.begin() as connection:
        token = TokenRecord("t" * 32, b"s" * 32, "dora", Role.PARTICIPANT, "", NOW, 10**10)
        member_rows.add_token(connection, token)
    monkeypatch.setenv("ONLYSUM_HOME", str(tmp_path))
    with only_daemon(tmp_path, "coordinator"):
        yield tmp_path


def test_who_shows_its_heads_has_not_answered_yet(tmp_path: Path) -> None:
    world = World(tmp_path)
    alice = world.members["alice"]

    async def nothing(message: object) -> None:
        assert message is not None

    async def scenario() -> None:
        await world.runner.tick()
        while not world.attempts():
            for member in world.members.values():
                await member.step()
            await world.runner.tick()
        alice.send = nothing
        await alice.step()

    asyncio.run(scenario())
    assert alice.shown == 1
    with world.store.read() as connection:
        (attempt,) = attempt_rows.list_attempts(connection, RUN_ID)
        events = attempt_rows.list_events(connection, RUN_ID, Position(world.plan.hash, 1, 1))
    assert open_phase(world.plan, attempt, events, Waiting(world.settings.durations)).answered == ()


VIEWS: dict[str, Callable[[OpenHome], View]] = {
    "status": lambda opened: service_status(opened, NOW),
    "member list": member_list,
    "member show alice": lambda opened: member_details(opened, "alice"),
    "member fingerprint": fingerprints,
    "run list": run_list,
    "user list": user_list,
    f"run show {RUN_ID[:6]}": lambda opened: overview(opened, RUN_ID[:6]),
}


@pytest.mark.parametrize("command", VIEWS)
def test_a_command_prints_one_value_as_lines_and_as_json(
    directory: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with open_home(directory) as opened:
        view = VIEWS[command](opened)
    assert onlysum.run(["coordinator", *command.split()]) == 0
    shown = [part for line in view.to_lines() for part in laid_out(line)]
    assert capsys.readouterr().out == "\n".join(shown) + "\n"
    assert onlysum.run(["coordinator", *command.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == view.to_json()


@pytest.mark.parametrize("command", VIEWS)
def test_a_view_cannot_be_changed_and_does_not_print(
    directory: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with open_home(directory) as opened:
        view = VIEWS[command](opened)
    view.to_json(), view.to_lines()
    assert capsys.readouterr().out == ""
    with pytest.raises(FrozenInstanceError):
        setattr(view, next(iter(view.__slots__)), None)  # type: ignore[attr-defined]


KEYS: dict[str, set[str]] = {
    "status": {"federation", "running", "pid", "since", "address", "members", "invited", "runs", "troubles"},
    "member list": {
        "name", "role", "active", "live", "state", "code", "last_seen", "identity_fingerprint", "software_version",
        "labels", "enrolled_at", "revoked_at", "certificate_until", "lost", "late",
    },
    "run list": {
        "run", "title", "state", "paused", "rounds_completed", "rounds", "code", "reason", "created_at", "labels",
    },
    f"run show {RUN_ID[:6]}": {
        "run", "title", "state", "code", "reason", "paused", "created_at", "ended_at", "undecided", "suite", "graph",
        "roster", "rounds", "completed", "aborted", "phase", "late", "excluded", "turnout", "evaluations",
        "daemon_running", "measured", "troubles", "waits_for", "leader", "labels",
    },
}  # fmt: skip


@pytest.mark.parametrize("command", KEYS)
def test_the_keys_that_scripts_rely_on_stay(directory: Path, command: str) -> None:
    with open_home(directory) as opened:
        document: Any = VIEWS[command](opened).to_json()
    assert set(document[0] if isinstance(document, list) else document) == KEYS[command]


def test_the_status_says_who_is_connected_and_who_has_not_joined_yet(directory: Path) -> None:
    with open_home(directory) as opened:
        status = service_status(opened, NOW)
        assert service_status(opened, 10**11).invited == ()
    assert (status.running, status.pid, status.invited, status.runs) == (True, os.getpid(), ("dora",), ())
    assert str(status.to_lines()[0]).endswith(f": running (pid {os.getpid()}) since {moment(NOW)} UTC")
    live = {member.name: member.live for member in status.members}
    assert live["alice"]
    assert not live[EVALUATOR]
    assert "invited, not yet joined: dora" in status.to_lines()


def test_without_a_daemon_nobody_is_connected_and_the_status_says_how_to_start_it(directory: Path) -> None:
    Home(directory).status_file.unlink()
    with open_home(directory) as opened:
        status, members = service_status(opened, NOW), member_list(opened)
    assert not status.running
    assert str(status.to_lines()[0]).endswith("not running; start it: `onlysum coordinator start`")
    assert {member.state for member in members.members} == {"away"}


def test_a_status_left_by_a_daemon_that_was_killed_is_not_running_though_its_process_id_is_in_use(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    write_status(home, DaemonStatus(os.getpid(), NOW, "h:1", "h:2", live=("alice",)))
    assert read_status(home) is None
    assert live_members(home) == ()
    with only_daemon(tmp_path, "coordinator"):
        assert live_members(home) == ("alice",)


def test_a_member_that_was_revoked_is_listed_as_such(directory: Path) -> None:
    with open_home(directory) as opened:
        with opened.store.begin() as connection:
            member_rows.revoke_member(connection, "bob", NOW)
        states = {member.name: member.state for member in member_list(opened).members}
        assert "bob" not in fingerprints(opened).members
    assert (states["alice"], states["bob"]) == ("here", "revoked")


def test_an_empty_coordinator_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLYSUM_HOME", str(tmp_path / "new"))
    assert onlysum.run(["coordinator", "init", str(tmp_path / "new"), "--name", "a", "--operator", "I"]) == 0
    with open_home(tmp_path / "new") as opened:
        assert member_list(opened).to_lines() == ["No members yet. Next: onlysum coordinator invite NAME"]
        assert str(run_list(opened).to_lines()[0]).startswith("No runs yet. Next: onlysum coordinator run create")


def test_a_proposal_says_to_people_what_it_says_to_programs(directory: Path) -> None:
    with open_home(directory) as opened:
        plan = overview(opened, RUN_ID).plan
    proposal = Proposal(plan)
    assert "warning" not in "\n".join(proposal.to_lines())
    document: Any = proposal.to_json()
    assert document["run"] == plan.run_id
    assert document["plan_sha256"] == plan.hash.hex()
    lines = "\n".join(proposal.to_lines())
    assert f"n={plan.n} f={plan.f} T={document['threshold']} min_survivors={document['min_survivors']}" in lines
    assert all(sentence in lines for sentence in document["trust"])


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (("invite",), "participant|evaluator"),
        (("run", "create"), "equal|units"),
        (("run", "create"), "complete|k-regular"),
        (("run", "create"), "1|2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_the_help_of_a_command_lists_the_choices_of_its_options(words: tuple[str, ...], choices: str) -> None:
    assert f"<{choices}>" in CliRunner().invoke(app, [*words, "--help"]).output


@pytest.mark.parametrize("option", [("--weights", "all"), ("--graph", "ring"), ("--suite", "3")])
def test_what_is_no_choice_is_refused_before_anything_is_read(
    directory: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    words = ["coordinator", "run", "create", "/nowhere", "--members", "a,b,c", *option, "--json"]
    assert onlysum.run(words) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], option[0] in error["detail"]) == ("E-USAGE", True)


def test_the_choices_are_the_words_of_plans_and_of_the_wire() -> None:
    assert [role.value for role in MemberRole] == [role.value for role in Role]
    assert [role.value for role in UserRole] == [role.value for role in user_rows.UserRole]
    assert [weights.rule for weights in Weights] == [weights.value for weights in Weights]
    assert [graph.kind for graph in GraphKind] == [graph.value for graph in GraphKind]
    assert [suite.number for suite in Suite] == [int(suite.value) for suite in Suite] == [1, 2]
    assert RunRequest(members=[], created_at=0, expires_at=1).weight_rule == Weights.EQUAL.rule
    assert Requested().graph == GraphKind.COMPLETE.kind
