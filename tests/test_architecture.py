"""The rules that the whole tree keeps: imports, sizes, error codes, generated files, words, and the tests' own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

from privacy.error_codes import REGISTRY

ROOT = Path(__file__).parent.parent
PACKAGES = ("privacy", "methods", "host", "protos", "audit", "authoring", "coordinator", "participant", "simulation")
MAX_MODULES = 14  # of one folder of a daemon: more than one takes in at a glance
MAX_CHAIN = 8  # modules of one folder, each of which imports the next
SUPPORT = ("worlds", "reference")  # folders of tests that tests import from
UNDER_TEST_TOO = {"_take", "_trainer"}  # private names of support code that a test reads of an object of a package
CODE = re.compile(r"^E-[A-Z0-9]+(-[A-Z0-9]+)*$")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|root|home/\w+|Users/\w+)/")


def sources() -> Iterator[Path]:
    yield ROOT / "onlysum.py"
    for package in PACKAGES:
        yield from (path for path in sorted((ROOT / package).rglob("*.py")) if "_pb2" not in path.name)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def daemon_folders() -> list[Path]:
    roots = [ROOT / "participant", ROOT / "coordinator"]
    return [folder for root in roots for folder in [root, *sorted(root.rglob("*/"))] if modules_in(folder)]


def modules_in(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def imported_names(path: Path) -> Iterator[str]:
    """Every module or name that a module imports, wherever in it, with all that leads to it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def longest_chain(imports: Mapping[str, Set[str]], start: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
    chain = (*above, start)
    assert start not in above, f"modules import each other in a circle: {chain}"
    return max((longest_chain(imports, target, chain) for target in imports[start]), key=len, default=chain)


def string_constants(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_packages_import_only_what_they_may() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", daemon_folders(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_no_folder_of_a_daemon_has_more_modules_than_one_takes_in_at_a_glance(folder: Path) -> None:
    assert len(modules_in(folder)) <= MAX_MODULES


@pytest.mark.parametrize("folder", daemon_folders(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_no_chain_of_imports_within_a_folder_of_a_daemon_is_long(folder: Path) -> None:
    modules = modules_in(folder)
    names = {".".join((folder / stem).relative_to(ROOT).parts): stem for stem in modules}
    imports = {stem: {names[name] for name in imported_names(path) if name in names} for stem, path in modules.items()}
    chain = max((longest_chain(imports, stem) for stem in modules), key=len)
    assert len(chain) <= MAX_CHAIN, " -> ".join(chain)


def test_a_chain_is_as_long_as_its_modules_are_many_and_a_circle_is_refused() -> None:
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set[str]()}
    assert longest_chain(imports, "a") == ("a", "b", "c")
    with pytest.raises(AssertionError, match="in a circle"):
        longest_chain({**imports, "c": {"a"}}, "a")


# --- the tests ---


def test_no_test_imports_from_another_test() -> None:
    """What two tests need lies in tests/worlds."""
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name in imported_names(path)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]
    assert not found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(*folders: Path) -> set[str]:
    """Return the private functions, classes and attributes that the modules of folders define."""
    nodes = [
        node for folder in folders for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    stored = (node for node in nodes if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store))
    defined |= {node.attr if isinstance(node, ast.Attribute) else node.id for node in stored}
    return {name for name in defined if is_private(name)}


def private_uses(path: Path, names: Set[str]) -> Iterator[str]:
    """Private names that a module imports from support code, or reads of other objects than its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names if is_private(alias.name))
        if (
            isinstance(node, ast.Attribute)
            and node.attr in names
            and ast.unparse(node.value) not in {"self", "super()"}
        ):
            yield ast.unparse(node)


def test_tests_reach_support_code_by_public_names_only() -> None:
    assert private_names(*(ROOT / package for package in PACKAGES)) >= UNDER_TEST_TOO
    names = private_names(*(ROOT / "tests" / folder for folder in SUPPORT)) - UNDER_TEST_TOO
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name in private_uses(path, names)
    ]
    assert not found


# --- error codes ---


def test_every_error_code_in_the_source_is_explained() -> None:
    unknown = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in sources()
        for text in string_constants(path)
        if CODE.match(text) and text not in REGISTRY
    }
    assert not unknown


def test_every_explained_error_code_is_used() -> None:
    used = {text for path in sources() if path.name != "error_codes.py" for text in string_constants(path)}
    assert not {code for code in REGISTRY if code not in used and code != "E-BUG"}


def test_every_explanation_is_complete() -> None:
    for code, entry in REGISTRY.items():
        assert CODE.match(code), code
        assert all((entry.what, entry.why, entry.next_step)), code


# --- files ---


def test_generated_code_is_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "protos.generate", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".txt", ".proto", ".svg", ""} and path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if MACHINE_PATHS.search(line)
    ]
    assert not found


def test_no_module_is_a_drawer_for_everything() -> None:
    assert not [path for path in sources() if path.stem in {"utils", "util", "common", "helpers", "misc"}]


def test_the_folders_of_both_daemons_can_be_taken_in_at_a_glance() -> None:
    counted = {
        str(folder.relative_to(ROOT)): sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        for package in ("coordinator", "participant")
        for folder in (ROOT / package, *(ROOT / package).rglob("*/"))
    }
    assert "participant/views" in counted
    assert {folder: count for folder, count in counted.items() if count > 14} == {}


def test_both_daemons_are_arranged_alike() -> None:
    modules = {
        package: {str(path.relative_to(ROOT / package)) for path in (ROOT / package).rglob("*.py")}
        for package in ("coordinator", "participant")
    }
    alike = {
        "config.py", "home.py", "opened.py", "commands/console.py", "commands/member.py", "daemon/backup.py",
        "daemon/doctor.py", "daemon/process.py", "daemon/runner.py", "daemon/status.py", "protocol/checks.py",
        "protocol/round.py", "views/members.py", "views/status.py",
    }  # fmt: skip
    assert {package: alike - files for package, files in modules.items()} == {
        "coordinator": set(),
        "participant": set(),
    }


def test_every_module_says_what_it_is() -> None:
    assert not [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]


# --- words ---

EACH = "run|round|row|word|member|registered|revision|sequence|process|machine|column|label|holder|peer|phase|message"
BANNED = {  # what no text says any more, and what it says instead
    r"Say whether": "Return whether; of a command, Show whether",
    rf"[Oo]ne [\w./-]+( share)? an? ({EACH})": "one ... per ...",
    r"[Nn]othing refunds": "nothing is refunded",
    r"[Mm]ade-up": "synthetic",
    r"[Rr]ooms|([Aa]|[Aa]ny|[Tt]he|[Tt]his|[Ee]ach|[Ee]very|other|lowest) room": "package",
    r"[Ff]ront door": "the command onlysum",
    r"[Tt]he house": "the repository",
    r"[Cc]ourier|PlanShelf|KeyBook|[Ww]orkplace|[Rr]unbook": "delivery, plan store, noise keys, context, run rows",
    r"bytes of strangers": "untrusted input",
    r"in life": "in production",
    r"which holds once": "single-use",
    r"abort, reject": "abort, refuse",
    r"is a riddle": "hard to diagnose",
}
READ = {".py", ".md", ".toml", ".proto", ".j2", ".typ", ".svg", ".sh", ""}
AS_WRITTEN = ("docs/adr/", "CHANGELOG.md", "THIRD_PARTY_NOTICES.md", "LICENSE", "tests/test_architecture.py")


def prose() -> Iterator[tuple[str, str]]:
    """Each text of the repository in one line; decisions and changes of the past stay as they were written."""
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in READ and not name.startswith(AS_WRITTEN) and "_pb2" not in name:
            yield name, re.sub(r"\s+(# )?", " ", path.read_text())


def test_no_text_falls_back_into_words_that_were_given_up() -> None:
    patterns = [(re.compile(rf"\b({words})\b"), instead) for words, instead in BANNED.items()]
    found = [
        f"{name}: {match[0]!r}: say {instead}"
        for name, text in prose()
        for pattern, instead in patterns
        for match in pattern.finditer(text)
    ]
    assert not found, "\n".join(found)
