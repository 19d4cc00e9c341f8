"""``onlysum demo-compare``: what sharing the noise is worth, on fresh seeds, as a table and as JSON.

Guarantees: every result is labelled as a simulation, because its noise follows from a seed; the last line of standard
output is one JSON object; progress goes to standard error.
Leaves to others: the runs (``simulation.compare``), which need torch and are imported when the command runs.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress

from privacy.dp.events import format_epsilon_up
from simulation.processes import ONE_THREAD

if TYPE_CHECKING:
    from participant.training.trainer import Progress as RoundsDone
    from simulation.compare import Cell, Size, Variant

FIRST_SEED: Final = 5001  # the settings were chosen on seeds 1101 to 1104
MOST_BANDS: Final = 64  # of the recipe's hundred rounds
MOST_PARTICIPANTS: Final = 50  # each has some 27 images then
NOTE: Final = "simulation, not private"

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def compare(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, each with a base of its own.")] = 5,
    first: Annotated[int, typer.Option("--first-seed", min=0, help="The first of them.")] = FIRST_SEED,
    participants: Annotated[
        int, typer.Option("--participants", min=3, max=MOST_PARTICIPANTS, help="Among how many the digits are split.")
    ] = 10,
    bands: Annotated[
        int,
        typer.Option(
            "--bands", min=1, max=MOST_BANDS, help="Also compare noise that is correlated over so many rounds."
        ),
    ] = 1,
) -> None:
    """Compare local with shared noise at the same epsilon, on fresh seeds.

    The same digits are split among the participants. With local noise each
    adds all of it, so the sum of n has about sqrt(n) times as much; shared
    noise stays the same. The demo's five show less of it than ten.

    Noise that is correlated over b rounds draws each image in one round out
    of b, so --bands samples at no more than 1/b, and the table also has
    independent noise at that rate.

    Everything runs in this process: real masks and sums, seeded noise.
    That is a simulation, and not private.

    Example: onlysum demo-compare --participants 5
    """
    os.environ.update(ONE_THREAD)  # before torch is imported
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about themselves
    from simulation.compare import Size, figures, gains, variants

    size = Size(participants=participants)
    typer.echo(f"{participants} participants, the demo's digits and recipes, {seeds} fresh seeds; {NOTE}.")
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory(prefix="onlysum-compare-") as directory:
        for seed in range(first, first + seeds):
            cells += _run_seed(Path(directory) / str(seed), seed, size, variants(bands))
    summary = figures(cells)
    typer.echo("")
    for line in _table(summary, tuple(variant.name for variant in variants(bands))):
        typer.echo(line)
    machine = {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
    values = {
        "bench": "demo-compare",
        "note": NOTE,
        "machine": machine,
        "participants": participants,
        "bands": bands,
        "seeds": seeds,
        "gains": {str(seed): round(gain, 4) for seed, gain in gains(cells).items()},
        "figures": summary,
    }
    typer.echo(json.dumps(values))


def _run_seed(directory: Path, seed: int, size: Size, variants: tuple[Variant, ...]) -> list[Cell]:
    from simulation.compare import prepare, run
    from simulation.stage import Stage

    stage, cells = Stage(directory), []
    with _bar(f"seed {seed}: the base"):
        units = prepare(stage, seed, size)
    for variant in variants:
        begin = time.monotonic()
        with _bar(f"seed {seed}: {variant.name}") as progress:
            cell = run(stage, units, variant, seed, size, progress)
        took = time.monotonic() - begin
        gain = f"{cell.accuracy_base:.1%} -> {cell.accuracy:.1%}, epsilon {format_epsilon_up(cell.epsilon)}"
        typer.echo(f"seed {seed}, {variant.name}: {gain} ({took:.0f} s)")
        cells.append(cell)
    return cells


@contextmanager
def _bar(caption: str) -> Iterator[RoundsDone]:
    """Yield a callback that draws a bar over the rounds on standard error, if that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(caption, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _table(summary: Mapping[str, float], modes: tuple[str, ...]) -> list[str]:
    wide = max(14, *(len(mode) + 2 for mode in modes))
    rows = [f"{'noise':<{wide}}{'base':>18}{'accuracy':>18}{'epsilon':>10}{'in the sum':>13}"]
    for mode in modes:
        base, accuracy = (
            f"{summary[f'{mode}.{name}']:.1%} +- {summary[f'{mode}.{name}.spread']:.1%}"
            for name in ("base", "accuracy")
        )
        carried = f"{summary[f'{mode}.noise']:.2f}"
        rows.append(
            f"{mode:<{wide}}{base:>18}{accuracy:>18}{format_epsilon_up(summary[f'{mode}.epsilon']):>10}{carried:>13}"
        )
    gain, spread, error = (100 * summary[f"gain.accuracy{part}"] for part in ("", ".spread", ".error"))
    rows.append(f"{'gain':<{wide}}{'':>18}{f'{gain:+.1f} +- {spread:.1f}':>18}  points, standard error {error:.1f}")
    return [
        *rows,
        "+- is the sample standard deviation over the seeds; the gain is paired, seed by seed.",
        "In the sum: the noise in it when nobody drops out, over the noise that the claim relies on.",
    ]
