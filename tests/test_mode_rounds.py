"""Every privacy mode through real rounds in memory: the sum is exactly what the survivors' trainers gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import methods
from coordinator.protocol.phases import RoundResult
from methods.coin import gathered
from methods.global_adapter import direction, next_state
from methods.optimizer import OptimizerState
from methods.vectors import Vector, joined, places
from participant.training.adapters.adapted import read_initial
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.gradients import GradientEngine
from participant.training.selfcheck import PER_EXAMPLE, SelfCheck
from participant.training.torch_trainer import TorchTrainer
from privacy.adapter_parts import Role
from privacy.draft import Draft
from privacy.errors import Phase
from privacy.plan import Plan
from privacy.secagg import hashes
from tests.worlds import task_world
from tests.worlds.federation import Fault, FaultKind, Federation
from tests.worlds.plans import verified
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import ROWS, World, make_world, plan_of

pytestmark = pytest.mark.torch

MEMBERS = 4
LOSS_FALLS_TO = 0.99  # of what it was, in two rounds, on images that nobody trained on (texts: on the rows themselves)
TEXT_LOSS_FALLS_TO = 0.995
SHORT_STEPS = "[optimizer]\nlearning_rate = 0.25\nhead_learning_rate = 0.25"
LITTLE_NOISE = 1000  # an epsilon that lets two rounds on a few rows show; no plan for people has it
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "none": ("image", ROWS, {"mode": "none"}),
    "local, by examples": ("image", ROWS, {"mode": "local"}),
    "local, by users": ("text", ROWS // 3, {"mode": "local", "unit": "user", "max_rows_per_user": 2}),
    "distributed, by examples": ("text", ROWS, {"mode": "distributed"}),
    "distributed, by users": ("text", ROWS // 3, {"mode": "distributed", "unit": "user", "max_rows_per_user": 2}),
    "distributed, by participants": ("image", ROWS, {"mode": "distributed-participant", "local_steps": 2}),
}
# Every method in every mode that it allows, on pictures where it can read them.
CASES |= {
    f"{method.name}, {mode}": ("text" if method.texts_only else "image", ROWS, {"method": method.name, "mode": mode})
    for method in methods.all_methods()
    for mode in method.modes
}
# Every kind of task in every mode.
CASES |= {
    f"{name}, {mode}": (name, ROWS, {"mode": mode})
    for name in task_world.CASES
    for mode in ("none", "local", "distributed", "distributed-participant")
}
OFTEN_TASKS = {(name, "none") for name in task_world.CASES} | {("masked-lm", "distributed")}
OFTEN_TASKS |= {("chats", mode) for mode in ("local", "distributed", "distributed-participant")}
SLOW_BY_EXAMPLE = {"fedkseed"}  # its self-check takes a forward pass for each direction, example by example
OFTEN = {"fedit", "ffa-lora", "ia3", "prompt", "rolora"}  # of each kind one: these run in all modes at every change
FAULTS = (
    [Fault("bob", Phase.COLLECT_MASKED, FaultKind.CRASH_AFTER_SEND), Fault("carol", Phase.UNMASK, FaultKind.TWICE)],
    [Fault("dave", Phase.COLLECT_MASKED, FaultKind.LOST)],
)


OUTCOMES: dict[tuple[str, str, str, str, bool], bool] = {}  # of self-checks


@pytest.fixture(autouse=True)
def one_self_check_for_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """All members check the same model with the same synthetic rows, by each example or not: once is enough."""
    run = SelfCheck.run

    def remembered(check: SelfCheck) -> bool:
        recipe, privacy = check.recipe, check.privacy
        task = recipe.task.model_dump_json()
        what = recipe.base.name, task, recipe.adapter.method, privacy.unit, privacy.mode in PER_EXAMPLE
        if what not in OUTCOMES:
            OUTCOMES[what] = run(check)
        return OUTCOMES[what]

    monkeypatch.setattr(SelfCheck, "run", remembered)


class Trained:
    """A federation whose members train in torch, and every update that they made."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.plan = plan
        self.federation = Federation(n=MEMBERS)
        self.federation.plan = verified(plan)
        self.federation.transcript = hashes.genesis_transcript(plan.hash)
        self.start = joined(plan.recipe, read_initial(world.initial, plan.recipe.adapter))
        self.state = OptimizerState.start(self.start)
        self.measured, self.released = world.measured(), FastEngine(world.adapted())
        self.updates: dict[tuple[str, int], np.ndarray] = {}
        self.trainers: dict[str, TorchTrainer] = {}
        self.kept: dict[str, Vector | None] = {}
        for name in self.federation.participants:
            one = self.federation.new_participant(name, 0)
            self.trainers[name] = world.trainer(SeededRandom(name), me=name, plan=plan)
            one.train = self._recorded(name, self.trainers[name])
            self.federation.participants[name] = one

    def advance(self, result: RoundResult) -> OptimizerState:
        """Take the step after a round; what stays at home counts where its update was in the sum."""
        before, self.state = self.state, next_state(self.plan, self.state, result.blocks(), result.survivors)
        total = np.concatenate([entries for _, entries in result.blocks()])
        way = direction(self.plan, self.state.round, total, result.survivors)
        step = methods.advance(self.plan.recipe, before, way)
        assert np.array_equal(self.state.iterate, step.iterate), "the step is the method's own"
        assert np.array_equal(self.state.average, step.average)
        self.kept |= {name: self.trainers[name].kept for name in result.survivors}
        return before

    @property
    def derived(self) -> set[int]:
        """Places in the state of what the coordinator computes."""
        ends = np.cumsum([stream.length for stream in self.plan.recipe.state])
        spans = zip(self.plan.recipe.state, ends, strict=True)
        return {place for part, end in spans if part.role is Role.DERIVED for place in range(end - part.length, end)}

    def loss(self, state: Vector) -> float:
        """Return the mean loss of what is released over the rows to measure on."""
        return self._loss(self.released, state)

    def loss_at_home(self, name: str) -> float:
        """Return the mean loss, over the same rows, of the adapter that a member has at home."""
        trainer = self.trainers[name]
        trainer.kept = self.kept.get(name)
        return self._loss(*trainer.own_model(self.state.iterate))

    def _loss(self, engine: GradientEngine, vector: Vector) -> float:
        engine.adapted.load(vector)
        with torch.no_grad():
            return float(engine.losses(self.measured).mean())

    def _recorded(self, name: str, trainer: Any) -> Any:
        def train(number: int) -> np.ndarray:
            assert (name, number) not in self.updates, "a round is trained once, whatever happens in it"
            trainer.kept = self.kept.get(name)
            self.updates[name, number] = trainer.train(number, self.state.iterate, lambda done, of: None)
            return self.updates[name, number]

        return train


def test_every_method_is_trained_in_each_of_its_modes() -> None:
    trained = {(recipe.get("method"), recipe["mode"]) for _, _, recipe in CASES.values()}
    assert {(method.name, mode) for method in methods.all_methods() for mode in method.modes} <= trained


def seldom(kind: str, recipe: dict[str, Any]) -> bool:
    """Return whether a case is left to `make test-all`: each method and task runs in one mode at every change."""
    if kind in task_world.CASES:
        return (kind, recipe["mode"]) not in OFTEN_TASKS
    if "method" not in recipe or recipe["method"] in OFTEN:
        return False
    method = methods.get(recipe["method"])
    by_example = "distributed" in method.modes and method.name not in SLOW_BY_EXAMPLE
    return bool(recipe["mode"] != ("distributed" if by_example else "none"))


@pytest.mark.parametrize(
    ("kind", "units", "recipe"),
    [pytest.param(*case, marks=[pytest.mark.slow] if seldom(case[0], case[2]) else []) for case in CASES.values()],
    ids=CASES.keys(),
)
def test_the_sum_is_exactly_that_of_the_survivors_updates(
    kind: str, units: int, recipe: dict[str, Any], tmp_path: Path
) -> None:
    if kind in task_world.CASES:
        world = task_world.task_world(tmp_path, kind, units=units, **recipe)
    else:
        noise = {} if recipe["mode"] == "none" else {"epsilon": LITTLE_NOISE}
        # A clipped step of length 1 leaps over what a tiny text model can learn.
        optimizer = SHORT_STEPS if kind == "text" and recipe["mode"] == "distributed" else ""
        world = make_world(tmp_path, kind, units=units, optimizer=optimizer, **noise, **recipe)
    draft = Draft.model_validate_json((world.directory / "draft" / "draft.json").read_bytes())
    run = Trained(world, plan_of(draft, n=MEMBERS, units=units))
    for number, faults in enumerate(FAULTS, start=1):
        result = run.federation.run_round(faults)
        lost = {fault.participant for fault in faults if fault.kind is FaultKind.LOST}
        assert set(result.survivors) == set(run.federation.participants) - lost
        total = result.total()
        assert np.array_equal(total, sum(run.updates[name, number] for name in result.survivors))
        before = run.advance(result)
        assert np.isfinite(run.state.iterate).all()
        moved = np.flatnonzero(run.state.iterate != before.iterate)
        trained = places(run.plan.recipe, run.plan.recipe.turn(number))[gathered(run.plan.recipe, number)]
        assert moved.size
        ends_opening = number == run.plan.recipe.schedule.opening_rounds
        assert ends_opening or set(moved) <= {*trained, *run.derived}, "what does not train stays as it is"
        assert total.size == run.plan.recipe.turn(number).entries
    if kind in task_world.CASES and recipe["mode"] != "none":
        return  # that it learns under noise takes more than two rounds of a few rows
    falls_to = TEXT_LOSS_FALLS_TO if kind == "text" else LOSS_FALLS_TO
    assert run.loss(run.state.iterate) < falls_to * run.loss(run.start)
    if methods.get(run.plan.recipe.adapter.method).home:
        assert run.loss_at_home("alice") < LOSS_FALLS_TO * run.loss(run.start)
