"""Rounds over gRPC with mutual TLS on loopback, between real daemons, against the same round in memory.

The coordinator is a process of its own; all participants are threads of one other process. ``round_seconds`` is the
least time from one round's training to the next round's, journals and database on disk included.
``wire_over_memory`` divides it by the least time in which one process plays the same round without a network, a disk or
a memo: what everybody masks, signs and checks, one after the other. Between daemons everybody also takes the
optimizer's step from the sum, each for itself; ``steps_seconds`` is what all of these steps take, one after the other.
"""

from __future__ import annotations

import logging
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from bench import harness
from bench.daemons import Daemons
from bench.players import Case, Player, Stage
from methods.global_adapter import iterate_bytes, next_state
from methods.optimizer import OptimizerState
from participant.training.trainer import OneHotTrainer
from privacy.plan import largest_sum
from privacy.secagg import hashes

NOTHING: Final = np.zeros(0, dtype=np.float32)
CASES: Final = {"n10_d1e6": 12, "n100_d1e5": 3}  # rounds


def wire_seconds(case: Case, rounds: int) -> float:
    """Return the seconds of a round between daemons."""
    with (
        TemporaryDirectory(prefix="onlysum-bench-", ignore_cleanup_errors=True) as directory,
        Daemons(Path(directory), case.participants, case.entries) as daemons,
    ):
        daemons.run(rounds)
        starts = [daemons.started[number] for number in sorted(daemons.started)]
    return min(later - earlier for earlier, later in pairwise(starts))


class OneHotStage(Stage):
    """A round of the updates that the daemons' trainer makes."""

    def update(self, player: Player) -> NDArray[np.int64]:
        """Return the unit vector of a participant's place."""
        made = OneHotTrainer(self.plan.plan, player.name).train(1, NOTHING, lambda *_: None)
        self.total += made
        return made


def memory_seconds(case: Case) -> float:
    """Return the seconds of the same round in one process, nothing memoised."""
    return min(OneHotStage(case, measured=case.participants).play().seconds for _ in range(5))


def steps_seconds(case: Case) -> float:
    """Return the seconds in which all, the coordinator too, compute the next adapter from a sum and hash it."""
    plan, _ = case.plan()
    layout, survivors = plan.plan.layout(1), [member.id for member in plan.plan.roster]
    words = layout.encode(np.ones(layout.entries, dtype=np.int64), len(survivors))
    state = OptimizerState.start(np.zeros(case.entries, dtype=np.float32))

    def step() -> float:
        start = time.perf_counter()
        assert layout.count_beyond(words, largest_sum(plan.plan)) + layout.count_stray(words) == 0
        after = next_state(plan.plan, state, layout.blocks(words), survivors)
        hashes.adapter_hash(iterate_bytes(after.iterate))
        return time.perf_counter() - start

    return (case.participants + 1) * min(step() for _ in range(5))


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = harness.parser(__doc__)
    parser.add_argument("cases", nargs="*", default=tuple(CASES), metavar="CASE", help="such as n10_d1e6")
    parser.add_argument("--rounds", type=int, help="rounds of a run")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    figures: dict[str, float] = {}
    rows = []
    for name in options.cases:
        n, d = name.split("_")
        case = Case.parse(f"{n}_{d}_k{int(n[1:]) - 1}_drop0")
        wire, memory = wire_seconds(case, options.rounds or CASES.get(name, 3)), memory_seconds(case)
        figures[f"{name}.round_seconds"] = round(wire, 3)
        figures[f"{name}.memory_seconds"] = round(memory, 3)
        figures[f"{name}.steps_seconds"] = round(steps := steps_seconds(case), 3)
        figures[f"{name}.wire_over_memory"] = round(wire / memory, 2)
        rows.append([name, f"{wire:.2f}", f"{memory:.2f}", f"{steps:.2f}", f"{wire / memory:.1f}"])
    print(harness.table(["case", "wire s", "memory s", "steps s", "ratio"], rows))
    harness.publish("wire", figures, packages=("cryptography", "grpcio", "numpy"), save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
