"""``onlysum simulate``: many participants on this machine or on a cluster, by the very code that daemons run.

Guarantees: everything shown is labelled as a simulation; with ``--json`` one document on standard output; without a
terminal there are lines and no bars.
Leaves to others: what is simulated (``study``), which needs torch and is imported when a command runs.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from host.console import AsJson, show
from host.rendering import Json
from privacy.dp.events import format_epsilon_up
from privacy.errors import LocalError
from simulation.processes import ONE_THREAD

if TYPE_CHECKING:
    from simulation.laboratory.results import Row
    from simulation.laboratory.spec import Spec
    from simulation.laboratory.study import Options

SIMULATIONS: Final = Path("simulations")

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False, help="Simulate many participants.")


class Masks(StrEnum):
    """How sums are made."""

    REAL = "real"
    SKIPPED = "skipped"


class EngineName(StrEnum):
    """Where participants train."""

    PROCESS = "process"
    RAY = "ray"


SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="A recipe with a table [simulation].")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the results go [simulations/SPEC].")]
HowMasks = Annotated[Masks, typer.Option("--masks", help="Skipped: the sum is computed directly, the same numbers.")]
Wire = Annotated[bool, typer.Option("--wire", help="Rounds over gRPC between daemons on loopback.")]
HowEngine = Annotated[EngineName, typer.Option("--engine", help="Where participants train.")]
Address = Annotated[str, typer.Option("--address", help="Of a Ray cluster; local: one on this machine.")]
Cpus = Annotated[float, typer.Option("--cpus", min=0.1, help="Ray: processors that a task takes.")]
Gpus = Annotated[float, typer.Option("--gpus", min=0, help="Ray: GPUs that a task takes, also a part of one.")]


@app.command()
def start(
    spec: SpecPath,
    *,
    method: Annotated[str, typer.Option("--method", help="In place of the SPEC's.")] = "",
    out: Out = None,
    masks: HowMasks = Masks.REAL,
    wire: Wire = False,
    engine: HowEngine = EngineName.PROCESS,
    address: Address = "local",
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate a SPEC with every one of its seeds.

    The rounds are those of daemons: the same machines, mechanism, accountant,
    optimizer and methods. Noise and keys follow from a seed, so it is a
    simulation, and not private. Interrupted, it goes on where it was.

    Example: onlysum simulate start examples/digits-200.toml
    """
    from simulation.laboratory.spec import Spec

    read = Spec.read(spec)
    if read.swept:
        raise LocalError("E-USAGE", f"{spec.name} has a sweep; run `onlysum simulate sweep {spec}`")
    _simulate(
        read,
        method,
        out or SIMULATIONS / spec.stem,
        _Run(masks, engine, address, cpus, gpus, wire=wire),
        as_json=as_json,
    )


@app.command()
def sweep(
    spec: SpecPath,
    *,
    out: Out = None,
    masks: HowMasks = Masks.REAL,
    wire: Wire = False,
    engine: HowEngine = EngineName.PROCESS,
    address: Address = "local",
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate every combination of a SPEC's sweep, with every seed.

    Leaves one row per run and measured round in results.parquet, and the curve
    as curves.png and curves.svg.

    Example: onlysum simulate sweep examples/sweep.toml --masks skipped
    """
    from simulation.laboratory.spec import Spec

    read = Spec.read(spec)
    if not read.swept:
        raise LocalError("E-USAGE", f"{spec.name} has no sweep; run `onlysum simulate start {spec}`")
    _simulate(
        read, "", out or SIMULATIONS / spec.stem, _Run(masks, engine, address, cpus, gpus, wire=wire), as_json=as_json
    )


@app.command()
def replay(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.json of a simulation.")],
    *,
    run: Annotated[str, typer.Option("--run", metavar="ID", help="One run of it.")] = "",
    masks: HowMasks = Masks.SKIPPED,
    engine: HowEngine = EngineName.PROCESS,
    address: Address = "local",
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    as_json: AsJson = False,
) -> None:
    """Run a simulation again and compare every round to the bit.

    Exit code 6 when a round differs, which is named.

    Example: onlysum simulate replay simulations/digits-200/manifest.json
    """
    how = _Run(masks, engine, address, cpus, gpus)
    with how.options() as options, tempfile.TemporaryDirectory(prefix="onlysum-replay-") as directory:
        from simulation.laboratory import study
        from simulation.laboratory.bar import Bar

        with Bar() as bar:
            count = study.replay(manifest, Path(directory), options, bar, only=run)
    value: Json = {"manifest": str(manifest), "equal": True, "runs": count}
    show(
        value,
        [f"equal to the bit: {count} run{'s' * (count != 1)}, every round; simulation, not private"],
        as_json=as_json,
    )


class _Run:
    """How a simulation is run, as the command line has it."""

    def __init__(
        self, masks: Masks, engine: EngineName, address: str, cpus: float, gpus: float, *, wire: bool = False
    ) -> None:
        if wire and masks is Masks.SKIPPED:
            raise LocalError("E-USAGE", "--wire: daemons do not skip masks")
        self._masks, self._engine, self._wire = masks, engine, wire
        self._address, self._cpus, self._gpus = address, cpus, gpus

    @contextmanager
    def options(self) -> Iterator[Options]:
        """Yield the options, with an engine that ends with the block."""
        os.environ.update(ONE_THREAD)  # before torch is imported
        warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about themselves
        from participant.daemon.assembly import require_torch

        require_torch()
        import matplotlib as mpl  # noqa: F401  absent, it is named before work starts

        from simulation.laboratory.engines import InProcess
        from simulation.laboratory.study import Options

        masks: Any = self._masks.value
        if self._engine is EngineName.PROCESS:
            yield Options(masks=masks, prepare=InProcess, wire=self._wire)
            return
        from simulation.laboratory.ray_engine import cluster

        device = "cuda" if self._gpus else "cpu"
        with cluster(self._address, cpus=self._cpus, gpus=self._gpus) as prepare:
            yield Options(masks=masks, engine="ray", prepare=prepare, device=device, wire=self._wire)


def _simulate(spec: Spec, method: str, out: Path, run: _Run, *, as_json: bool) -> None:
    with run.options() as options:
        from simulation.laboratory.bar import Bar
        from simulation.laboratory.results import LABEL, final
        from simulation.laboratory.study import Study

        with Bar() as bar:
            try:
                rows = Study(spec, method, out, options, bar).run()
            except KeyboardInterrupt:
                bar.note(f"interrupted; the same command goes on where it was, in {out}")
                raise
    last = final(rows)
    value: Json = {"label": LABEL, "out": str(out), "runs": [_figures(row, [*spec.swept]) for row in last]}
    show(
        value,
        [*_table(last, list(spec.swept)), "", f"{LABEL}; results, curves and manifest are in {out}/"],
        as_json=as_json,
    )


SHOWN: Final = ("cell", "seed", "round", "epsilon", "voided", "bytes_up", "training_seconds", "sum_seconds")


def _figures(row: Row, swept: Sequence[str]) -> dict[str, Json]:
    from simulation.laboratory.results import QUALITIES

    merits = [name for name in QUALITIES if row.get(name) is not None]
    return {key: row.get(key) for key in (*SHOWN, *merits, *swept, "adapter", "ended")}


def _table(rows: Sequence[Row], swept: Sequence[str]) -> list[Any]:
    from host.rendering import Table
    from simulation.laboratory.results import quality

    merit = quality(rows)
    head = [*(key.rpartition(".")[2] for key in swept), "seed", "rounds", merit, "epsilon", "MB up", "CPU s"]
    body = [[*(str(row.get(key)) for key in swept), *_cells(row, merit)] for row in rows]
    return [Table(tuple(head), tuple(tuple(line) for line in body))]


def _cells(row: Row, merit: str) -> list[str]:
    epsilon = "-" if row["epsilon"] is None else format_epsilon_up(row["epsilon"])
    seconds = row["training_seconds"] + row["sum_seconds"]
    figures = f"{row[merit]:.4f}", epsilon, f"{row['bytes_up'] / 1e6:.1f}", f"{seconds:.0f}"
    return [str(row["seed"]), f"{row['round']}{' (ended)' if row['ended'] else ''}", *figures]
