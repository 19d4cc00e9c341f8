"""Every example under ``examples/``: its recipe builds, and an owner's dry run passes on the example's own rows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from authoring import plan_command
from examples.prepare import HERE, KINDS, ROWS, prepare
from participant.commands.participant import app
from privacy.draft import Draft
from privacy.task_parts import Task
from tests.worlds.enrolled import authority, enrol, propose
from tests.worlds.owner import policy_text
from tests.worlds.torch_world import plan_of

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

OFTEN = {"chat", "token-classification", "sentence-embedding"}  # the others are left to `make test-all`


def say(directory: Path, *words: str) -> str:
    """Run a participant's command, which must succeed, and return what it prints."""
    done = CliRunner().invoke(app, [*words, "--config", str(directory)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in OFTEN else [pytest.mark.slow]) for kind in KINDS]
)
def test_an_example_builds_and_its_dry_run_passes(kind: str, tmp_path: Path) -> None:
    prepare(kind, tmp_path)
    words = ["build", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "draft")]
    done = CliRunner().invoke(plan_command.app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    draft = Draft.from_bytes((tmp_path / "draft" / "draft.json").read_bytes())
    by_user = draft.privacy.unit == "user"
    plan, made = plan_of(draft, units=ROWS // 2 if by_user else ROWS), authority()
    home = enrol(tmp_path / "alice", made)
    home.policy.write_text(policy_text(approval="by-hand"))
    rows = next(tmp_path.glob("rows.*"))
    user = ["--user", "person"] if by_user else []
    task = draft.recipe.task
    say(home.directory, "dataset", "add", task.data, str(rows), "--population", "patients", *user)
    say(home.directory, "model", "add", draft.recipe.base.name, str(tmp_path / "base"))
    run = propose(home, made, plan)
    initial = (tmp_path / "draft" / "initial_adapter.safetensors").read_bytes()
    next(home.directory.rglob("initial_adapter.safetensors")).write_bytes(initial)
    told = json.loads(say(home.directory, "plan", "dry-run", run, "--json"))
    assert (told["ok"], told["unchanged"], told["remarks"]) == (True, True, [])
    assert all(step.endswith("rows went well") for step in told["steps"])
    assert len(told["steps"]) == len(draft.recipe.turns)


def test_there_is_an_example_of_every_kind_of_task_and_every_form_of_text() -> None:
    sections = [tomllib.loads(path.read_text())["task"] for path in HERE.glob("*/recipe.toml")]
    assert {section["kind"] for section in sections} == {
        kind.model_fields["kind"].default for kind in get_args(get_args(Task)[0])
    }
    assert {section.get("form") for section in sections} == {None, "text", "completion", "chat"}
    assert len(sections) == len(KINDS)
