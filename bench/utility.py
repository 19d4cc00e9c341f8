"""What an adapter is worth under privacy: methods, modes, partitions and targets, measured. Simulation, not private.

Usage: ``python -m bench.utility --data ../shared/data [--quick] [--only TEXT] [--seeds N] [--out DIR] [--save]``

Each cell is a run of ``onlysum simulate`` with masks skipped, among 8 participants unless it says otherwise, of a
recipe that leaves every number to the rule of ``authoring.defaults``: no hyper-parameter was chosen by a figure of this
bench. The head alone runs beside every method. Finished cells are kept in ``OUT/utility.parquet``, one row each;
started again, the bench goes on with the next. ``--save`` adds the rows to ``bench/results/utility.parquet``, of which
``python -m docs.build_utility`` makes the page and its chart. ``--quick`` runs a few small cells, and saves nothing.

Columns: ``accuracy`` or ``perplexity`` and the base's own beside it, ``bytes_up`` and ``bytes_down`` of all
participants together, ``processor_seconds`` of training and of everything between, ``joules`` where the machine tells
them (RAPL).
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulation.processes import ONE_THREAD

os.environ.update(ONE_THREAD)  # before torch is imported

import methods
from bench import harness
from bench.utility_worlds import TASKS, Ground, prepare
from methods.method import Method
from privacy.errors import LocalError
from simulation.laboratory import results, study
from simulation.laboratory.bar import Bar
from simulation.laboratory.engines import InProcess
from simulation.laboratory.spec import Spec, written

KEPT: Final = harness.RESULTS / "utility.parquet"
OUT: Final = Path("simulations/utility")
METHODS: Final = (
    "head", "ffa-lora", "fedit", "rolora", "fedsvd", "fed-sb", "la-lora", "rslora", "dora", "vera", "bitfit", "prompt",
    "fedsa-lora", "flexlora",
)  # fmt: skip
MODES: Final = ("none", "distributed", "local")
BANDED: Final = "distributed, banded"  # noise that is correlated over as many rounds as the expected error says
PARTITIONS: Final = ("iid", "apart")  # apart: Dirichlet 0.3 by label, or by speaker
PARTICIPANTS: Final = 8
EPSILON: Final = 8
DELTA: Final = "0.00001"  # of every cell, whatever number of rows its task has
BEST: Final = ("head", "ffa-lora")  # also at other targets and among more participants
TARGETS: Final = (1, 2, 4, 8)
MORE: Final = 32
ENERGY: Final = Path("/sys/class/powercap")
QUICK_ROUNDS: Final = 20
NO_HEAD: Final = frozenset({"shakespeare"})  # its base's head is all of the base's own
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One run."""

    seed: int
    task: str
    method: str
    mode: str
    partition: str
    participants: int = PARTICIPANTS
    epsilon: int = EPSILON  # 0 in mode none

    @property
    def id(self) -> str:
        """A name for a directory."""
        parts = (self.task, self.method, self.mode, self.partition, self.participants, self.epsilon, self.seed)
        return "-".join(map(str, parts)).replace(", ", "-")

    def spec(self, ground: Ground, *, quick: bool) -> str:
        """Return the SPEC as text; what it leaves out, the rule fills in."""
        noised = self.mode != "none"
        privacy = {"mode": "distributed", "bands": "auto"} if self.mode == BANDED else {"mode": self.mode}
        document: dict[str, Any] = {
            "method": self.method,
            **({"rounds": QUICK_ROUNDS} if quick else {}),
            "base": {"name": self.task, "path": str(ground.world.base)},
            "task": {"data": self.task, **ground.task},
            "privacy": {**privacy, **({"epsilon": self.epsilon, "delta": DELTA} if noised else {})},
            "evaluation": {"every": 10_000},  # the start and the end
            "simulation": {
                "participants": self.participants,
                "seeds": [self.seed],
                "rows": str(ground.world.rows),
                "held_out": str(ground.world.held_out),
                "partition": {"kind": "iid"} if self.partition == "iid" else ground.by_owner,
            },
        }
        return written(document)


def all_cells(seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield every cell in the order in which they are run: one seed of everything before the next, the head first."""
    for seed in seeds:
        for task, partition, method, mode in itertools.product(TASKS, PARTITIONS, METHODS, MODES):
            if possible(task, method, mode):
                yield Cell(seed, task, method, mode, partition, epsilon=EPSILON if mode != "none" else 0)
        for task, method in itertools.product(TASKS, BEST):
            if possible(task, method, "distributed"):
                yield Cell(seed, task, method, BANDED, "iid")
        for task, method, mode in itertools.product(TASKS, BEST, ("distributed", "local")):
            if possible(task, method, mode):
                yield from (Cell(seed, task, method, mode, "iid", epsilon=one) for one in TARGETS if one != EPSILON)
                yield from (Cell(seed, task, method, mode, "iid", MORE, one) for one in TARGETS)


def quick_cells() -> Iterator[Cell]:
    """Yield a few cells: the head and one adapter in each mode, on the smallest task, and the head on text."""
    for method, mode in itertools.product(BEST, MODES):
        yield Cell(1, "digits", method, mode, "iid", epsilon=EPSILON if mode != "none" else 0)
    yield Cell(1, "banking77", "head", "none", "iid", epsilon=0)
    yield Cell(1, "banking77", "head", "distributed", "iid")


def possible(task: str, method: str, mode: str) -> bool:
    """Return whether a method has the mode and reads what the task has."""
    found: Method = methods.get(method)
    if mode not in found.modes or (task in NO_HEAD and method in {"head", "bitfit"}):
        return False
    return task != "digits" or not found.texts_only


def run(cell: Cell, ground: Ground, out: Path, bar: Bar, *, quick: bool) -> Row:
    """Run a cell, or what is left of it, and return its row.

    Raises:
        LocalError: as ``onlysum simulate``.
    """
    energy, begin = joules_so_far(), time.monotonic()
    rows = simulated(cell.spec(ground, quick=quick), cell.id, out, bar)
    spent = joules_so_far()
    joules = None if energy is None or spent is None or spent < energy else spent - energy
    return row_of(cell, rows, joules=joules, seconds=time.monotonic() - begin)


def simulated(spec: str, name: str, out: Path, bar: Bar) -> list[Row]:
    """Run a SPEC in ``OUT/NAME``, or what is left of it, and return its rows; what other code began begins again.

    Raises:
        LocalError: as ``onlysum simulate``.
    """
    parsed = Spec.parse(spec, name=name, directory=out)
    options = study.Options(masks="skipped", prepare=InProcess)
    try:
        return study.Study(parsed, "", out / name, options, bar).run()
    except LocalError as error:
        if error.code != "E-SIMULATION-OTHER":
            raise
        bar.note(f"{name}: begun by other code, so it begins again")
        shutil.rmtree(out / name)
        return study.Study(parsed, "", out / name, options, bar).run()


def row_of(cell: Cell, rows: Sequence[Mapping[str, Any]], *, joules: float | None, seconds: float) -> Row:
    """Return a cell's row from those of its simulation: the start's and the end's."""
    first, last = rows[0], rows[-1]
    figure = "accuracy" if first.get("accuracy") is not None and cell.task not in NO_HEAD else "perplexity"
    return {
        "label": results.LABEL,
        "cell": cell.id,
        **{name: getattr(cell, name) for name in ("task", "method", "mode", "partition", "participants", "seed")},
        "epsilon": float(cell.epsilon),
        "delta": last["delta"],
        "noise_multiplier": last["noise_multiplier"],
        "figure": figure,
        "value": last[figure],
        "base": first[figure],
        "rounds": last["round"],
        "bytes_up": last["bytes_up"],
        "bytes_down": last["bytes_down"],
        "processor_seconds": round(last["training_seconds"] + last["sum_seconds"], 1),
        "joules": joules,
        "seconds": round(seconds, 1),
        "ended": last["ended"],
        "adapter": last["adapter"],
    }


def joules_so_far() -> float | None:
    """Return what the packages' counters say, in joules; ``None`` where the machine tells nothing."""
    try:
        counters = sorted(ENERGY.glob("intel-rapl:*/energy_uj"))
        found = [int(counter.read_text()) for counter in counters if counter.parent.name.count(":") == 1]
    except (OSError, ValueError):
        return None
    return sum(found) / 1e6 if found else None


def merged(kept: Sequence[Row], fresh: Sequence[Row]) -> list[Row]:
    """Return rows of which each cell has one, the newest, in the order of their names."""
    found = {row["cell"]: row for row in (*kept, *fresh)}
    return [found[name] for name in sorted(found)]


def show(rows: Sequence[Row]) -> str:
    """Return a table for the terminal."""
    heads = ["cell", "figure", "base", "value", "kB up", "cpu s", "J"]
    lines = [
        [
            row["cell"], row["figure"], f"{row['base']:.4g}", f"{row['value']:.4g}", f"{row['bytes_up'] / 1000:.0f}",
            f"{row['processor_seconds']:.0f}", "-" if row["joules"] is None else f"{row['joules']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    return harness.table(heads, lines)


def main() -> int:
    """Run what is asked for and not done, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77/ and shakespeare/")
    parser.add_argument("--quick", action="store_true", help="a few small cells")
    parser.add_argument("--only", action="append", default=[], help="cells whose name begins so; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="how many [3]")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where runs are kept [{OUT}]")
    parser.add_argument("--save", action="store_true", help=f"add the rows to {KEPT.name} of bench/results")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about themselves
    cells = list(quick_cells() if options.quick else all_cells(range(1, options.seeds + 1)))
    cells = [cell for cell in cells if not options.only or cell.id.startswith(tuple(options.only))]
    out: Path = (options.out / "quick" if options.quick else options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "utility.parquet"
    rows = results.read(file) if file.exists() else []
    with Bar() as bar:
        for number, cell in enumerate(cells, start=1):
            if any(row["cell"] == cell.id for row in rows):
                continue
            bar.note(f"{number} of {len(cells)}: {cell.id}")
            ground = prepare(cell.task, options.data.resolve(), out, quick=options.quick, note=bar.note)
            rows = merged(rows, [run(cell, ground, out, bar, quick=options.quick)])
            results.write(file, rows)
            if options.save and not options.quick:
                results.write(KEPT, merged(results.read(KEPT) if KEPT.exists() else [], rows))
    print(show(rows))
    print(results.LABEL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
