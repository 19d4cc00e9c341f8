"""Several runs at once on one federation: they take turns, oldest first, and a paused one keeps nobody waiting."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coordinator import orders
from coordinator.database import attempt_rows
from coordinator.database.run_rows import RunState
from coordinator.database.turn_rows import STALLED_SECONDS, Contender
from coordinator.opened import OpenHome
from coordinator.runs import creation
from coordinator.runs.thresholds import Requested
from coordinator.views.overview import overview
from host.system import SystemRandom
from privacy.plan import Plan
from protos.envelope import Role
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import Member, Service, draft, enrol, until
from tests.worlds.plans import make_plan, names

ENTRIES = 12
TRAINING_SECONDS = 0.2  # of a round: long enough for another run to come in between, if it could


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "coordinator")
    yield running
    running.stop()


@pytest.fixture
def drafted(tmp_path: Path, service: Service) -> Iterator[Path]:
    """Four enrolled participants that poll, and a draft for them."""
    initial = hashlib.sha256(initial_adapter(ENTRIES)).hexdigest()
    recipe = make_plan(entries=ENTRIES, recipe={"adapter": {"initial_hash": initial}})[0].recipe
    members: list[Member] = []
    for name in names(4):
        member = enrol(service, tmp_path / name, name, Role.PARTICIPANT, recipe)
        member.on_training = lambda number: time.sleep(TRAINING_SECONDS)
        member.start()
        members.append(member)
    until(lambda: service.live() == frozenset(names(4)), "everybody polls")
    yield draft(tmp_path / "draft", recipe, initial_adapter(ENTRIES))
    for member in members:
        member.end()


def create(service: Service, drafted: Path, *, members: Sequence[str], age: int) -> Plan:
    """Create a run that is so many seconds old."""
    now = int(time.time()) - age
    request = creation.RunRequest(members=members, tolerance=Requested(f=1), created_at=now, expires_at=now + 3600)
    plan = creation.make_plan(
        service.store, service.settings, creation.read_draft(drafted), request, random=SystemRandom()
    )
    creation.register(service.store, service.home, service.authority.operator, plan, drafted)
    return plan


def spans(service: Service, plan: Plan) -> list[tuple[str, int]]:
    """Return each attempt's state, in order, with its round."""
    with service.store.read() as connection:
        return [(one.state, one.round) for one in attempt_rows.list_attempts(connection, plan.run_id)]


def overlapping(service: Service, first: Plan, second: Plan) -> bool:
    """Return whether two runs have an attempt open at this moment."""
    with service.store.read() as connection:
        runs = [attempt_rows.list_attempts(connection, plan.run_id) for plan in (first, second)]
    return all(any(one.state == "open" for one in attempts) for attempts in runs)


def test_two_runs_with_the_same_participants_take_turns_and_both_complete(service: Service, drafted: Path) -> None:
    older = create(service, drafted, members=names(4), age=5)
    younger = create(service, drafted, members=names(4)[1:], age=0)
    both = {older.run_id, younger.run_id}
    met = []

    def over() -> bool:
        met.append(overlapping(service, older, younger))
        return {run_id for run_id in both if service.state(run_id) == "completed"} == both

    until(over, "both complete")
    assert not any(met)
    for plan in (older, younger):
        assert spans(service, plan) == [("completed", number) for number in range(1, plan.recipe.rounds + 1)]
    last, first = service.rounds(older.run_id)[-1], service.rounds(younger.run_id)[0]
    assert last.completed_at <= first.completed_at


def test_a_run_that_is_paused_lets_a_younger_one_go_on(service: Service, drafted: Path) -> None:
    older = create(service, drafted, members=names(4), age=5)
    orders.set_paused(service.store, older.run_id, paused=True)
    younger = create(service, drafted, members=names(4), age=0)
    until(lambda: service.state(younger.run_id) == "completed", "the younger one completes")
    assert service.rounds(older.run_id) == ()
    orders.set_paused(service.store, older.run_id, paused=False)
    until(lambda: service.state(older.run_id) == "completed", "then the older one")


def test_a_run_that_waits_says_for_which(service: Service, drafted: Path) -> None:
    older = create(service, drafted, members=names(4), age=5)
    younger = create(service, drafted, members=names(4), age=0)
    opened = OpenHome(service.home, service.settings, service.store)

    def waits() -> bool:
        current = overview(opened, younger.run_id)
        return current.run.state is RunState.RUNNING and current.waits_for == older.run_id

    until(waits, "the younger one waits")
    until(lambda: service.state(younger.run_id) == "completed", "it gets its turn")
    assert overview(opened, younger.run_id).waits_for == ""


AT = 1000
TURNS: dict[str, tuple[Contender, bool]] = {
    "an older one between two rounds": (Contender("a", (1, "a"), False, False, AT - 1), True),
    "an older one that got stuck": (Contender("a", (1, "a"), False, False, AT - STALLED_SECONDS - 1), False),
    "an older one that is paused": (Contender("a", (1, "a"), True, False, AT - 1), False),
    "an older one that is paused in a round": (Contender("a", (1, "a"), True, True, AT - 1), True),
    "a younger one between two rounds": (Contender("c", (3, "c"), False, False, AT - 1), False),
    "a younger one while it has a round open": (Contender("c", (3, "c"), False, True, AT - 500), True),
    "one of the same second, by its id": (Contender("a", (2, "a"), False, False, AT), True),
}


@pytest.mark.parametrize("which", TURNS)
def test_a_run_waits_for_another(which: str) -> None:
    other, waits = TURNS[which]
    assert other.has_turn((2, "b"), AT, stalled=STALLED_SECONDS) is waits
