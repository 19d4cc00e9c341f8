"""Commands in the documents exist as written, links lead somewhere, and figures in the text are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import methods
import onlysum
from docs import build_methods

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def commands() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for block in SHELL.findall(document.read_text()):
            for line in block.splitlines():
                for start in re.finditer(r"\bonlysum (?=[a-z])", line):
                    words = re.split(r"[|;<>)#]", line[start.start() :])[0].strip()
                    found.append((document.name, words))
    return found


def inline_commands() -> list[tuple[str, str]]:
    quoted = re.compile(r"`(onlysum [a-z][^`]*)`")
    return [(document.name, words) for document in DOCUMENTS for words in quoted.findall(document.read_text())]


@pytest.mark.parametrize(("document", "words"), sorted({*commands(), *inline_commands()}))
def test_every_command_in_the_documents_exists_with_its_options(
    document: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = shlex.split(words.replace("\n", " "))[1:]
    path = [part for part in parts if re.fullmatch(r"[a-z][a-z-]*", part)]
    options = [part.split("=")[0] for part in parts if part.startswith("-") and part != "-"]
    for depth in range(min(3, len(path)), 0, -1):  # the longest beginning that is a command; what follows are arguments
        code = onlysum.run([*path[:depth], "--help"])
        shown = capsys.readouterr().out
        if code == 0 and f"onlysum {' '.join(path[:depth])}" in shown:
            break
    else:
        pytest.fail(f"{document}: no such command: {words}")
    takes_commands = "COMMAND [ARGS]" in shown
    assert not (takes_commands and len(path) > depth), f"{document}: no such command: {words}"
    assert not [option for option in options if option not in shown], f"{document}: {words}"


def test_every_link_in_the_documents_leads_to_a_file() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in DOCUMENTS
        for target in LINK.findall(document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not broken


def test_the_page_of_methods_shows_them_as_they_are() -> None:
    text = build_methods.TEXT.read_text()
    assert build_methods.rebuilt(text) == text, "run `python -m docs.build_methods`"
    for method in methods.all_methods():
        assert f"(`{method.name}`)" in text
        assert f"### {method.name}\n" in text
    assert all(f"- `{name}`:" in text for name in methods.REFUSED)


def test_the_readme_of_the_tests_names_every_world_and_every_marker() -> None:
    import tomllib

    readme = (ROOT / "tests" / "README.md").read_text()
    worlds = {path.stem for path in (ROOT / "tests" / "worlds").glob("*.py")}
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    named = set(re.findall(r"`([a-z_]+)`", readme))
    assert named >= worlds | {marker.partition(":")[0] for marker in markers}


def test_every_error_code_in_the_documents_is_explained() -> None:
    from privacy.error_codes import REGISTRY

    named = {code for document in DOCUMENTS for code in re.findall(r"\bE-[A-Z]+(?:-[A-Z]+)+\b", document.read_text())}
    assert named <= REGISTRY.keys()


def test_third_party_notices_name_every_package_that_a_user_installs() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    needed = [*project["dependencies"], *optional["participant"], *optional["dashboard"]]
    needed += [*optional["report"], *optional["postgres"]]
    names = {re.split(r"[\[<>=~! ]", one)[0].lower() for one in needed}
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \|", (ROOT / "THIRD_PARTY_NOTICES.md").read_text(), re.MULTILINE))
    assert names <= listed


def walked() -> tuple[list[str], int]:
    """Return the README's commands from nothing to three owners that train, and how many answers they are given."""
    text = (ROOT / "README.md").read_text()
    before = text[: text.index("<!-- walk: they train -->")]
    commands, answers = [], 0
    for kind, block in re.findall(r"<!-- walk: ([^>]+) -->\n```sh\n(.*?)```", before, re.DOTALL):
        lines = block.strip().splitlines()
        commands += lines
        answers += len(lines) * len(kind.split()[1:])
    return commands, answers


def test_three_owners_train_pinned_after_sixteen_commands_and_nine_hundred_characters_at_most() -> None:
    typed, answers = walked()
    assert all(line.startswith("onlysum ") for line in typed)  # no loop, no variable: what is counted is what is typed
    assert not [line for line in typed if re.search(r"[;|&$`<>]", line)]
    assert {name for line in typed if "participant join" in line for name in line.split()[-1:]} == {
        *("alice", "bob", "carol", "eva")
    }
    assert len(typed) <= 16
    assert sum(map(len, typed)) + answers <= 900
