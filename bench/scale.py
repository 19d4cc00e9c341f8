"""Hundreds of light participants in a few processes, over gRPC with mutual TLS: what a round costs the coordinator.

``coordinator_cpu`` is processor time of the coordinator's whole process per round, the median over the rounds;
``over_memory`` divides it by what the same round costs the coordinator's machine alone, without a network, a disk or a
database, in one process. ``idle_cpu`` is the share of a core that the coordinator takes while everybody polls and
nothing happens; resident memory is of the coordinator, after the first round, after half of them and after the last.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from bench import harness, light, plans
from bench.coordination import Coordination, until
from bench.players import Case, Stage
from coordinator.runs.thresholds import GraphKind, Requested
from privacy.plan import COMPLETE_GRAPH_MAX, Plan

PROCESSES: Final = 4  # of participants, at most
FEW: Final = 20  # of so many one may collude, and one be lost, on a k-regular graph
LOOK_SECONDS: Final = 0.1
IDLE_SECONDS: Final = 25.0  # longer than a poll is held
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_MIB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used, and when."""

    at: float
    cpu: float  # seconds
    resident: float  # MiB

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Look at a process of this machine (Linux)."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(time.monotonic(), (int(fields[11]) + int(fields[12])) / _TICKS, pages * _PAGE_MIB)


@dataclass(slots=True)
class Measured:
    """A run's plan, the coordinator's share of a core when idle, and what it had used before the run and after rounds.

    ``after`` begins when everybody has approved. It is looked at every tenth of a second: rounds which are shorter than
    that may all be over by then.
    """

    plan: Plan
    idle: float
    before: Usage  # before the run was made
    after: list[Usage] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)  # of each round

    @property
    def seconds(self) -> float:
        """Seconds of a round, the median."""
        return median(late.at - early.at for early, late in zip(self.after, self.after[1:], strict=False))

    @property
    def cpu(self) -> float:
        """The coordinator's processor seconds of a round, the median."""
        return median(late.cpu - early.cpu for early, late in zip(self.after, self.after[1:], strict=False))


def measure(directory: Path, n: int, entries: int, rounds: int, graph: GraphKind, *, idle: float = 0.0) -> Measured:
    """Run some rounds between a coordinator and n light participants, all of which survive."""
    with Coordination(directory) as coordination:
        members, count = light.enrol(coordination, plans.members(n)), min(PROCESSES, os.cpu_count() or 1)
        spawn = multiprocessing.get_context("spawn")
        crowd = [spawn.Process(target=light.take_part, args=(members[at::count],)) for at in range(count)]
        for process in crowd:
            process.start()
        try:
            until(lambda: len(coordination.live()) == n, "everybody polls", crowd=crowd)
            pid = coordination.process.pid or 0
            share = _share(pid, idle) if idle else 0.0
            few = max(1, n // FEW)
            tolerance = Requested() if graph == "complete" else Requested(graph=graph, f=few, max_dropouts=few)
            before = Usage.of(pid)
            plan = coordination.begin(n, entries, rounds, tolerance)
            measured = Measured(plan, share, before)
            _watch(coordination, measured, pid, rounds, crowd)
            coordination.finish(plan, crowd)
            measured.survivors = [done.survivors for done in coordination.rounds(plan)]
            for process in crowd:
                process.join(60)
        finally:
            for process in crowd:
                process.terminate()
    return measured


def _watch(coordination: Coordination, measured: Measured, pid: int, rounds: int, crowd: Sequence[BaseProcess]) -> None:
    plan = measured.plan
    until(lambda: coordination.state(plan) != "created", "everybody approves", crowd=crowd)
    measured.after.append(Usage.of(pid))
    while len(measured.after) <= rounds and not any(process.exitcode for process in crowd):
        if len(coordination.rounds(plan)) >= len(measured.after):
            measured.after.append(Usage.of(pid))
        elif coordination.state(plan) not in ("running", "completed"):
            return
        time.sleep(LOOK_SECONDS)


def _share(pid: int, seconds: float) -> float:
    time.sleep(2)  # the handshakes are over
    before = Usage.of(pid)
    time.sleep(seconds)
    after = Usage.of(pid)
    return (after.cpu - before.cpu) / (after.at - before.at)


def memory_seconds(plan: Plan, entries: int) -> float:
    """Return the processor seconds of a round of this size at the coordinator's machine alone."""
    case = Case(plan.n, entries, plan.graph.neighbours or plan.n - 1, 0, 1)
    return Stage(case, measured=1).play().coordinator_ms / 1e3


def figures_of(n: int, entries: int, rounds: int, graph: GraphKind, idle: float) -> dict[str, float]:
    """Return the figures of one case."""
    with TemporaryDirectory(prefix="onlysum-bench-", ignore_cleanup_errors=True) as directory:
        measured = measure(Path(directory), n, entries, rounds, graph, idle=idle)
    memory = memory_seconds(measured.plan, entries)
    name = f"n{n}_d1e{len(str(entries)) - 1}_k{measured.plan.graph.neighbours or n - 1}"
    return {
        f"{name}.round_seconds": round(measured.seconds, 2),
        f"{name}.coordinator_cpu": round(measured.cpu, 2),
        f"{name}.memory_cpu": round(memory, 2),
        f"{name}.over_memory": round(measured.cpu / memory, 2),
        f"{name}.idle_cpu": round(measured.idle, 4),
        f"{name}.resident_first_mib": round(measured.after[1].resident, 1),
        f"{name}.resident_half_mib": round(measured.after[(len(measured.after) + 1) // 2].resident, 1),
        f"{name}.resident_last_mib": round(measured.after[-1].resident, 1),
    }


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--participants", type=int, nargs="+", default=[300])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--graph", choices=("complete", "k-regular"), help="k-regular above 512 participants")
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS, help="seconds for which everybody only polls")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for n in options.participants:
        graph: GraphKind = options.graph or ("complete" if n <= COMPLETE_GRAPH_MAX else "k-regular")
        figures |= figures_of(n, options.entries, options.rounds, graph, options.idle)
    print(harness.table(["what", ""], [[key, f"{value:g}"] for key, value in figures.items()]))
    harness.publish("scale", figures, packages=("cryptography", "grpcio", "numpy"), save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
