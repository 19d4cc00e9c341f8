"""From sums to adapters: directions in every mode, files of a run, and what is kept of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from coordinator.runs.global_adapter import RunFiles
from methods.global_adapter import direction, read_initial
from methods.optimizer import OptimizerState
from privacy.dp.clipping import clip_radius, integer_clip
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.plan_parts import MemberOptions, Mode
from privacy.secagg.hashes import adapter_hash
from tests.worlds.coordinator import initial_adapter
from tests.worlds.plans import make_plan
from tests.worlds.recipes import recipe_of

ENTRIES = 12


def test_without_noise_the_direction_is_the_weighted_mean_difference() -> None:
    plan, _ = make_plan(n=5, entries=ENTRIES)
    total = np.full(ENTRIES, 4 * 2**16, dtype=np.int64)
    assert direction(plan, 1, total, ["alice", "bob", "carol", "dave"]).tolist() == [1.0] * ENTRIES


def test_a_clipped_gradient_sum_becomes_minus_the_mean_gradient_by_the_plans_constants() -> None:
    plan, _ = make_plan(n=5, mode="distributed", entries=ENTRIES)
    gradient = np.zeros((1, ENTRIES))
    gradient[0, 0] = 0.5 * float(plan.privacy.clip_norm)
    clipped = integer_clip(gradient, sensitivity=plan.privacy.sensitivity, clip_norm=float(plan.privacy.clip_norm))
    survivors = ["alice", "bob", "carol", "dave"]
    expected_batch = float(plan.privacy.sampling_rate) * 400
    moved = direction(plan, 1, 1000 * clipped[0], survivors)
    half_step = float(plan.privacy.clip_norm) / clip_radius(plan.privacy.sensitivity, ENTRIES) / 2
    assert moved[0] == pytest.approx(-1000 * gradient[0, 0] / expected_batch, abs=1000 * half_step / expected_batch)
    assert not moved[1:].any()


def test_a_clipped_upload_of_a_participant_is_averaged_over_the_survivors() -> None:
    privacy = {"unit": "participant"}
    plan, _ = make_plan(n=5, mode="distributed-participant", entries=ENTRIES, privacy=privacy)
    scale = float(plan.privacy.clip_norm) / clip_radius(plan.privacy.sensitivity, ENTRIES)
    total = np.full(ENTRIES, 8, dtype=np.int64)
    assert direction(plan, 1, total, ["alice", "bob", "carol", "dave"]) == pytest.approx(np.full(ENTRIES, 2 * scale))


def of_ranks(mode: Mode) -> Plan:
    """A plan of four members, the first of whom trains one of two ranks."""
    recipe = recipe_of("hetlora")
    plan, _ = make_plan(n=4, mode=mode, entries=recipe.entries)
    first, *others = plan.roster
    roster = (first.model_copy(update={"options": MemberOptions(rank=1)}), *others)
    return plan.model_copy(update={"recipe": recipe, "roster": roster})


@pytest.mark.parametrize("mode", ["none", "distributed"])
def test_where_ranks_differ_each_entry_is_averaged_over_those_who_train_it(mode: Mode) -> None:
    plan = of_ranks(mode)
    total, small = np.full(plan.recipe.entries, 6 * 2**16, dtype=np.int64), np.zeros(plan.recipe.entries, dtype=bool)
    small[8:16] = small[17:28:2] = True  # the second row of A and the second column of B
    survivors = ["alice", "bob", "carol"]
    found = direction(plan, 1, total, survivors)
    everybody = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"counts": "all"})})
    assert found[~small] == pytest.approx(direction(everybody, 1, total, survivors)[~small])
    assert found[small] == pytest.approx(direction(everybody, 1, total, survivors[1:])[small])
    assert not direction(plan, 1, total, ["alice"])[small].any(), "what nobody trains stays as it is"


@pytest.mark.parametrize(
    "data",
    [
        initial_adapter(ENTRIES + 1),
        b"no safetensors",
        save({"other": np.zeros(3, dtype=np.float32)}),
        save({"base_model.model.classifier.weight": np.zeros(3, dtype=np.float64)}),
    ],
    ids=["another size", "no safetensors", "another key", "another type"],
)
def test_an_initial_adapter_that_is_not_the_plans_is_refused(data: bytes) -> None:
    import hashlib

    plan, _ = make_plan(n=3, entries=ENTRIES)
    adapter = plan.recipe.adapter.model_copy(update={"initial_hash": hashlib.sha256(data).hexdigest()})
    with pytest.raises(LocalError, match="E-PLAN-RULE"):
        read_initial(data, plan.recipe.model_copy(update={"adapter": adapter}))
    with pytest.raises(LocalError, match="not the one that the plan names"):
        read_initial(data, plan.recipe)


def state(number: int, *, averaged: bool) -> OptimizerState:
    vectors = [np.full(3, number + place, dtype=np.float32) for place in range(4)]
    return OptimizerState(number, vectors[0], vectors[1] if averaged else vectors[0], vectors[2], vectors[3])


@pytest.mark.parametrize("averaged", [True, False])
def test_a_state_comes_back_as_it_was_written(tmp_path: Path, averaged: bool) -> None:
    files = RunFiles(tmp_path)
    files.write_state(state(4, averaged=averaged))
    back = files.read_state(4)
    for field in ("iterate", "average", "momentum", "second"):
        assert getattr(back, field).tolist() == getattr(state(4, averaged=averaged), field).tolist()
    with pytest.raises(LocalError, match="E-STATE-DAMAGED"):
        files.read_state(5)


def test_a_state_without_moments_takes_no_room_and_comes_back(tmp_path: Path) -> None:
    files, nothing = RunFiles(tmp_path), np.zeros(1000, dtype=np.float32)
    iterate = np.ones(1000, dtype=np.float32)
    files.write_state(OptimizerState(1, iterate, iterate, nothing, nothing))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < iterate.nbytes + 200
    back = files.read_state(1)
    assert [back.average.tolist(), back.momentum.tolist()] == [iterate.tolist(), nothing.tolist()]


@pytest.mark.parametrize("averaged", [True, False])
def test_only_the_released_adapter_of_a_forgotten_round_may_be_kept(tmp_path: Path, averaged: bool) -> None:
    files = RunFiles(tmp_path)
    for number in (1, 2):
        files.write_state(state(number, averaged=averaged))
    files.forget(1, keep_released=False)
    assert not [path for path in tmp_path.iterdir() if path.stem.endswith("-1")]
    released = files.released(2).read_bytes()
    files.forget(2, keep_released=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [released]
    assert files.released(2).read_bytes() == released


def test_a_long_iterate_is_compared_with_its_row_and_published_without_being_read_whole(tmp_path: Path) -> None:
    files, data = RunFiles(tmp_path / "run"), np.arange(4 * 2**20 + 1, dtype="<f4").tobytes()
    drafts, other = files.drafts(2), files.drafts(1)
    for directory, content in ((drafts, data), (other, data[:-1])):
        directory.directory.mkdir(parents=True)
        directory.iterate(3).write_bytes(content)
    committed = adapter_hash(data)
    tracemalloc.start()
    try:
        files.publish(3, committed)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert files.iterate(3).read_bytes() == data
    assert other.iterate(3).exists(), "it has another hash"
    assert most < len(data) / 4
