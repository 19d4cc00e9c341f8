"""Fuzz every parser of untrusted input: ``python -m tests.fuzz.run [--seconds 60] [--target NAME]``, or ``make fuzz``.

With atheris installed (``pip install atheris``) coverage guides the inputs; otherwise valid inputs are changed at
random. The time is shared among the targets, each of which runs in a process of its own. Exit status 1: the printed
input makes a target fail; :mod:`tests.fuzz.targets` says what it must do instead.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

NAMES = ("codec", "tasks", "canonical", "plan", "report", "policy", "ledger", "journal", "chunks")


def guided(name: str, seconds: int) -> None:
    """Fuzz with atheris; libFuzzer ends the process and prints the input on failure."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["privacy", "protos", "participant", "coordinator", "audit"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="onlysum-fuzz-") as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=30", f"-artifact_prefix={corpus}/"]
        atheris.Setup([sys.argv[0], *options, corpus], target.run)
        atheris.Fuzz()


def random_changes(name: str, seconds: int) -> int:
    """Fuzz with random changes to valid inputs."""
    from tests.fuzz.mutator import changed
    from tests.fuzz.targets import TARGETS

    target, source = TARGETS[name], random.Random()
    seeds, done, until = target.seeds(), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        data = changed(source.choice(seeds), source.choice(seeds), source)
        try:
            target.run(data)
        except Exception:  # noqa: BLE001  # whatever it is, it is a finding
            traceback.print_exc()
            print(f"{name} fails with {data.hex()}")
            return 1
        done += 1
    print(f"{name}: {done} inputs in {seconds} s")
    return 0


def main() -> int:
    """Fuzz one target, or start a process for each."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", choices=NAMES)
    asked = parser.parse_args()
    if asked.target is None:
        share = str(max(1, asked.seconds // len(NAMES)))
        command = [sys.executable, "-m", "tests.fuzz.run", "--seconds", share, "--target"]
        return max(subprocess.run([*command, name], check=False).returncode != 0 for name in NAMES)
    if importlib.util.find_spec("atheris") is None:
        return random_changes(asked.target, asked.seconds)
    guided(asked.target, asked.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
