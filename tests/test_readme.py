"""The README's commands, run as they stand there, each "stay" block in the background as in a terminal of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- walk: (run|stay) -->\n```sh\n(.*?)```", re.DOTALL)
START_SECONDS = 60
MINUTES = 8

pytestmark = [pytest.mark.docs, pytest.mark.torch, pytest.mark.timeout(MINUTES * 60)]


def environment() -> dict[str, str]:
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **threads, "PATH": path, "NO_COLOR": "1"}


@contextmanager
def staying(script: str, where: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {script}"], cwd=where, env=environment(), stdout=file, stderr=subprocess.STDOUT
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
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=where,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


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
    from contextlib import ExitStack

    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks) > 10
    said: list[str] = []
    members = 0
    with ExitStack() as stack:
        for number, (kind, script) in enumerate(blocks):
            if kind == "run":
                said.append(run(script, tmp_path))
                continue
            stack.enter_context(staying(script.strip(), tmp_path, tmp_path / f"terminal-{number}.log"))
            members += "participant start" in script
            await_members(members, tmp_path)  # a person would look, too, before going on
    assert "verified" in "".join(said)
    assert (tmp_path / "result" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "result" / "report.html").is_file()
