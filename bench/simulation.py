"""Simulations: how long they take, what a participant costs in memory, and Ray beside one process.

Each case is ``onlysum simulate start`` in a process of its own, on ``examples/digits-200.toml`` with other numbers.
``mib_per_participant`` is the growth of peak memory from 100 to 400 participants where masks are skipped, and from 50
to 200 where they are real. ``ray_over_process`` is the time on a cluster of
this machine's processors over that in one process, start-up included.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench import harness

SPEC: Final = Path(__file__).parent.parent / "examples" / "digits-200.toml"
MIB: Final = 1024  # KiB, in which Linux counts peak memory


@dataclass(frozen=True, slots=True)
class Took:
    """What a run took: seconds, processor seconds of the driver and its children, and peak memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def spec_text(participants: int, rounds: int) -> str:
    """Return the example's SPEC for another number of participants and of rounds."""
    text = re.sub(r"participants = \d+", f"participants = {participants}", SPEC.read_text())
    text = re.sub(r"rounds = \d+", f"rounds = {rounds}", text)
    text = re.sub(r"colluding = \d+", f"colluding = {max(1, participants // 20)}", text)
    return text if participants <= 512 else text.replace("[simulation]\n", '[simulation]\ngraph = "k-regular"\n')


def run(directory: Path, participants: int, rounds: int, *options: str) -> Took:
    """Run one case; the base is made beforehand, once for all."""
    name = f"{participants}-{rounds}-{'-'.join(options).replace('-', '')}"
    spec = directory / f"{name}.toml"
    spec.write_text(spec_text(participants, rounds))
    out = directory / name
    out.mkdir()
    (out / "world").symlink_to(directory / "first" / "world")
    words = [sys.executable, "-m", "onlysum", "simulate", "start", str(spec), "--out", str(out), *options]
    begin = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(process.pid, 0)
    if code:
        raise RuntimeError(f"{' '.join(words)}: exit status {code}")
    return Took(time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / MIB)


def growth(fewer: Took, more: Took, participants: int) -> float:
    """Return MiB per participant between two runs."""
    return (more.peak_mib - fewer.peak_mib) / participants


def measure(directory: Path, names: Sequence[str]) -> dict[str, float]:
    """Run the cases that are asked for and return their figures."""
    run_first(directory)
    skipped, figures = ("--masks", "skipped"), dict[str, float]()
    if "real" in names:
        took = run(directory, 200, 5)
        figures |= {"n200_r5_real.seconds": took.seconds, "n200_r5_real.cpu_seconds": took.cpu_seconds}
        figures["real.mib_per_participant"] = growth(run(directory, 50, 1), took, 150)
    if "skipped" in names:
        took = run(directory, 1000, 20, *skipped)
        figures |= {"n1000_r20_skipped.seconds": took.seconds, "n1000_r20_skipped.cpu_seconds": took.cpu_seconds}
        few, many = run(directory, 100, 1, *skipped), run(directory, 400, 1, *skipped)
        figures["skipped.mib_per_participant"] = growth(few, many, 300)
    if "ray" in names:
        here, there = run(directory, 200, 20, *skipped), run(directory, 200, 20, *skipped, "--engine", "ray")
        figures |= {"process.seconds": here.seconds, "ray.seconds": there.seconds}
        figures["ray_over_process"] = there.seconds / here.seconds
    return {name: round(value, 3) for name, value in figures.items()}


def run_first(directory: Path) -> None:
    """Make the base that all cases share."""
    spec = directory / "first.toml"
    spec.write_text(spec_text(3, 1).replace("sampling_rate = 0.5", "sampling_rate = 0.01"))
    words = ["simulate", "start", str(spec), "--out", str(directory / "first"), "--masks", "skipped"]
    subprocess.run([sys.executable, "-m", "onlysum", *words], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("cases", nargs="*", default=("real", "skipped", "ray"), help="real, skipped, ray")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="onlysum-bench-") as directory:
        figures = measure(Path(directory), options.cases)
    load = os.getloadavg()[0]
    print(harness.table(["figure", "value"], [[name, f"{value:g}"] for name, value in figures.items()]))
    print(f"load of the machine at the end: {load:.1f} on {os.cpu_count()} cores")
    harness.publish("simulation", figures, packages=("numpy", "peft", "torch", "ray"), save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
