"""Figures as rows: every hyper-parameter of a cell beside what was measured, as parquet.

Guarantees: every row says that it is of a simulation; a column has one type in all rows; a file is replaced whole.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

from host import durable
from privacy.plan import Plan
from simulation.laboratory.spec import Cell, SpecFile

LABEL: Final = "simulation, not private"
SECTIONS: Final = frozenset({"adapter", "optimizer"})  # that a SPEC may leave out whole
QUALITIES: Final = ("accuracy", "spearman", "r2", "loss")  # what is shown of a task: the first that it has

Row = dict[str, Any]


def hyper_parameters(cell: Cell) -> Row:
    """Return every key of a cell's SPEC by its dotted name, defaults included; lists as JSON."""
    given = dict(_leaves(cell.document))
    file = SpecFile.model_validate(cell.document)
    row: Row = {}
    for key, value in _leaves(file.model_dump(mode="json")):
        native = given.get(key, value)
        if isinstance(native, int | float) and not isinstance(native, bool) and isinstance(value, str):
            row[key] = float(native)  # plans have it as decimal text
        elif key not in given and isinstance(value, str) and value.replace(".", "", 1).isdigit():
            row[key] = float(value)
        else:
            row[key] = native if isinstance(native, str | int | float | None) else json.dumps(native)
    left_out = ("simulation.sweep", "simulation.seeds")
    return {key: value for key, value in row.items() if not key.startswith(left_out) and key not in SECTIONS}


def filled_in(plan: Plan) -> Row:
    """Return what a plan has of the keys that a SPEC may leave to the rule, by dotted name."""
    recipe, privacy = plan.recipe, plan.privacy
    numbers: dict[str, Any] = {
        "rounds": recipe.rounds,
        **{f"privacy.{key}": getattr(privacy, key) for key in ("delta", "sampling_rate", "local_steps", "clip_norm")},
        **{f"training.{key}": value for key, value in recipe.training.model_dump().items()},
        **{f"optimizer.{key}": value for key, value in recipe.optimizer.model_dump().items() if key != "name"},
    }
    found: Row = {key: float(value) for key, value in numbers.items() if not key.endswith("stream_rates")}
    options = {f"adapter.{key}": value for key, value in recipe.adapter.options.model_dump(mode="json").items()}
    options["adapter.head_modules"] = recipe.adapter.head_modules
    words = {key: value if isinstance(value, str | int) else json.dumps(value) for key, value in options.items()}
    return {**found, **words, "optimizer.name": recipe.optimizer.name, "task.kind": recipe.task.kind}


def rows_of(cell: Cell, measured: Sequence[Mapping[str, Any]], plan: Plan, **ran: str) -> list[Row]:
    """Return the rows of a cell.

    Args:
        cell: what was simulated.
        measured: figures, by round.
        plan: of the cell, which has what the SPEC leaves to the rule.
        ran: how: masks, engine.
    """
    known = {"label": LABEL, "cell": cell.id, "seed": cell.seed, "plan": plan.hash.hex(), **ran}
    said = hyper_parameters(cell)
    chosen = {key: value for key, value in filled_in(plan).items() if said.get(key) is None}
    return [{**known, **figures, **said, **chosen} for figures in measured]


def quality(rows: Sequence[Row]) -> str:
    """Return the name of the figure of merit that is shown."""
    return next(name for name in QUALITIES if all(row.get(name) is not None for row in rows))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as parquet.

    Raises:
        LocalError: ``E-DISK-*``.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    arrays = [_column([row.get(name) for row in rows]) for name in columns]
    sink = io.BytesIO()
    parquet.write_table(pa.table(dict(zip(columns, arrays, strict=True))), sink)
    durable.write(path, sink.getvalue())


def read(path: Path) -> list[Row]:
    """Return the rows of a file."""
    rows: list[Row] = parquet.read_table(path).to_pylist()
    return rows


def final(rows: Sequence[Row]) -> list[Row]:
    """Return the last row of each cell, in the order of the cells."""
    return list({row["cell"]: row for row in rows}.values())


def _column(values: list[Any]) -> Any:
    """Return an array: of numbers, or of text where a sweep has both."""
    kinds = {type(value) for value in values if value is not None}
    alike = len(kinds) <= 1 or kinds == {int, float}
    return pa.array(values if alike else [None if value is None else str(value) for value in values])


def _leaves(tables: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{within}{name}.")
        elif not isinstance(value, Mapping):
            yield f"{within}{name}", value
