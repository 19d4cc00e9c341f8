"""How near the rule's defaults come to the best of a sweep around them, on each task. Simulation, not private.

Usage: ``python -m bench.defaults --data ../shared/data [--only TASK] [--out DIR] [--save]``

Each task is run once with what ``plan build`` fills in, and with each of 30 points around it: the rates by a factor of
``RATES``, the sampling rate by one of ``SAMPLING``, and so many rounds as ``ROUNDS`` says; in mode ``distributed``, at
epsilon 8, among 8 participants, rows alike, one seed. A point's noise is what the accountant asks for. The method is
``ffa-lora``; on Banking77 the head alone, since thirty runs of an adapter there take hours. Points that are done are
kept in OUT; started again, the bench goes on with the next.

``points_below_best`` is the best accuracy of the sweep less that of the defaults, in points: below 0 where no point is
better. The best of so many is chosen on the rows that it is measured on, so it is flattered by chance.
``noise_in_points`` gives the scale of that: the deviation of one accuracy on so many held-out rows.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import tomllib
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulation.processes import ONE_THREAD

os.environ.update(ONE_THREAD)  # before torch is imported

from bench import harness
from bench.utility import Cell, Row, simulated
from bench.utility_worlds import TASKS, Ground, prepare
from simulation.laboratory import results
from simulation.laboratory.bar import Bar
from simulation.laboratory.spec import written

RATES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
SAMPLING: Final = (0.5, 1.0, 2.0)
ROUNDS: Final = (50, 200)
METHOD: Final = {"banking77": "head", "shakespeare": "ffa-lora", "digits": "ffa-lora"}
OUT: Final = Path("simulations/defaults")


@dataclass(frozen=True, slots=True)
class Point:
    """One place of the sweep: factors of rates and sampling rate, and a number of rounds."""

    rates: float
    sampling: float
    rounds: int

    @property
    def id(self) -> str:
        """A name for a directory."""
        return f"rates-{self.rates:g}-sampling-{self.sampling:g}-rounds-{self.rounds}"

    def spec(self, document: dict[str, Any], defaults: Row) -> dict[str, Any]:
        """Return a SPEC with what the rule chose, moved to this place.

        Args:
            document: the SPEC that leaves every number to the rule.
            defaults: the row of its run, which has what the rule chose.
        """
        moved = deepcopy(document)
        moved["rounds"] = self.rounds
        moved["privacy"] |= {
            "sampling_rate": min(1.0, _rounded(float(defaults["privacy.sampling_rate"]) * self.sampling)),
            "clip_norm": defaults["privacy.clip_norm"],
        }
        moved["training"] = {"learning_rate": defaults["training.learning_rate"]}
        optimizer = {key: defaults[f"optimizer.{key}"] for key in ("name", "momentum", "average")}
        for key in ("learning_rate", "head_learning_rate"):
            if defaults[f"optimizer.{key}"] is not None:
                optimizer[key] = _rounded(float(defaults[f"optimizer.{key}"]) * self.rates)
        moved["optimizer"] = optimizer
        return moved


def points() -> Iterator[Point]:
    """Yield the places of the sweep."""
    for rates, sampling, rounds in itertools.product(RATES, SAMPLING, ROUNDS):
        yield Point(rates, sampling, rounds)


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def measure(task: str, ground: Ground, out: Path, bar: Bar) -> dict[str, float]:
    """Return a task's figures: the defaults, the best of the sweep and where that was."""
    cell = Cell(1, task, METHOD[task], "distributed", "iid")
    document = tomllib.loads(cell.spec(ground, quick=False))
    defaults = simulated(written(document), "defaults", out, bar)[-1]
    found: dict[Point, float] = {}
    every = list(points())
    for number, point in enumerate(every, start=1):
        bar.note(f"{task}: {number} of {len(every)}: {point.id}")
        rows = simulated(written(point.spec(document, defaults)), point.id, out, bar)
        found[point] = float(rows[-1]["accuracy"])
    reached, best = float(defaults["accuracy"]), max(found, key=lambda point: found[point])
    noise = math.sqrt(reached * (1 - reached) / int(defaults["examples"]))
    return {
        f"{task}.defaults": reached,
        f"{task}.best": found[best],
        f"{task}.best_rates": best.rates,
        f"{task}.best_sampling": best.sampling,
        f"{task}.best_rounds": best.rounds,
        f"{task}.points_below_best": (found[best] - reached) * 100,
        f"{task}.noise_in_points": noise * 100,
        **{f"{task}.{point.id}": value for point, value in found.items()},
    }


def main() -> int:
    """Run what is asked for and not done, and print the figures."""
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77/ and shakespeare/")
    parser.add_argument("--only", action="append", default=[], choices=TASKS, help="a task; may be repeated")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where runs are kept [{OUT}]")
    options: argparse.Namespace = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about themselves
    out: Path = options.out.resolve()
    figures: dict[str, float] = {}
    with Bar() as bar:
        for task in options.only or TASKS:
            place = out / task
            place.mkdir(parents=True, exist_ok=True)
            ground = prepare(task, options.data.resolve(), out / "worlds", quick=False, note=bar.note)
            figures |= measure(task, ground, place, bar)
    print(harness.table(["figure", "value"], [[name, f"{value:.4g}"] for name, value in figures.items()]))
    print(results.LABEL)
    harness.publish("defaults", figures, packages=("numpy", "peft", "torch"), save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
