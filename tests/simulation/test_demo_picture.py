"""What the demo shows of masks: read from the coordinator's own files, and drawn as it was."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from coordinator.runs.global_adapter import RunFiles
from privacy.plan import Plan
from privacy.plan_parts import Mode
from simulation.picture import BLOCKS, COLUMNS, PLAIN_BLOCKS, bars, lines, panels, write_svg
from simulation.witness import Witness
from tests.worlds.plans import make_plan

ENTRIES = 64
SGD = {"name": "sgd", "learning_rate": "0.1", "momentum": "0.9", "average": "0.9"}
RUN = "0123456789abcdef"


def plan_with(mode: Mode, optimizer: dict[str, str]) -> Plan:
    plan, _ = make_plan(n=5, f=1, mode=mode, entries=ENTRIES, recipe={"optimizer": optimizer})
    return plan


def test_the_witness_takes_a_complete_upload_from_the_spool_and_waits_for_its_round(tmp_path: Path) -> None:
    plan = plan_with("distributed", SGD)
    files, spool = RunFiles(tmp_path / "runs" / RUN), tmp_path / "spool" / RUN / "1-1"
    files.directory.mkdir(parents=True)
    spool.mkdir(parents=True)
    (files.directory / "plan.json").write_bytes(plan.to_bytes())
    total = np.arange(ENTRIES, dtype=np.int64) - 7
    masked = np.random.default_rng(5).integers(-(2**31), 2**31, ENTRIES)
    data = masked.astype("<i4").tobytes()
    witness = Witness(tmp_path, RUN, "alice")
    with witness.looking():
        (spool / "alice.00").write_bytes(data[:-4])
        (spool / "bob.00").write_bytes(bytes(len(data)))
        time.sleep(0.1)
        assert witness.seen is None
        (spool / "alice.00").write_bytes(data)
        files.write_sum(1, total.astype("<i4").tobytes())
        for _ in range(200):
            if witness.seen is not None:
                break
            time.sleep(0.01)
    seen = witness.seen
    assert seen is not None
    assert (seen.member, seen.round) == ("alice", 1)
    assert np.array_equal(seen.masked, masked)
    assert np.array_equal(seen.total, total)


def test_the_witness_ends_with_its_block_if_nothing_comes(tmp_path: Path) -> None:
    witness = Witness(tmp_path, RUN, "alice")
    with witness.looking():
        pass
    assert witness.seen is None


# --- the picture ---


def halves() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    random = np.random.default_rng(1)
    masked = random.integers(-(2**31), 2**31, 1674)
    return masked, np.rint(random.normal(scale=20_000, size=1674)).astype(np.int64)


def test_every_number_is_counted_in_a_bar() -> None:
    for half in panels(*halves(), member="alice", bits=32, survivors=5, noised=True):
        assert sum(half.counts) == half.values.size == 1674
        assert len(bars(half)) == COLUMNS


def test_bars_are_as_high_as_there_are_numbers_and_empty_where_there_are_none() -> None:
    values = np.array([-10] * 8 + [9] * 4)
    half = panels(values, values, member="alice", bits=32, survivors=5, noised=True)[1]
    assert bars(half).split() == [BLOCKS[7], BLOCKS[3]]
    assert bars(half, blocks=False).split() == [PLAIN_BLOCKS[7], PLAIN_BLOCKS[3]]


def test_the_terminal_says_whose_update_which_sum_and_both_ranges() -> None:
    shown = "\n".join(lines(panels(*halves(), member="alice", bits=32, survivors=4, noised=True)))
    for part in (
        "from alice: 1674 masked",
        "-2,147,483,648",
        "the sum of 4",
        "of the ring: in the sum",
        "everybody's noise in it",
    ):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 100
    plain = "\n".join(lines(panels(*halves(), member="alice", bits=32, survivors=4, noised=True), blocks=False))
    assert plain.isascii()


def test_the_file_is_one_svg_with_a_cell_for_every_number_and_nothing_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "masks.svg"
    write_svg(
        path, panels(*halves(), member="alice", bits=32, survivors=5, noised=True), title="What <it> had in round 1"
    )
    root = ET.fromstring(path.read_text())
    squares = sum(found.get("d", "").count("M") for found in root.iter("{http://www.w3.org/2000/svg}path"))
    assert squares == 2 * 1674
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "title",
        "rect",
        "path",
        "text",
        "line",
    }
    assert "http" not in path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert path.stat().st_size < 200_000
