"""Check a base install: help is quick, no torch is there, and a coordinator can be set up, started and stopped.

Run as ``python .ci/smoke.py VENV SCRATCH``, where VENV has the wheel and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HELP_SECONDS = 0.3
START_SECONDS = 20


def main() -> None:
    """Run the checks; the first that fails ends the program with its output."""
    venv, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    onlysum = venv / "bin" / "onlysum"
    torch = subprocess.run([venv / "bin" / "python", "-c", "import torch"], capture_output=True, check=False)
    assert torch.returncode != 0, "the base install has torch"
    for words in (["--help"], ["coordinator", "--help"], ["audit", "--help"], ["explain", "E-BUG"]):
        _run(onlysum, words, scratch)
    quickest = min(_seconds(onlysum, ["--help"], scratch) for _ in range(10))
    assert quickest < HELP_SECONDS, f"onlysum --help took {quickest:.2f} s, more than {HELP_SECONDS} s"
    print(f"onlysum --help: {quickest:.2f} s")
    _start_and_stop(onlysum, scratch)


def _run(onlysum: Path, words: list[str], scratch: Path) -> str:
    done = subprocess.run([onlysum, *words], cwd=scratch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"onlysum {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _seconds(onlysum: Path, words: list[str], scratch: Path) -> float:
    begin = time.perf_counter()
    _run(onlysum, words, scratch)
    return time.perf_counter() - begin


def _start_and_stop(onlysum: Path, scratch: Path) -> None:
    home = scratch / "federation"
    _run(
        onlysum,
        ["coordinator", "init", str(home), "--name", "smoke", "--operator", "CI", "--address", "127.0.0.1:18443"],
        scratch,
    )
    with (scratch / "coordinator.log").open("w") as log:
        process = subprocess.Popen(
            [onlysum, "coordinator", "start", "--config", str(home)], stdout=log, stderr=log, cwd=scratch
        )
        try:
            _await_status(onlysum, home, scratch, process)
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=START_SECONDS)
        finally:
            process.kill()
    assert code in (0, -signal.SIGTERM, 130, 143), f"the coordinator ended with {code}"
    print("coordinator: init, start, status, stop")


def _await_status(onlysum: Path, home: Path, scratch: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    words = ["coordinator", "status", "--json", "--config", str(home)]
    while time.monotonic() < end:
        assert process.poll() is None, (scratch / "coordinator.log").read_text()
        done = subprocess.run([onlysum, *words], cwd=scratch, capture_output=True, check=False, env=dict(os.environ))
        if done.returncode == 0 and json.loads(done.stdout)["running"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"no answer within {START_SECONDS} s\n{(scratch / 'coordinator.log').read_text()}")


if __name__ == "__main__":
    main()
