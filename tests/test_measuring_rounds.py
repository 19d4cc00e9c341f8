"""Measurements through real rounds in memory: the sum is exactly the survivors', and figures hold whoever drops out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from methods.global_adapter import next_state
from methods.optimizer import OptimizerState
from privacy.errors import Phase
from privacy.measurement import figures
from privacy.secagg import hashes
from tests.worlds.federation import Fault, FaultKind, Federation
from tests.worlds.measuring import MeasureMode, measurer, measuring_world
from tests.worlds.plans import verified
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import ROWS

pytestmark = pytest.mark.torch

MEMBERS = 4
CASES: dict[str, tuple[str, MeasureMode, str]] = {
    "pictures, distributed": ("image", "distributed", "example"),
    "pictures, local": ("image", "local", "example"),
    "texts of users, distributed": ("text", "distributed", "user"),
    "texts, without noise": ("text", "none", "none"),
}
FAULTS = [
    Fault("bob", Phase.COLLECT_MASKED, FaultKind.CRASH_AFTER_SEND),
    Fault("dave", Phase.COLLECT_MASKED, FaultKind.LOST),
]


@pytest.mark.parametrize(("kind", "mode", "unit"), CASES.values(), ids=CASES.keys())
def test_a_measurement_is_the_sum_of_the_survivors_and_nothing_moves(
    kind: str, mode: MeasureMode, unit: str, tmp_path: Path
) -> None:
    users = unit == "user"
    by_user = {"unit": "user", "max_rows_per_user": 3} if users else {}
    world = measuring_world(tmp_path, kind, units=ROWS // 3 if users else ROWS, n=MEMBERS, mode=mode, **by_user)
    plan, federation = world.plan, Federation(n=MEMBERS)
    federation.plan, federation.transcript = verified(plan), hashes.genesis_transcript(plan.hash)
    start, updates = world.adapted().vector(), dict[str, np.ndarray]()
    for name in federation.participants:
        one, trainer = federation.new_participant(name, 0), measurer(world, SeededRandom(name), me=name)

        def train(number: int, name: str = name, trainer: object = trainer) -> np.ndarray:
            assert number == 1
            updates[name] = trainer.train(number, start, lambda done, of: None)  # type: ignore[attr-defined]  # bound
            return updates[name]

        one.train = train
        federation.participants[name] = one
    result = federation.run_round(FAULTS)
    assert set(result.survivors) == set(federation.participants) - {"dave"}
    total = result.total()
    assert np.array_equal(total, sum(updates[name] for name in result.survivors))
    state = OptimizerState.start(start)
    after = next_state(plan, state, result.blocks(), result.survivors)
    assert after.round == 1
    assert after.iterate is state.iterate
    found = {
        (one.metric, *one.of): one for one in figures(plan, [int(entry) for entry in total], len(result.survivors))
    }
    counted = 3 * (ROWS // 3 if users else ROWS)
    count = found["count",]
    assert count.value == pytest.approx(counted, abs=max(1e-6, 5 * count.noise_error))
    table = sum(one.value or 0.0 for name, one in found.items() if name[0] == "confusion")
    error = found["confusion", "a", "a"].noise_error
    assert table == pytest.approx(counted, abs=max(1e-6, 5 * 3 * error))
