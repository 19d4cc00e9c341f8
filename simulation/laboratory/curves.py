"""Results as curves, for the screen and for print.

Guarantees: every picture says that it shows a simulation; the same rows give the same bytes of SVG; colours differ for
colour-blind readers, and lines by their marks too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from simulation.laboratory.results import LABEL, Row, final, quality

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKS: Final = "osD^vPX"
FILES: Final = ("curves.png", "curves.svg")
LONGEST: Final = 60  # characters of a line's name

Line = tuple[str, list[Any], list[float], list[float]]  # name, abscissae, means, deviations


def draw(rows: Sequence[Row], swept: Sequence[str], out: Path) -> None:
    """Write the curves of some rows.

    One key is swept over numbers: the figure of merit against it, one line per combination of the others. None is: it
    against the round.

    Args:
        rows: of all cells so far.
        swept: the dotted keys of the sweep.
        out: directory for ``curves.png`` and ``curves.svg``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    against = next((key for key in swept if _is_ladder(rows, key)), "round")
    shown = rows if against == "round" else final(rows)
    merit = quality(rows)
    lines = _lines(shown, against, [key for key in swept if key != against], merit)
    with mpl.rc_context({"svg.hashsalt": "onlysum", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.subplots()
        for place, (name, where, means, deviations) in enumerate(lines):
            colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
            axes.errorbar(where, means, yerr=deviations, label=name, color=colour, marker=mark, capsize=3)
        seeds = len({row["seed"] for row in rows})
        over = f"; mean and standard deviation over {seeds} seeds" if seeds > 1 else ""
        axes.set(xlabel=against, ylabel=f"{merit} on held-out rows", title=LABEL + over)
        axes.grid(alpha=0.3)
        if any(name for name, *_ in lines):
            axes.legend(fontsize="small")
        for name in FILES:
            figure.savefig(out / name, dpi=150, metadata={"Date": None} if name.endswith("svg") else None)


def _is_ladder(rows: Sequence[Row], key: str) -> bool:
    values = {row.get(key) for row in rows}
    return len(values) > 1 and all(isinstance(value, int | float) for value in values)


def _lines(rows: Sequence[Row], against: str, others: Sequence[str], merit: str) -> list[Line]:
    """Return means and sample deviations over the seeds."""
    found: dict[str, dict[Any, list[float]]] = {}
    for row in rows:
        name = ", ".join(f"{key.rpartition('.')[2]} {row.get(key)}" for key in others)[:LONGEST]
        found.setdefault(name, {}).setdefault(row[against], []).append(row[merit])
    lines = []
    for name, places in found.items():
        where = sorted(places)
        deviations = [stdev(places[place]) if len(places[place]) > 1 else 0.0 for place in where]
        lines.append((name, where, [fmean(places[place]) for place in where], deviations))
    return lines
