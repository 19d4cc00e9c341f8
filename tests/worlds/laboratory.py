"""A simulation small enough for tests: six participants, a transformer of width 16, three rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulation.laboratory.engines import InProcess, Prepare
from simulation.laboratory.setup import Setup, set_up
from simulation.laboratory.spec import Cell, Spec
from simulation.laboratory.study import Options, Study
from simulation.laboratory.trial import Masks, Trial
from simulation.laboratory.world import World
from tests.worlds.torch_world import image_base, image_rows, recipe_text

ROWS = 60


@dataclass
class Silent:
    """A screen that keeps what it is told."""

    notes: list[str] = field(default_factory=list)
    begun: int = 0  # updates that were done when the last cell began
    trained_since: int = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, cell: Cell, *, updates: int, done: int) -> None:
        self.begun = done

    def trained(self, count: int) -> None:
        self.trained_since += count


def write_data(directory: Path, **columns: Any) -> None:
    """Write base, rows and held-out rows."""
    image_base(directory / "base")
    image_rows(directory / "rows.npz", rows=ROWS, **columns)
    image_rows(directory / "held-out.npz", rows=24, seed=1)


def spec_text(
    simulation: str = "",
    *,
    participants: int = 6,
    mode: str = "distributed",
    method: str = "ffa-lora",
    **privacy: Any,
) -> str:
    """Return a SPEC; ``simulation`` is more of its table."""
    table = f'participants = {participants}\nrows = "rows.npz"\nheld_out = "held-out.npz"\ncolluding = 1\n'
    return f"{recipe_text(mode=mode, method=method, **privacy)}\n[simulation]\n{table}{simulation}"


def write_spec(directory: Path, simulation: str = "", **recipe: Any) -> Path:
    path = directory / "spec.toml"
    path.write_text(spec_text(simulation, **recipe))
    return path


def study_of(
    spec: Path,
    out: Path,
    *,
    masks: Masks = "skipped",
    prepare: Prepare = InProcess,
    method: str = "",
    wire: bool = False,
) -> Study:
    return Study(Spec.read(spec), method, out, Options(masks=masks, prepare=prepare, wire=wire), Silent())


def first_cell(spec: Path, out: Path) -> tuple[Cell, Setup]:
    """Return the first cell of a SPEC, made ready in a directory."""
    read = Spec.read(spec)
    cell = next(read.cells())
    out.mkdir(parents=True, exist_ok=True)
    return cell, set_up(cell, World.of(read, out, print), out, device="cpu", warn=print)


def finished(cell: Cell, setup: Setup, out: Path, masks: Masks, prepare: Prepare = InProcess) -> Trial:
    """Return a cell whose rounds are over."""
    out.mkdir(parents=True, exist_ok=True)
    trial = Trial(cell, setup, out, masks)
    trial.run(prepare, lambda count: None)
    return trial


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what does not depend on the clock."""
    return {key: value for key, value in row.items() if not key.endswith("_seconds")}
