"""Write ``docs/utility.svg`` and the generated parts of ``docs/utility.md`` from ``bench/results/utility.parquet``.

Usage: ``python -m docs.build_utility [--check]``. With ``--check`` nothing is written; the exit status is 1 if page or
chart are not what this script makes. What is not measured is shown as such.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from bench.utility import BANDED, EPSILON, KEPT, METHODS, MODES, PARTICIPANTS, PARTITIONS, all_cells, possible
from bench.utility_worlds import TASKS
from docs import generated_parts
from simulation.laboratory import results

TEXT: Final = Path(__file__).with_name("utility.md")
CHART: Final = Path(__file__).with_name("utility.svg")
SEEDS: Final = 3
NOT_MEASURED: Final = "not measured"
APART: Final = {"shakespeare": "by speaker"}
MARKS: Final = (
    ("none", 0.922),
    ("distributed", 0.90),
    (BANDED, 0.91),
    ("local", 0.88),
)  # Banking77, epsilon 8, 8 participants
COLOURS: Final = {"none": "#9aa7b0", "distributed": "#009e73", "local": "#e69f00"}
WIDTH, LEFT, LONGEST, ROW, TOP = 860, 300, 480, 22, 64  # pixels
Row = dict[str, Any]


def kept() -> list[Row]:
    """Return the rows that are kept."""
    return results.read(KEPT) if KEPT.exists() else []


def chosen(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the rows with some values, by seed."""
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return sorted(found, key=lambda row: int(row["seed"]))


def spread(rows: Sequence[Row]) -> str:
    """Return mean and sample standard deviation over seeds, or that there is nothing."""
    if not rows:
        return NOT_MEASURED
    values = [float(row["value"]) for row in rows]
    scale, unit = (100, " %") if rows[0]["figure"] == "accuracy" else (1, "")
    middle = f"{mean(values) * scale:.1f}"
    if len(values) == 1:
        return f"{middle}{unit} (one seed)"
    return f"{middle} +- {stdev(values) * scale:.1f}{unit} ({len(values)} seeds)"


def gained(rows: Sequence[Row], key: str) -> float | None:
    """Return what a figure costs per point gained over the base: per point of accuracy, or of perplexity."""
    points = [
        (row["value"] - row["base"]) * 100 if row["figure"] == "accuracy" else row["base"] - row["value"]
        for row in rows
    ]
    costs = [row[key] for row in rows]
    if not rows or any(cost is None for cost in costs) or mean(points) <= 0:
        return None
    return float(mean(costs) / mean(points))


def table(rows: Sequence[Row], task: str) -> Iterator[str]:
    """Yield a task's table: one row per method and partition, in each mode; of methods that are measured at all."""
    yield f"| rows | method | {' | '.join(MODES)} | kB up per point | processor seconds per point | joules per point |"
    yield "|" + "---|" * (len(MODES) + 5)
    for partition in PARTITIONS:
        for method in METHODS:
            per_mode = [_cell(rows, task, method, mode, partition) for mode in MODES]
            if not any(per_mode) and method not in ("head", "ffa-lora"):
                continue
            if not any(possible(task, method, mode) for mode in MODES):
                continue
            words = [
                spread(found) if possible(task, method, mode) else "refused"
                for mode, found in zip(MODES, per_mode, strict=True)
            ]
            where = "alike" if partition == "iid" else APART.get(task, "Dirichlet 0.3")
            costs = [_cost(per_mode[1], key) for key in ("bytes_up", "processor_seconds", "joules")]
            yield f"| {where} | `{method}` | {' | '.join(words)} | {' | '.join(costs)} |"


def _cell(rows: Sequence[Row], task: str, method: str, mode: str, partition: str) -> list[Row]:
    epsilon = 0.0 if mode == "none" else float(EPSILON)
    return chosen(
        rows, task=task, method=method, mode=mode, partition=partition, participants=PARTICIPANTS, epsilon=epsilon
    )


def _cost(rows: Sequence[Row], key: str) -> str:
    found = gained(rows, key)
    if found is None:
        return "-"
    return f"{found / 1000 if key == 'bytes_up' else found:.1f}"


def tasks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a heading and a table for each task."""
    for place, task in enumerate(TASKS):
        yield from [""] * (place > 0)
        bases = [row["base"] for row in rows if row["task"] == task]
        figure = "Perplexity, the lower the better" if task == "shakespeare" else "Accuracy"
        yield f"### {task}"
        yield ""
        if not bases:
            yield f"{figure}. Nothing of this task is {NOT_MEASURED.removeprefix('not ')} yet."
            continue
        base = f"{mean(bases) * 100:.1f} %" if figure == "Accuracy" else f"{mean(bases):.1f}"
        yield f"{figure}; before training {base}. Costs are of mode `distributed`, per point gained over that."
        yield ""
        yield from table(rows, task)


def marks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what is to be reached on Banking77 beside what is: by the adapter, and by the head alone."""
    yield "| mode | to be reached | `ffa-lora` | the head alone |"
    yield "|---|---|---|---|"
    for mode, mark in MARKS:
        found = [spread(_cell(rows, "banking77", method, mode, "iid")) for method in ("ffa-lora", "head")]
        yield f"| `{mode}` | {mark * 100:.1f} % | {' | '.join(found)} |"


def targets(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the figures at other targets and among more participants, where there are any."""
    found = [row for row in rows if row["epsilon"] not in (0.0, float(EPSILON)) or row["participants"] != PARTICIPANTS]
    if not found:
        yield "Nothing at other targets, and nothing among 32 participants, is measured yet."
        return
    yield "| task | method | mode | participants | epsilon | |"
    yield "|---|---|---|---|---|---|"
    groups = sorted({(r["task"], r["method"], r["mode"], r["participants"], r["epsilon"]) for r in found})
    for task, method, mode, participants, epsilon in groups:
        same = chosen(
            found, task=task, method=method, mode=mode, participants=participants, epsilon=epsilon, partition="iid"
        )
        yield f"| {task} | `{method}` | `{mode}` | {participants} | {epsilon:g} | {spread(same)} |"


def count(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how much of the whole table is measured."""
    whole = [cell.id for cell in all_cells(range(1, SEEDS + 1))]
    done = {row["cell"] for row in rows} & set(whole)
    yield f"Of {len(whole)} runs {len(done)} are measured; every other shows below as not measured, or not at all."


def chart(rows: Sequence[Row]) -> str:
    """Return a chart of accuracy at epsilon 8 among 8 participants, rows alike: one bar per method and mode."""
    bars = [
        (task, method, mode, found)
        for task in TASKS
        for method in METHODS
        for mode in MODES
        if (found := _cell(rows, task, method, mode, "iid")) and found[0]["figure"] == "accuracy"
    ]
    height = TOP + ROW * max(1, len(bars)) + 20
    title = f"Accuracy on held-out rows, {PARTICIPANTS} participants, epsilon {EPSILON}; {results.LABEL}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif">',
        f"  <title>{escape(title)}</title>",
        f'  <rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'  <text x="20" y="30" font-size="15" fill="#1d2429">{escape(title)}</text>',
    ]
    if not bars:
        lines.append(f'  <text x="20" y="{TOP}" font-size="13" fill="#1d2429">nothing is measured yet</text>')
    for place, (task, method, mode, found) in enumerate(bars):
        value, top = mean(float(row["value"]) for row in found), TOP + ROW * place
        words, end = f"{task}, {method}, {mode}", LEFT + value * LONGEST + 6
        lines += [
            f'  <text x="{LEFT - 10}" y="{top + 13}" font-size="13" text-anchor="end" fill="#1d2429">{words}</text>',
            f'  <rect x="{LEFT}" y="{top + 2}" width="{value * LONGEST:.1f}" height="14" fill="{COLOURS[mode]}"/>',
            f'  <text x="{end:.1f}" y="{top + 13}" font-size="13" fill="#1d2429">{escape(spread(found))}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def rebuilt(text: str, rows: Sequence[Row]) -> str:
    """Return the page with its generated parts made anew."""
    parts = {"count": count(rows), "marks": marks(rows), "tasks": tasks(rows), "targets": targets(rows)}
    return generated_parts.rebuilt(text, parts, "build_utility.py")


def main() -> int:
    """Write or check page and chart."""
    rows = kept()
    page = generated_parts.write_or_check(TEXT, rebuilt(TEXT.read_text(), rows))
    return page | generated_parts.write_or_check(CHART, chart(rows))


if __name__ == "__main__":
    sys.exit(main())
