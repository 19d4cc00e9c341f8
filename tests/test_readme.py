"""The README's commands, run as they stand there.

Each line of a "stay" block runs in the background, as in a terminal of its own; a line of an "answer" block runs at a
terminal (a pty) at which somebody answers what is asked.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- walk: (run|stay|answer(?: [a-z])+) -->\n```sh\n(.*?)```", re.DOTALL)
TERMINAL = re.compile(r"`(export ONLYSUM_LEDGERS=[^`]+)`")
QUESTION = b"[y/N]: "
ROSTER = re.compile(r"(?:[0-9a-f]{4} ){15}[0-9a-f]{4}")  # sixteen groups, however they are broken into lines
START_SECONDS = 240  # four daemons load torch at once
ANSWER_SECONDS = 120
NAMES = ("alice", "bob", "carol", "eva")
MINUTES = 25

pytestmark = [pytest.mark.docs, pytest.mark.torch, pytest.mark.timeout(MINUTES * 60)]


def in_terminal(script: str) -> str:
    """Return a script after what each terminal starts with; the environment is activated as it is."""
    found = TERMINAL.search((ROOT / "README.md").read_text())
    assert found is not None
    return f"{found[1]}\n{script}"


def environment() -> dict[str, str]:
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ONLYSUM_")}
    return {**inherited, **threads, "PATH": path, "NO_COLOR": "1"}


@contextmanager
def staying(script: str, where: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", in_terminal(f"exec {script}")],
            cwd=where,
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(script: str, where: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", in_terminal(script)],
        cwd=where,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def answered(script: str, answers: Sequence[str], where: Path) -> str:
    """Run a command at a terminal, answer each question that it asks, and return all that was on the screen."""
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", in_terminal(f"exec {script}")],
        cwd=where, env={**environment(), "COLUMNS": "100"}, stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown, seen, left = b"", 0, list(answers)
    end = time.monotonic() + ANSWER_SECONDS
    try:
        while time.monotonic() < end and (part := read_some(person)) is not None:
            shown += part
            if shown.count(QUESTION) > seen:
                seen += 1
                os.write(person, f"{left.pop(0)}\n".encode())
        code = process.wait(ANSWER_SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(person)
    text = shown.decode()
    assert (code, left) == (0, []), f"{script}\n{text}"
    return text


def read_some(terminal: int) -> bytes | None:
    """Return what came within a second, which may be nothing; None once nobody is left who could write."""
    if not select.select([terminal], [], [], 1.0)[0]:
        return b""
    try:
        return os.read(terminal, 65_536) or None
    except OSError:  # Linux: the other side is closed
        return None


def await_plan(script: str, where: Path) -> None:
    """Wait until a plan has come, as the owner's daemon says in its terminal."""
    directory = script.rsplit(maxsplit=1)[-1]
    looks = in_terminal(f"onlysum participant plan list --pending -c {directory} | grep -q waits")
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if subprocess.run(["bash", "-c", looks], cwd=where, env=environment(), check=False).returncode == 0:
            return
        time.sleep(0.5)
    raise AssertionError(f"no plan came to {directory} within {START_SECONDS} s")


def await_members(count: int, where: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        status = subprocess.run(
            ["bash", "-c", "onlysum coordinator status --config clinic"],
            cwd=where,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if status.stdout.count(" yes") >= count and "running (pid" in status.stdout:
            return
        time.sleep(0.5)
    raise AssertionError(f"{count} members were not there within {START_SECONDS} s")


def test_the_walk_in_the_readme_works_as_written(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks) > 7
    said: list[str] = []
    fingerprints: list[str] = []
    members = 0
    with ExitStack() as stack:
        for number, (kind, script) in enumerate(blocks):
            lines = script.strip().splitlines()
            if kind == "run":
                said.append(run(script, tmp_path))
            elif kind == "stay":
                for line in lines:
                    log = tmp_path / f"terminal-{number}-{line.split()[-1]}.log"
                    stack.enter_context(staying(line, tmp_path, log))
                    members += line.endswith(tuple(f"--start -c {name}" for name in NAMES))
                await_members(members, tmp_path)  # a person would look, too, before going on
            else:
                for line in lines:
                    await_plan(line, tmp_path)
                    screen = answered(line, kind.split()[1:], tmp_path)
                    assert "WHAT LEAVES THIS MACHINE" in screen
                    fingerprints += ROSTER.findall(" ".join(screen.split()))
    assert members == len(NAMES)
    assert (tmp_path / "demo" / "ledgers" / "ledger.db").is_file()  # and not among this machine's own
    assert len(fingerprints) == 3
    assert len(set(fingerprints)) == 1  # what the owners compare by telephone is the same on every screen
    assert "verified" in "".join(said)
    for name in ("alice", "bob", "carol"):
        (decision,) = (tmp_path / name / "plans").glob("*/decision.json")
        assert json.loads(decision.read_text())["roster_verified"] is True
    assert (tmp_path / "result" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "result" / "report.html").is_file()
