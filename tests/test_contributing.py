"""The recipes of CONTRIBUTING.md: every file and name in them is there, and what they promise holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import methods
from methods import selectors
from methods.method import Method
from privacy.adapter_options import OPTIONS, AdapterOptions
from privacy.errors import OnlysumError

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PLACEHOLDER = re.compile(r"(NUMBER_)?NAME")
# `path` or `path` (`name`, `name`); a path has a slash or is a module of the top folder.
NAMED_FILE = re.compile(r"`([\w./-]+(?:/|\.(?:py|md|proto|toml)))`(?:\s+\(((?:`\w+`,?\s*)+)[^)]*\))?")
WANTED = ("method", "task kind", "RPC", "phase", "migration", "error", "command")


def recipes() -> dict[str, str]:
    """Return the recipes by what is added."""
    part = TEXT.split("## Recipes\n")[1].split("\n## ")[0]
    return {recipe.split("\n")[0]: recipe for recipe in part.split("\n### A new ")[1:]}


def files_of(recipe: str) -> list[tuple[str, str]]:
    """Return the files that a recipe names, each with the names that should be in it."""
    return [(path, names or "") for path, names in NAMED_FILE.findall(recipe)]


def source_of(path: str) -> str | None:
    """Return the text of a file, of all modules of a folder, or of any file that a placeholder stands for."""
    found = sorted(ROOT.glob(PLACEHOLDER.sub("*", path)))
    if path.endswith("/"):
        found = sorted((ROOT / path).glob("*.py"))
    return "\n".join(file.read_text() for file in found) if found else None


def test_there_is_a_recipe_for_each_thing_that_is_added_and_each_is_a_short_numbered_list() -> None:
    assert tuple(recipes()) == WANTED
    for recipe in recipes().values():
        steps = re.findall(r"^(\d+)\. ", recipe, re.MULTILINE)
        assert steps == [str(number) for number in range(1, len(steps) + 1)]
        assert 3 <= len(steps) <= 6
        assert files_of(recipe)


@pytest.mark.parametrize("name", WANTED)
def test_every_file_and_name_in_a_recipe_is_there(name: str) -> None:
    for path, names in files_of(recipes()[name]):
        source = source_of(path)
        assert source is not None, path
        for symbol in re.findall(r"\w+", names):
            assert re.search(rf"^\s*(?:class |def )?{symbol}\b\s*[:=(\[]", source, re.MULTILINE), f"{symbol} in {path}"


def test_a_path_or_a_name_that_is_not_there_is_noticed() -> None:
    assert source_of("methods/fedit.py")
    assert source_of("methods/absent.py") is None
    assert files_of("`methods/a.py` (`B`,\n  `C`) and `d/`") == [("methods/a.py", "`B`,\n  `C`"), ("d/", "")]


# --- a new method ---


@pytest.mark.parametrize("method", methods.all_methods(), ids=lambda method: method.name)
def test_every_method_has_a_file_of_its_own_a_place_on_the_page_and_a_type_that_is_known(method: Method) -> None:
    module = ROOT / "methods" / f"{method.name.replace('-', '_')}.py"
    assert module.is_file()
    page = (ROOT / "docs" / "methods.md").read_text()
    assert f"### {method.name}\n" in page
    assert method.peft_type in OPTIONS
    assert method.peft_type in selectors._ENDINGS
    anywhere = {selectors.Selector.HEAD, selectors.Selector.VARIATE}
    claimed = {*selectors._ENDINGS[method.peft_type].values(), *anywhere}
    assert set(method.roles) <= claimed


def test_every_type_of_peft_has_options_selectors_a_recipe_and_words() -> None:
    from privacy.adapter_parts import options_words
    from tests.worlds.plans import make_plan

    members = {kind.model_fields["peft_type"].default: kind for kind in get_args(get_args(AdapterOptions)[0])}
    assert members == OPTIONS
    assert OPTIONS.keys() == selectors._ENDINGS.keys()
    used = {method.peft_type for method in methods.all_methods()}
    assert used == OPTIONS.keys(), "a type that no method uses"
    assert options_words(make_plan()[0].recipe.adapter)


@pytest.mark.torch
def test_every_type_of_peft_is_realised_in_torch() -> None:
    from participant.training.adapters import kinds

    assert kinds._KINDS.keys() == OPTIONS.keys()


# --- a new RPC ---


def calls() -> list[str]:
    return re.findall(r"rpc (\w+)\(", (ROOT / "protos" / "federation.proto").read_text())


@pytest.mark.parametrize("call", calls())
def test_every_call_is_answered_by_the_coordinator_made_by_members_and_described(call: str) -> None:
    assert f'"{call}"' in (ROOT / "coordinator" / "daemon" / "service.py").read_text()
    assert f'"{call}"' in (ROOT / "participant" / "link" / "channel.py").read_text()
    described = (ROOT / "docs" / "wire.md").read_text()
    assert f"| `{call}` |" in described or f".{call}`" in described


# --- a new migration, a new error ---


def test_migrations_are_numbered_without_gaps_and_the_last_is_the_head() -> None:
    from coordinator.database.store import HEAD, MIGRATIONS

    numbers = sorted(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    assert numbers[-1] == HEAD


def test_the_recipe_of_errors_names_every_class_that_says_who_is_at_fault() -> None:
    classes = {kind.__name__ for kind in OnlysumError.__subclasses__() if kind.__module__ == "privacy.errors"}
    assert classes <= set(re.findall(r"\w+", recipes()["error"]))
