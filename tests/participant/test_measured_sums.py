"""The sum of a measurement comes to every owner, checked; a coordinator that sends another is not believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.verify import verify_report
from coordinator.protocol.round import RoundResult
from participant.home import sum_file
from privacy.secagg.hashes import sum_hash
from protos.envelope import ContentRef, RoundCompleted, RunEnded
from tests.worlds.measuring import measuring_plan, measuring_recipe
from tests.worlds.owner import INITIAL_ADAPTER, content, give, policy_text
from tests.worlds.plans import names
from tests.worlds.rehearsal import ME, Rehearsal


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    recipe = measuring_recipe(("histogram",))
    recipe["adapter"] = {**recipe["adapter"], "initial_hash": hashlib.sha256(INITIAL_ADAPTER).hexdigest()}
    plan: Any = json.loads(measuring_plan(recipe=recipe).to_bytes())
    policy = policy_text(roster=names(5)[1:], wards='measures = ["histogram"]')
    fields = {name: plan[name] for name in ("recipe", "privacy", "encoding")}
    made = Rehearsal(tmp_path / ME, policy=policy, **fields)
    assert made.plan.recipe.measured is not None
    made.propose()
    return made


def measured(rehearsal: Rehearsal, served: Callable[[RoundResult], ContentRef]) -> RoundResult:
    """Play the round; the coordinator tells where its sum is, as it says."""
    rehearsal.open()
    while rehearsal.machine.phase.name != "RESULT":
        rehearsal.phase()
    result = rehearsal.machine.result
    rehearsal.certify(result)
    give(rehearsal.daemon, RoundCompleted(rehearsal.plan.run_id, result.certificate, served(result)))
    return result


def kept(rehearsal: Rehearsal) -> Path:
    return sum_file(rehearsal.me.home.runs / rehearsal.plan.run_id)


def report(rehearsal: Rehearsal) -> tuple[int, ...]:
    """Return the integers in the verified report that the daemon writes when the run ends."""
    give(rehearsal.daemon, RunEnded(rehearsal.plan.run_id, "completed", ""))
    written = rehearsal.me.home.runs / rehearsal.plan.run_id / "report.json"
    return verify_report(written.read_bytes()).report.measured


def test_the_sum_is_kept_and_stands_in_the_owners_report(rehearsal: Rehearsal) -> None:
    result = measured(rehearsal, lambda result: rehearsal.sums[-1])
    assert kept(rehearsal).read_bytes() == result.words.tobytes()
    assert report(rehearsal) == tuple(result.total())


LIES: dict[str, Callable[[Rehearsal, RoundResult], ContentRef]] = {
    "another sum": lambda world, result: world.serve((result.words + np.ones_like(result.words)).tobytes()),
    "a longer one": lambda world, result: world.serve(result.words.tobytes() + bytes(8)),
    "a shorter one": lambda world, result: world.serve(result.words.tobytes()[:-8]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_coordinator_that_sends_is_not_believed(
    lie: Callable[[Rehearsal, RoundResult], ContentRef], rehearsal: Rehearsal
) -> None:
    measured(rehearsal, lambda result: lie(rehearsal, result))
    assert not kept(rehearsal).exists()
    assert report(rehearsal) == ()


def test_what_was_kept_once_is_not_asked_for_again(rehearsal: Rehearsal) -> None:
    result = measured(rehearsal, lambda result: rehearsal.sums[-1])
    asked: list[str] = []
    rehearsal.me.link.before = asked.append
    give(rehearsal.daemon, RoundCompleted(rehearsal.plan.run_id, result.certificate, content(b"something else")))
    assert not [what for what in asked if "download" in what]
    assert kept(rehearsal).read_bytes() == result.words.tobytes()


def test_a_sum_of_a_run_that_trains_is_not_fetched(tmp_path: Path) -> None:
    training = Rehearsal(tmp_path / ME)
    training.propose()
    asked: list[str] = []
    training.me.link.before = asked.append
    measured(training, lambda result: training.sums[-1])
    assert not [what for what in asked if "download" in what]
    assert not kept(training).exists()


def test_the_hash_is_that_of_the_certificate(rehearsal: Rehearsal) -> None:
    result = measured(rehearsal, lambda result: rehearsal.sums[-1])
    assert sum_hash(kept(rehearsal).read_bytes()) == result.certificate.sum_hash
