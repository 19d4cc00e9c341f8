"""What an owner is told of: runs that ended, a budget that is nearly spent, its certificate; each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.certificates import expires_at
from host.events.announcer import Told
from host.events.event import CERTIFICATE_SECONDS, Event
from participant.daemon.events import NEARLY, EventWatch
from participant.home import Home
from participant.opened import OpenHome, open_home
from participant.owner.plan_store import Ended
from participant.views.ledger import ledger_view
from tests.worlds.announced import Heard
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.federation import VirtualClock
from tests.worlds.owner import owned_plan
from tests.worlds.plans import CREATED_AT

MADE = authority()
PLAN = owned_plan(mode="distributed", privacy={"epsilon": "30"})


class Watched:
    """A participant whose events are kept."""

    def __init__(self, home: Home) -> None:
        self.opened: OpenHome = open_home(home.directory)
        told = Told(home.directory / "events.json")
        self.clock = VirtualClock()
        self.clock.seconds = float(CREATED_AT + 10)
        self.heard = Heard(told)
        self.watch = EventWatch(self.opened, self.heard, told, self.clock)

    def look(self) -> list[Event]:
        """Look once and return what is new."""
        self.heard.events.clear()
        self.watch.look()
        return list(self.heard.events)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    directory = enrol(tmp_path / "alice", MADE)
    equip(directory, MADE, PLAN)
    propose(directory, MADE, PLAN)
    return directory


@pytest.fixture
def watched(home: Home) -> Watched:
    return Watched(home)


def test_a_run_that_ended_is_told_once(watched: Watched) -> None:
    assert watched.look() == []
    watched.opened.review.plans.end(PLAN.run_id, Ended(state="aborted", code="E-RUN-ENDED", at=7))
    (event,) = watched.look()
    assert (event.kind, event.subject, event.at, event.reporter) == ("run-ended", PLAN.run_id, 7, "alice")
    assert watched.look() == []


def test_a_budget_that_approved_runs_nearly_use_up_is_told_once(home: Home, watched: Watched) -> None:
    assert watched.look() == []
    plenty = home.policy.read_text()
    watched.opened.review.approve(PLAN.run_id, who="Anna")
    lifetime = ledger_view(watched.opened).populations[0].lifetime
    assert lifetime is not None
    assert 0 < lifetime.promised < NEARLY * lifetime.budget.epsilon
    assert watched.look() == []
    less, order = round(1.04 * lifetime.promised, 2), lifetime.budget.order  # or another would be the best one
    home.policy.write_text(plenty.replace("lifetime_epsilon = 40", f"lifetime_epsilon = {less}\norder = {order}"))
    (event,) = watched.look()
    assert (event.kind, event.subject) == ("budget-low", "patients")
    assert f"epsilon {less:g}" in event.text
    assert watched.look() == []


def test_a_certificate_that_ends_within_two_weeks_is_told_once(home: Home, watched: Watched) -> None:
    assert watched.look() == []
    watched.clock.seconds = float(expires_at(open_home(home.directory).identity.certificate) - CERTIFICATE_SECONDS + 1)
    assert [(event.kind, event.subject) for event in watched.look()] == [("certificate-ends", "alice")]
    assert watched.look() == []
