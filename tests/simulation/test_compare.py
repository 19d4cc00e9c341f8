"""The comparison of local with shared noise: real rounds and training in one process, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import onlysum
from privacy.plan_parts import Mode
from privacy.secagg import messages
from simulation import compare
from simulation.cohort import Cohort
from simulation.compare import Cell, Size, Variant, figures, gains, variants
from simulation.seeded import SeededSource
from simulation.stage import Stage
from tests.worlds.plans import make_plan, verified


def cell(mode: Mode, seed: int, accuracy: float) -> Cell:
    noise = 3.0 if mode == "local" else 1.1
    return Cell(mode=mode, seed=seed, accuracy_base=0.7, accuracy=accuracy, epsilon=7.9, noise=noise)


def of_names(updates: dict[str, NDArray[np.int64]], names: Sequence[str]) -> list[NDArray[np.int64]]:
    return [updates[name] for name in names]


def test_a_cohort_sums_exactly_round_after_round() -> None:
    plan, keys = make_plan(n=5, f=1)
    cohort = Cohort(verified(plan), keys, SeededSource("a cohort"))
    for number in (1, 2, 3):
        updates = {
            name: np.full(plan.recipe.entries, place * number, dtype=np.int64) for place, name in enumerate(keys, 1)
        }
        result = cohort.run_round(number, b"the adapter", partial(of_names, updates))
        assert (result.total() == 15 * number).all()
        assert result.dropouts == ()
        assert result.certificate.position == messages.Position(verified(plan).hash, number, 1)


def test_a_seeded_source_repeats_and_never_gives_the_same_bytes_twice() -> None:
    first, again, other = (SeededSource(seed) for seed in ("1", "1", "2"))
    drawn = [first.token_bytes(16) for _ in range(8)]
    assert drawn == [again.token_bytes(16) for _ in range(8)]
    assert len({*drawn, other.token_bytes(16)}) == 9


def test_figures_are_means_and_sample_deviations_over_the_seeds() -> None:
    cells = [cell("local", 1, 0.8), cell("local", 2, 0.9), cell("distributed", 1, 0.9), cell("distributed", 2, 0.96)]
    found = figures(cells)
    assert found["local.accuracy"] == pytest.approx(0.85)
    assert found["local.accuracy.spread"] == pytest.approx(0.0707, abs=1e-4)
    assert found["distributed.accuracy"] == pytest.approx(0.93)
    assert found["distributed.epsilon"] == pytest.approx(7.9)
    assert found["gain.accuracy"] == pytest.approx(0.08)
    assert found["gain.accuracy.spread"] == pytest.approx(0.0283, abs=1e-4)
    assert found["gain.accuracy.error"] == pytest.approx(0.02, abs=1e-4)
    assert (found["local.noise"], found["distributed.noise"]) == (3.0, 1.1)


def test_gains_are_paired_seed_by_seed() -> None:
    cells = [cell("distributed", 2, 0.9), cell("local", 1, 0.8), cell("local", 2, 0.95), cell("distributed", 1, 0.9)]
    assert gains(cells) == pytest.approx({1: 0.1, 2: -0.05})


def test_correlated_noise_is_compared_at_a_rate_that_its_bins_allow_with_independent_noise_beside_it() -> None:
    assert variants(1) == (Variant("local"), Variant("distributed"))
    assert [one.name for one in variants(2)[2:]] == ["distributed, 2 bands"]
    assert [one.name for one in variants(8)] == [
        "local",
        "distributed",
        "distributed, q 0.125",
        "distributed, q 0.125, 8 bands",
    ]
    assert variants(7)[-1].sampling_rate == "0.1428"


@pytest.mark.slow
@pytest.mark.torch
def test_correlated_noise_runs_at_the_same_epsilon_and_leads_elsewhere(tmp_path: Path) -> None:
    size = Size(participants=3, base_steps=5, rounds=4)
    stage = Stage(tmp_path / "stage")
    units = compare.prepare(stage, 1, size)
    found = [
        compare.run(stage, units, Variant("distributed", bands, "0.25"), 1, size, lambda done, total: None)
        for bands in (1, 4)
    ]
    assert [one.variant for one in found] == ["distributed, q 0.25", "distributed, q 0.25, 4 bands"]
    assert all(7 < one.epsilon <= 8 for one in found)
    assert found[0].accuracy != found[1].accuracy


@pytest.mark.slow
@pytest.mark.torch
def test_the_command_ends_with_the_figures_of_both_modes_and_says_that_it_is_a_simulation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "Size", partial(Size, base_steps=5, rounds=2))
    assert onlysum.run(["demo-compare", "--seeds", "1", "--participants", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "simulation, not private" in lines[0]
    assert any(line.startswith("distributed ") for line in lines)
    told = json.loads(lines[-1])
    assert told["participants"] == 6
    assert list(told["gains"]) == ["5001"]
    assert told["figures"]["local.noise"] == pytest.approx(6**0.5, abs=1e-4)
    assert told["figures"]["distributed.noise"] == pytest.approx((6 / 4) ** 0.5, abs=1e-4)  # min_survivors 5, f 1
    for mode in ("local", "distributed"):
        assert 0 < told["figures"][f"{mode}.epsilon"] <= 8
        assert 0 <= told["figures"][f"{mode}.accuracy"] <= 1
