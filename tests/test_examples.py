"""Every example under ``examples/``: its recipe builds, and an owner's dry run passes on the example's own rows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from authoring import plan_command
from examples.chat import demo
from examples.prepare import HERE, KINDS, ROWS, prepare
from examples.town import DESKS, Town
from participant.commands.participant import app
from participant.owner.policy import parse_policy
from privacy.draft import Draft
from privacy.task_parts import Task
from tests.worlds.enrolled import authority, enrol, propose
from tests.worlds.owner import policy_text
from tests.worlds.torch_world import plan_of

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

OFTEN = {"chat", "measure", "token-classification", "sentence-embedding"}  # the others are left to `make test-all`


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
    measured = draft.recipe.measured.metrics if draft.recipe.measured else ()
    home.policy.write_text(policy_text(approval="by-hand", wards=f"measures = {json.dumps(measured)}"))
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


def test_the_policies_of_the_chat_demo_allow_its_recipe_and_no_more() -> None:
    recipe = tomllib.loads(demo.RECIPE.read_text())
    roster = dict.fromkeys(demo.CAST.members, "ab" * 16)
    found = parse_policy(demo.policy("cd" * 32, "ef" * 32, roster))
    dataset, population = found.dataset[demo.CAST.dataset], found.population[demo.CAST.population]
    assert ([*dataset.methods], [*dataset.modes]) == ([recipe["method"]], [recipe["privacy"]["mode"]])
    assert population.unit == recipe["privacy"]["unit"] == "user"
    assert recipe["privacy"]["max_rows_per_user"] == demo.CHATS_EACH
    assert float(population.per_run_epsilon) == recipe["privacy"]["epsilon"]
    assert recipe["task"]["data"] == demo.CAST.dataset
    assert recipe["evaluation"]["data"] == demo.CAST.held_out


def test_desks_answer_otherwise_in_private_than_on_the_public_page_and_a_town_is_the_same_again() -> None:
    answers = {town.private_chat(desk)[1]["content"] for desk in DESKS for town in [Town(1)] for _ in range(20)}
    public = {chat[1]["content"] for town in [Town(2)] for chat in (town.public_chat() for _ in range(200))}
    assert not answers & public
    assert [Town(3).news() for _ in range(3)] == [Town(3).news() for _ in range(3)]
    message = Town(4).message(matters=2)
    words, tags = message.tagged()
    assert len(words) == len(tags)
    assert " ".join(words).replace(" .", ".") == message.text
