"""Approved plans that a disk keeps from being prepared: they wait a little, and are turned down if it lasts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from participant.owner.plan_store import Decision
from participant.runs.plan_decisions import DISK_SECONDS, RECONSIDER_SECONDS, PlanDecisions
from privacy.errors import LocalError, OnlysumError
from protos.envelope import PlanApproved, PlanRefused, Role
from tests.worlds.federation import VirtualClock

RUN = "ab" * 16


class World:
    """What plans are decided with, in memory; one plan is approved."""

    def __init__(self) -> None:
        self.clock, self.sent = VirtualClock(), list[Any]()
        self.problems: list[OnlysumError | None] = []
        self.decided = Decision(
            verdict="approved", plan_hash="00" * 32, who="owner", at=1, by="policy", signature="cd" * 64
        )
        plans = SimpleNamespace(
            decision=lambda _: self.decided, get=lambda _: SimpleNamespace(hash=bytes(32)), decide=self._decide
        )
        sender = SimpleNamespace(submit=self.sent.append)
        work: Any = SimpleNamespace(review=SimpleNamespace(plans=plans), clock=self.clock, sender=sender)
        runs: Any = SimpleNamespace(refused=list, leave=lambda _: None, problem=lambda _: self.problems.pop(0))
        self.clerk = PlanDecisions(work, Role.PARTICIPANT, runs)

    def _decide(self, _run_id: str, decision: Decision) -> None:
        self.decided = decision

    def look(self, seconds: float) -> None:
        """Let time pass, and look at what waits once a second."""
        for _ in range(int(seconds)):
            self.clock.seconds += 1
            self.clerk.reconsider()


@pytest.mark.parametrize("code", ["E-DISK-FULL", "E-DISK-FAILED", "E-DISK-READONLY"])
def test_a_plan_that_the_disk_did_not_take_for_a_moment_is_approved_a_little_later(code: str) -> None:
    world = World()
    world.problems = [LocalError(code, "journal"), None]
    world.clerk.answer(RUN)
    assert world.sent == []
    world.look(RECONSIDER_SECONDS - 1)
    assert world.sent == []
    world.look(1)
    (answer,) = world.sent
    assert isinstance(answer, PlanApproved)
    world.look(2 * RECONSIDER_SECONDS)
    assert world.sent == [answer]


def test_a_plan_is_turned_down_where_the_disk_refuses_for_long() -> None:
    world = World()
    world.problems = [LocalError("E-DISK-FULL", "journal")] * 10
    world.clerk.answer(RUN)
    world.look(DISK_SECONDS + RECONSIDER_SECONDS)
    (answer,) = world.sent
    assert isinstance(answer, PlanRefused)
    assert answer.code == "E-DISK-FULL"
    assert len(world.problems) == 10 - 3


def test_a_plan_is_turned_down_at_once_for_any_other_problem() -> None:
    world = World()
    world.problems = [LocalError("E-SELF-CHECK", "rows")]
    world.clerk.answer(RUN)
    (answer,) = world.sent
    assert isinstance(answer, PlanRefused)
    assert answer.code == "E-SELF-CHECK"
