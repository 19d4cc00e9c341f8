"""``run create``: everybody by default, and once more what an earlier run was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import onlysum
from coordinator.database import label_rows, member_rows, run_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.home import Home
from coordinator.opened import open_home
from privacy.plan import Plan
from protos.envelope import DatasetOffer, Role
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import draft
from tests.worlds.initialised import initialised
from tests.worlds.plans import CREATED_AT, make_plan, names, signing_key

ENTRIES = 12


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coordinator with five participants that announced their data, and an evaluator."""
    directory = initialised(tmp_path, monkeypatch)
    with open_home(directory) as opened, opened.store.begin() as connection:
        for name in (*names(5), "referee"):
            role = Role.EVALUATOR if name == "referee" else Role.PARTICIPANT
            member = MemberRecord(name, role, signing_key(name).public, b"", "", "", CREATED_AT, None)
            member_rows.enrol_member(connection, member, token_id="", request_hash=b"")
            member_rows.announce(connection, name, version="1", offers=[DatasetOffer("digits", 100)])
    return directory


@pytest.fixture
def drafted(tmp_path: Path) -> Path:
    initial = hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()
    recipe = make_plan(entries=ENTRIES, recipe={"adapter": {"initial_hash": initial}})[0].recipe
    return draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES))


def created(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "create", *words, "--json"]) == 0, capsys.readouterr().err
    return str(json.loads(capsys.readouterr().out)["run"])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert onlysum.run(["coordinator", "run", "create", *words, "--json"]) == 2
    return str(json.loads(capsys.readouterr().err)["error"]["code"])


def plan_of(home: Path, run_id: str) -> Plan:
    with open_home(home) as opened, opened.store.read() as connection:
        return run_rows.find_run(connection, run_id).parsed()


def choices(plan: Plan) -> dict[str, Any]:
    """Return what an operator chose, and what was trained."""
    return {
        "roster": [member.id for member in plan.roster],
        "f": plan.f,
        "min_survivors": plan.min_survivors,
        "weights": plan.weight_rule,
        "suite": plan.suite,
        "graph": plan.graph.kind,
        "recipe": plan.recipe,
        "mode": plan.privacy.mode,
    }


def test_without_members_everybody_who_has_joined_takes_part(
    home: Path, drafted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(home, created(capsys, str(drafted)))
    assert tuple(member.id for member in plan.roster) == names(5)
    assert [evaluator.id for evaluator in plan.evaluation.evaluators] == ["referee"]


def test_a_run_like_another_has_its_draft_and_all_that_was_chosen(
    home: Path, drafted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = ",".join(names(4))
    options = ["--members", members, "--f", "2", "--min-survivors", "4", "--weights", "units", "--suite", "2"]
    first = created(capsys, str(drafted), *options)
    for file in drafted.iterdir():
        file.unlink()  # it is not needed any more
    second = created(capsys, "--like", first[:8])
    assert second != first
    assert choices(plan_of(home, second)) == choices(plan_of(home, first))
    assert plan_of(home, second).weight_rule == "units"
    third = created(capsys, "--like", second)  # of which there is a draft, too
    assert choices(plan_of(home, third)) == choices(plan_of(home, first))


def test_what_is_said_takes_the_place_of_what_was_chosen(
    home: Path, drafted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = created(capsys, str(drafted), "--f", "2", "--min-survivors", "5", "--suite", "2")
    smaller = plan_of(home, created(capsys, "--like", first, "--members", ",".join(names(3)), "--suite", "1"))
    assert (smaller.n, smaller.f, smaller.suite) == (3, 1, 1)  # another roster: what it withstands is chosen anew
    same = plan_of(home, created(capsys, "--like", first, "--f", "1", "--min-survivors", "4"))
    assert (same.n, same.f, same.min_survivors, same.suite) == (5, 1, 4, 2)


def test_a_draft_and_a_run_at_once_or_neither_is_a_mistake(
    home: Path, drafted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = created(capsys, str(drafted))
    assert refused(capsys) == "E-USAGE"
    assert refused(capsys, str(drafted), "--like", first) == "E-USAGE"
    assert refused(capsys, "--like", "ffff") == "E-NOT-FOUND"
    (Home(home).run(first) / "draft.json").unlink()
    assert refused(capsys, "--like", first) == "E-NOT-FOUND"  # as older software has left it


def labels_of(home: Path, run_id: str) -> dict[str, str]:
    with open_home(home) as opened, opened.store.read() as connection:
        return label_rows.labels_of(connection, run_id)


def test_a_run_is_created_with_labels_that_are_beside_its_plan_and_taken_over_by_another_like_it(
    home: Path, drafted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = created(capsys, str(drafted), "--label", "study=lung", "--label", "site=north, ward 7")
    assert labels_of(home, first) == {"site": "north, ward 7", "study": "lung"}
    assert b"lung" not in plan_of(home, first).to_bytes()
    second = created(capsys, "--like", first, "--label", "study=heart", "--label", "try=2")
    assert labels_of(home, second) == {"site": "north, ward 7", "study": "heart", "try": "2"}
    assert labels_of(home, created(capsys, str(drafted))) == {}


def test_a_run_whose_labels_are_refused_is_not_created(
    home: Path, drafted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = created(capsys, str(drafted), *(f"--label=key{number}=x" for number in range(16)))
    assert refused(capsys, str(drafted), "--label", "study") == "E-USAGE"
    assert refused(capsys, "--like", first, "--label", "one=more") == "E-USAGE"
    with open_home(home) as opened, opened.store.read() as connection:
        assert [run.run_id for run in run_rows.list_runs(connection)] == [first]
