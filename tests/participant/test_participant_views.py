"""What an owner sees is one value, and the terminal and --json print that very value."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

import onlysum
from host.console import laid_out
from host.locks import only_daemon
from host.rendering import View
from host.status_file import write_status_file
from participant.home import Home
from participant.opened import OpenHome, open_home
from participant.owner.cost import lifetime_budget
from participant.owner.policy import load_policy
from participant.training.record import RunRecord
from participant.views.datasets import dataset_list, dataset_view
from participant.views.ledger import ledger_view
from participant.views.members import PinState, member_list, own_fingerprints
from participant.views.models import model_list, model_view
from participant.views.plans import plan_list
from participant.views.status import participant_status
from privacy.errors import LocalError
from tests.worlds.charges import CHARGE
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.owner import OTHERS, owned_plan
from tests.worlds.plans import CREATED_AT, signing_key

MADE = authority()
PLAN = owned_plan(mode="distributed")
BASE = PLAN.recipe.base.name


def write_daemon_status(home: Home, **changes: Any) -> None:
    members = [[name, "participant", signing_key(name).public.hex()] for name in ("alice", *OTHERS)]
    fields = {"since": 1, "connected": True, "code": "", "detail": "", "members": members}
    write_status_file(home.status_file, fields | changes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A participant with a pending plan, a dataset, a model, a charged round and a running daemon."""
    directory = enrol(tmp_path / "alice", MADE)
    equip(directory, MADE, PLAN)
    propose(directory, MADE, PLAN)
    budget = lifetime_budget(load_policy(directory).population["patients"])
    ledger = open_home(directory.directory).ledger
    ledger.charge(CHARGE, budget=budget, max_rounds=10, at=CREATED_AT)
    write_daemon_status(directory)
    monkeypatch.setenv("ONLYSUM_HOME", str(directory.directory))
    with only_daemon(directory.directory, "participant"):
        yield directory


VIEWS: dict[str, Callable[[OpenHome], View]] = {
    "status": participant_status,
    "plan list": plan_list,
    "plan list --pending": lambda opened: plan_list(opened, pending=True),
    "ledger show": ledger_view,
    "ledger show patients": lambda opened: ledger_view(opened, "patients"),
    "member list": member_list,
    "member fingerprint": own_fingerprints,
    "dataset list": dataset_list,
    "dataset show digits": lambda opened: dataset_view(opened, "digits"),
    "model list": model_list,
    f"model show {BASE}": lambda opened: model_view(opened, BASE),
}


@pytest.mark.parametrize("command", VIEWS)
def test_a_command_prints_one_value_as_lines_and_as_json(
    home: Home, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    view = VIEWS[command](open_home(home.directory))
    assert onlysum.run(["participant", *command.split()]) == 0
    shown = [part for line in view.to_lines() for part in laid_out(line)]
    assert capsys.readouterr().out == "\n".join(shown) + "\n"
    assert onlysum.run(["participant", *command.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == view.to_json()


@pytest.mark.parametrize("command", VIEWS)
def test_a_view_cannot_be_changed_and_does_not_print(
    home: Home, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    view = VIEWS[command](open_home(home.directory))
    view.to_json(), view.to_lines()
    assert capsys.readouterr().out == ""
    with pytest.raises(FrozenInstanceError):
        setattr(view, next(iter(view.__slots__)), None)  # type: ignore[attr-defined]


KEYS: dict[str, set[str]] = {
    "status": {
        "name", "federation", "running", "since", "connected", "paused", "code", "waiting", "runs", "plans",
        "ledger_sequence", "left", "abstains", "identity",
    },
    "plan list": {"run", "title", "mode", "decision", "ended", "reason", "expires_at", "training"},
    "ledger show": {"populations", "sequence", "head", "key", "file", "members", "reanchored", "unknown"},
    "member list": {"name", "role", "identity", "state"},
    "member fingerprint": {"name", "identity", "authority"},
    "dataset list": {
        "name", "path", "rows", "users", "units", "population", "input", "label", "user", "columns", "labels",
        "renamed", "added_at",
    },
    "model list": {"name", "path", "hash", "files", "added_at"},
}  # fmt: skip


@pytest.mark.parametrize("command", KEYS)
def test_the_keys_that_scripts_rely_on_stay(home: Home, command: str) -> None:
    document: Any = VIEWS[command](open_home(home.directory)).to_json()
    assert set(document[0] if isinstance(document, list) else document) == KEYS[command]


def test_the_status_names_the_last_problem_of_a_daemon_that_is_not_connected(home: Home) -> None:
    write_daemon_status(home, connected=False, code="E-NET-DNS", detail="sum.example.org")
    status = participant_status(open_home(home.directory))
    assert (status.running, status.connected, status.pending) == (True, False, (PLAN.run_id,))
    assert status.to_lines()[:2] == [
        "alice in test-federation: running, NOT connected, since 1970-01-01 00:00 UTC",
        "  E-NET-DNS: sum.example.org",
    ]


def test_a_status_left_by_a_daemon_that_was_killed_is_not_running(tmp_path: Path) -> None:
    home = enrol(tmp_path / "alice", MADE)
    write_daemon_status(home, pid=os.getpid())  # as older versions wrote it: the id may be another process's by now
    status = participant_status(open_home(home.directory))
    assert (status.running, status.since, status.connected) == (False, None, False)


def test_a_decided_plan_comes_after_the_pending_ones_and_says_until_when(home: Home) -> None:
    open_home(home.directory).review.approve(PLAN.run_id, who="Anna Meier")
    status = participant_status(open_home(home.directory))
    assert (status.pending, status.decided) == ((), (PLAN.run_id,))
    assert any(line.startswith(f"takes part in run {PLAN.run_id[:8]} until ") for line in status.to_lines())
    assert plan_list(open_home(home.directory), pending=True).plans == ()


def test_the_ledger_says_what_a_run_cost_and_what_is_left(home: Home) -> None:
    (patients,) = ledger_view(open_home(home.directory)).populations
    assert patients.lifetime is not None
    assert patients.lifetime.used > 0
    assert patients.lifetime.left == pytest.approx(40 - patients.lifetime.used)
    (run,) = patients.runs
    assert (run.run_id, run.rounds, run.delta) == (CHARGE.run_id, 1, "0.00001")
    assert "1 rounds charged, epsilon " in run.to_line()


def test_a_population_without_a_section_may_spend_nothing_more(home: Home) -> None:
    home.policy.write_text(home.policy.read_text().replace("patients", "others"))
    view = ledger_view(open_home(home.directory), "patients")
    assert view.to_lines()[0] == "patients: no section in the policy, nothing more may be spent"
    assert set(view.populations[0].to_json()) == {"population", "unit", "runs"}  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="E-NOT-FOUND"):
        ledger_view(open_home(home.directory), "nobody")


def pin(home: Home, name: str, digits: str) -> None:
    old = hashlib.sha256(signing_key(name).public).hexdigest()[:32]
    home.policy.write_text(home.policy.read_text().replace(f'{name} = "{old}"', f'{name} = "{digits}"'))


def states(home: Home) -> dict[str, PinState]:
    return {member.name: member.state for member in member_list(open_home(home.directory)).members}


def test_members_are_compared_with_the_pins_of_the_policy(home: Home) -> None:
    whole = hashlib.sha256(signing_key(OTHERS[0]).public).hexdigest()
    pin(home, OTHERS[0], whole)
    pin(home, OTHERS[1], "0" * 32)
    assert states(home) == {
        "alice": PinState.SELF,
        OTHERS[0]: PinState.PINNED,
        OTHERS[1]: PinState.DIFFERS,
        **dict.fromkeys(OTHERS[2:], PinState.PINNED),
    }


def test_a_key_that_differs_from_a_long_pin_in_its_last_digit_is_not_pinned(home: Home) -> None:
    whole = hashlib.sha256(signing_key(OTHERS[0]).public).hexdigest()
    pin(home, OTHERS[0], whole[:-1] + ("0" if whole[-1] != "0" else "1"))
    assert states(home)[OTHERS[0]] is PinState.DIFFERS


def test_before_any_daemon_has_run_nobody_is_listed(home: Home) -> None:
    home.status_file.unlink()
    with pytest.raises(LocalError, match=r"E-NOT-FOUND.*learns who is enrolled"):
        member_list(open_home(home.directory))


def test_the_hash_of_a_datasets_files_is_not_shown(home: Home) -> None:
    view = dataset_view(open_home(home.directory), "digits")
    assert "sha256" not in json.dumps(view.to_json())


def test_status_and_plan_list_say_in_how_many_rounds_training_failed_and_of_unusable_rows(
    home: Home,
) -> None:
    opened = open_home(home.directory)
    assert not any("training failed" in line for line in (*participant_status(opened).to_lines(),))
    run = home.runs / PLAN.run_id
    run.mkdir(exist_ok=True)
    RunRecord(run).failed(2, "RuntimeError")
    RunRecord(run).read(24, 24, "digits.npz row 1: a pixel is infinite, or not a number")
    said = (
        f"training failed in 1 of {PLAN.recipe.rounds} rounds (RuntimeError); "
        "24 of 24 rows are of no use; the first: digits.npz row 1: a pixel is infinite, or not a number"
    )
    for view in (participant_status(opened), plan_list(opened)):
        assert any(said in str(line) for line in view.to_lines())
        assert said in json.dumps(view.to_json())
