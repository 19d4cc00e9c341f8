"""The bench of utility: which cells there are, what a row says, and that the page is made of the rows that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import utility
from bench.utility import BANDED, BEST, METHODS, MODES, Cell, all_cells, merged, possible, quick_cells, row_of
from bench.utility_worlds import Ground, speeches, split
from docs import build_utility
from docs.build_utility import gained, spread
from simulation.laboratory.spec import Spec
from simulation.laboratory.world import World

MEASURED = {
    "delta": 1e-5, "noise_multiplier": 1.7, "round": 0, "accuracy": 0.5, "perplexity": None, "bytes_up": 0,
    "bytes_down": 0, "training_seconds": 0.0, "sum_seconds": 0.0, "ended": "", "adapter": "00",
}  # fmt: skip


def row(cell: Cell, value: float, **changes: Any) -> dict[str, Any]:
    last = {**MEASURED, "round": 100, "accuracy": value, "bytes_up": 40_000, "training_seconds": 3.0, **changes}
    return row_of(cell, [MEASURED, last], joules=None, seconds=1.0)


def test_page_and_chart_are_what_the_kept_rows_say() -> None:
    rows = build_utility.kept()
    assert build_utility.TEXT.read_text() == build_utility.rebuilt(build_utility.TEXT.read_text(), rows)
    assert build_utility.CHART.read_text() == build_utility.chart(rows)


def test_kept_rows_are_of_cells_that_there_are_and_say_what_they_are() -> None:
    known = {cell.id for cell in all_cells(range(1, build_utility.SEEDS + 1))}
    for kept in build_utility.kept():
        assert kept["cell"] in known
        assert kept["label"] == "simulation, not private"


def test_the_head_is_in_every_mode_and_partition_and_each_cell_is_named_once() -> None:
    cells = list(all_cells((1, 2)))
    assert len({cell.id for cell in cells}) == len(cells)
    for mode in MODES:
        for partition in ("iid", "apart"):
            assert any(
                (cell.task, cell.method, cell.mode, cell.partition) == ("banking77", "head", mode, partition)
                for cell in cells
            )
    assert all(cell.seed == 1 for cell in cells[: len(cells) // 2])
    assert {cell.epsilon for cell in cells if cell.mode == "none"} == {0}
    assert {cell.method for cell in cells} == set(METHODS)
    assert set(BEST) <= set(METHODS)


def test_what_a_method_refuses_or_cannot_read_is_no_cell() -> None:
    assert not possible("digits", "prompt", "none")  # texts alone
    assert not possible("shakespeare", "head", "none")  # its base's head is its own
    assert not possible("banking77", "flexlora", "distributed")
    assert possible("banking77", "flexlora", "local")


def test_a_cell_is_a_spec_that_leaves_every_number_to_the_rule(tmp_path: Path) -> None:
    world = World(tmp_path / "base", tmp_path / "rows.csv", tmp_path / "held-out.csv")
    ground = Ground(world, {"labels": ["a", "b"], "max_length": 32}, {"kind": "dirichlet", "alpha": 0.3})
    banded = Cell(1, "banking77", "head", BANDED, "iid")
    for cell in (*quick_cells(), banded, Cell(3, "banking77", "head", "local", "apart")):
        spec = Spec.parse(cell.spec(ground, quick=False), name=cell.id, directory=tmp_path)
        (only,) = spec.cells()
        assert only.seed == cell.seed
        for section, keys in {
            "privacy": {"mode", "epsilon", "delta", "bands"},
            "evaluation": {"every"},
            "base": {"name", "path"},
        }.items():
            assert set(only.document[section]) <= keys
        assert not {"rounds", "training", "optimizer", "adapter"} & set(only.document)


def test_a_row_has_the_end_beside_the_start() -> None:
    found = row(Cell(1, "digits", "head", "local", "iid"), 0.9)
    assert (found["figure"], found["base"], found["value"], found["rounds"]) == ("accuracy", 0.5, 0.9, 100)
    assert (found["processor_seconds"], found["joules"]) == (3.0, None)


def test_of_a_cell_the_newest_row_is_kept() -> None:
    cell, other = Cell(1, "digits", "head", "local", "iid"), Cell(2, "digits", "head", "local", "iid")
    rows = merged([row(cell, 0.5), row(other, 0.6)], [row(cell, 0.7)])
    assert [found["value"] for found in rows] == [0.7, 0.6]


def test_figures_show_how_many_seeds_they_are_of() -> None:
    cells = [row(Cell(seed, "digits", "head", "local", "iid"), value) for seed, value in ((1, 0.9), (2, 0.94))]
    assert spread([]) == "not measured"
    assert spread(cells[:1]) == "90.0 % (one seed)"
    assert spread(cells) == "92.0 +- 2.8 % (2 seeds)"


def test_costs_are_per_point_gained_and_no_gain_has_none() -> None:
    assert gained([row(Cell(1, "digits", "head", "local", "iid"), 0.9)], "bytes_up") == pytest.approx(1000)
    assert gained([row(Cell(1, "digits", "head", "local", "iid"), 0.4)], "bytes_up") is None
    assert gained([row(Cell(1, "digits", "head", "local", "iid"), 0.9)], "joules") is None


def test_whoever_speaks_in_the_public_part_holds_nothing() -> None:
    text = "\n\n".join(f"{name}:\nLine {number}.\nMore." for number, name in enumerate("ABABCDACDC"))
    found = speeches(text)
    assert found[0] == ("A", "Line 0.\nMore.")
    public, rest = split(found)
    assert [speaker for speaker, _ in public] == list("ABAB")
    assert [speaker for speaker, _ in rest] == list("CDCDC")


def test_the_machine_s_joules_are_those_of_whole_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility, "ENERGY", tmp_path)
    assert utility.joules_so_far() is None
    for name, value in (("intel-rapl:0", 3_000_000), ("intel-rapl:0:1", 1_000_000), ("intel-rapl:1", 500_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert utility.joules_so_far() == 3.5
