"""The repository keeps its rules: imports, error codes, generated files, words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy.error_codes import REGISTRY

ROOT = Path(__file__).parent.parent
PACKAGES = ("privacy", "methods", "host", "protos", "audit", "authoring", "coordinator", "participant", "simulation")
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


def string_constants(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_packages_import_only_what_they_may() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
