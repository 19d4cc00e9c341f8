"""A whole simulation in one directory: its cells, one after the other, and what is left behind.

Guarantees: everything that can be refused is refused before the first round; each cell's results are kept as soon as
it is over; started again, a simulation goes on where it was, and nothing of another SPEC or other code is mixed in.
Leaves to others: one cell (``trial``), the picture (``curves``), what is printed (``command``).

::

    OUT/manifest.json      what it was made of, and the trace of every cell
    OUT/results.parquet    one row per cell and measured round
    OUT/curves.png, .svg
    OUT/world/             base and data, where the SPEC asks for a world
    OUT/cells/ID/          recipe and draft of a cell, its state, and its rows
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from host import durable
from host.locks import LOCK_NAME, only_daemon
from privacy.errors import LocalError, VerificationError
from simulation.laboratory import curves, results
from simulation.laboratory.engines import Prepare
from simulation.laboratory.manifest import FILE, Manifest, Outcome
from simulation.laboratory.results import Row
from simulation.laboratory.setup import Setup, parts_of, set_up
from simulation.laboratory.spec import Cell, Spec
from simulation.laboratory.trial import Masks, Trial
from simulation.laboratory.wire import WireTrial
from simulation.laboratory.world import WORLD, World

RESULTS: Final = "results.parquet"
CELLS: Final = "cells"


class Screen(Protocol):
    """What is told while a simulation runs."""

    def note(self, text: str) -> None:
        """Take a line about what happens."""

    def begin(self, cell: Cell, *, updates: int, done: int) -> None:
        """Take which cell comes next, how many updates it trains in all, and how many are done."""

    def trained(self, count: int) -> None:
        """Take how many more updates are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a simulation is run; none of it changes a number.

    Attributes:
        masks: whether sums are made under masks.
        engine: its name, for the rows.
        prepare: makes it.
        device: that training runs on.
        wire: whether rounds go over gRPC between daemons on loopback.
    """

    masks: Masks = "real"
    engine: str = "process"
    prepare: Prepare
    device: str = "cpu"
    wire: bool = False


@dataclass(frozen=True, slots=True)
class Study:
    """A simulation in its directory.

    Attributes:
        spec: what is simulated.
        method: in place of the SPEC's; empty: its own.
        out: the directory.
        options: how.
        screen: who is told.
    """

    spec: Spec
    method: str
    out: Path
    options: Options
    screen: Screen

    def run(self) -> list[Row]:
        """Run what is not done yet, and return every row.

        Raises:
            LocalError: ``E-EXISTS``, ``E-SIMULATION-OTHER``, ``E-SIMULATION-PARTITION``, or as ``plan build``,
                ``run create`` and the trainer.
        """
        with self._claimed():
            spec = self.spec.with_method(self.method) if self.method else self.spec
            world = World.of(spec, self.out, self.screen.note)
            manifest = self._manifest(world)
            cells = list(spec.cells())
            for cell in cells:
                parts_of(cell, world)
                if self.options.wire and any(cell.simulation.dropouts.rates.values()):
                    raise LocalError("E-USAGE", "--wire: nobody is lost on purpose between daemons; leave dropouts out")
            for number, cell in enumerate(cells, start=1):
                if cell.id not in manifest.cells:
                    self.screen.note(f"run {number} of {len(cells)}: {caption(cell)}")
                    manifest = manifest.with_cell(cell.id, self._cell(cell, world))
                    manifest.write(self.out / FILE)
                    self._gather(cells)
            return self._gather(cells)

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Hold the directory, and refuse one that something else lies in."""
        durable.make_directory(self.out)
        with only_daemon(self.out, "simulation"):
            known = (self.out / FILE).exists()
            if not known and any(path.name not in (LOCK_NAME, WORLD, f"{WORLD}.part") for path in self.out.iterdir()):
                raise LocalError(
                    "E-EXISTS", f"{self.out} holds something that no simulation made; choose another --out"
                )
            yield

    def _manifest(self, world: World) -> Manifest:
        """Return the directory's manifest, begun where there is none.

        Raises:
            LocalError: ``E-SIMULATION-OTHER``, it is of another SPEC, other data or other code.
        """
        path = self.out / FILE
        now = Manifest.begin(self.spec, world, method=self.method, masks=self.options.masks)
        if not path.exists():
            now.write(path)
            return now
        there = Manifest.read(path)
        other = ["the SPEC"] if (there.spec, there.method) != (now.spec, now.method) else []
        other += [f"the {name}" for name in now.data if there.data.get(name) != now.data[name]]
        other += ["--masks"] if there.masks != now.masks else []
        if other or (other := there.differences(now)):
            raise LocalError("E-SIMULATION-OTHER", f"{self.out}: {', '.join(other)}")
        return there

    def _cell(self, cell: Cell, world: World) -> Outcome:
        directory = self.out / CELLS / cell.id
        trial, setup = self.trial(cell, world, directory)
        updates = trial.plan.n * trial.plan.recipe.rounds
        self.screen.begin(cell, updates=updates, done=trial.plan.n * trial.done)
        trial.run(self.options.prepare, self.screen.trained)
        if trial.progress.ended:
            self.screen.note(f"the run ended in round {trial.done + 1}: {trial.progress.ended}")
        rows = results.rows_of(
            cell,
            trial.progress.measured,
            setup.plan,
            masks=self.options.masks,
            engine=self.options.engine,
        )
        results.write(directory / RESULTS, rows)
        return Outcome(plan=setup.plan.hash.hex(), trace=tuple(trial.progress.trace), adapter=rows[-1]["adapter"])

    def trial(self, cell: Cell, world: World, directory: Path) -> tuple[Trial, Setup]:
        """Return a cell made ready in a directory, as far as it is there already."""
        directory.mkdir(parents=True, exist_ok=True)
        setup = set_up(cell, world, directory, device=self.options.device, warn=self.screen.note)
        kind = WireTrial if self.options.wire else Trial
        return kind(cell, setup, directory, self.options.masks), setup

    def _gather(self, cells: list[Cell]) -> list[Row]:
        """Write what all cells have so far as one file and as pictures."""
        files = [self.out / CELLS / cell.id / RESULTS for cell in cells]
        rows = [row for file in files if file.exists() for row in results.read(file)]
        if rows:
            results.write(self.out / RESULTS, rows)
            curves.draw(rows, list(self.spec.swept), self.out)
        return rows


def replay(path: Path, out: Path, options: Options, screen: Screen, *, only: str = "") -> int:
    """Run a manifest's cells again and compare them round by round.

    Args:
        path: of the manifest.
        out: an empty directory for what is made on the way.
        options: how; neither masks nor engine change a number.
        screen: who is told.
        only: the id of one cell; empty: all that are done.

    Returns:
        How many cells are equal to the bit, which is all of them.

    Raises:
        LocalError: ``E-NOT-FOUND``, ``E-CONFIG-INVALID`` or ``E-SIMULATION-OTHER``, before work starts.
        VerificationError: ``E-SIMULATION-DIFFERS``, naming the first round that differs.
    """
    manifest = Manifest.read(path)
    spec = Spec.parse(manifest.spec, name=manifest.name, directory=Path(manifest.directory))
    study = Study(spec.with_method(manifest.method) if manifest.method else spec, "", out, options, screen)
    world = World.of(study.spec, path.parent if (path.parent / WORLD).exists() else out, screen.note)
    now = Manifest.begin(spec, world, method=manifest.method, masks=options.masks)
    if other := [f"the {name}" for name in now.data if manifest.data.get(name) != now.data[name]]:
        raise LocalError("E-SIMULATION-OTHER", f"{path.name}: {', '.join(other)}")
    if differences := manifest.differences(now):
        screen.note(f"warning: not alike are {', '.join(differences)}; the numbers may differ")
    cells = [cell for cell in study.spec.cells() if cell.id in manifest.cells and only in ("", cell.id)]
    if not cells:
        raise LocalError("E-NOT-FOUND", f"{path.name} has no finished run {only}".rstrip())
    for cell in cells:
        screen.note(f"again: {caption(cell)}")
        _compare(cell, manifest.cells[cell.id], study, world)
    return len(cells)


def _compare(cell: Cell, expected: Outcome, study: Study, world: World) -> None:
    trial, setup = study.trial(cell, world, study.out / CELLS / cell.id)
    if setup.plan.hash.hex() != expected.plan:
        raise VerificationError("E-SIMULATION-DIFFERS", f"run {cell.id}: its plan")
    study.screen.begin(cell, updates=setup.plan.n * setup.plan.recipe.rounds, done=0)
    trial.run(study.options.prepare, study.screen.trained)
    for number, (here, there) in enumerate(zip(trial.progress.trace, expected.trace, strict=False), start=1):
        if here != there:
            raise VerificationError("E-SIMULATION-DIFFERS", f"run {cell.id}: the adapter after round {number}")
    if len(trial.progress.trace) != len(expected.trace):
        raise VerificationError("E-SIMULATION-DIFFERS", f"run {cell.id}: its number of rounds")


def caption(cell: Cell) -> str:
    """Return what tells a cell from the others, in words."""
    return ", ".join([*(f"{key} {value}" for key, value in cell.point.items()), f"seed {cell.seed}"])
