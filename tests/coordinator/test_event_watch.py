"""What an operator is told of: runs that ended, members that are lost, certificates that end; each once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.config import parse_settings, settings_template
from coordinator.database import lease_rows, run_rows
from coordinator.database.run_rows import RunState
from coordinator.enrolment.authority import save_authority
from coordinator.events.watch import EventWatch
from coordinator.opened import OpenHome
from host.certificates import expires_at
from host.events.announcer import Told
from host.events.event import CERTIFICATE_SECONDS, Event
from privacy.errors import LocalError
from tests.worlds.announced import Heard
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.postgres import Server

EVERYBODY = frozenset({"alice", "bob", "carol"})


class Watched:
    """A coordinator whose events are kept."""

    def __init__(self, directory: Path, database: str = "sqlite:///coordinator.db") -> None:
        self.world = World(directory, database=database)
        save_authority(self.world.home.authority, self.world.authority)
        self.opened = OpenHome(self.world.home, self.world.settings, self.world.store)
        self.told = Told(directory / "events.json")
        self.heard = Heard(self.told)
        self.watch = EventWatch(self.opened, self.heard, self.told, clock=self.world.clock)

    def look(self, live: frozenset[str] = EVERYBODY) -> list[Event]:
        """Look once and return what is new."""
        self.heard.events.clear()
        self.watch.look(live)
        return list(self.heard.events)

    def set_state(self, state: RunState, code: str = "", reason: str = "") -> None:
        """Move the run on."""
        now = int(self.world.clock.now())
        with self.world.store.begin() as connection:
            run_rows.set_run_state(connection, RUN_ID, state, now=now, code=code, reason=reason)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_run_that_ended_is_told_once_and_without_the_words_of_others(watched: Watched) -> None:
    assert watched.look() == []
    watched.set_state(RunState.REFUSED, "E-POLICY-REFUSED", "alice: a free text of hers")
    (event,) = watched.look()
    assert (event.kind, event.subject) == ("run-ended", RUN_ID)
    assert "E-POLICY-REFUSED" in event.text
    assert "free text" not in event.text
    assert watched.look() == []


def test_what_ended_before_anybody_wanted_to_know_is_no_news(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.set_state(RunState.COMPLETED)
    assert watched.look() == []
    assert json.loads((tmp_path / "events.json").read_text()) == [f"run-ended {RUN_ID}"]


def test_a_run_that_is_held_waits_for_its_operator(watched: Watched) -> None:
    watched.set_state(RunState.RUNNING)
    watched.look()
    with watched.world.store.begin() as connection:
        run_rows.hold(connection, RUN_ID, code="E-COORDINATOR-ROLLBACK", reason="bob says so", now=1)
    (event,) = watched.look()
    assert (event.kind, event.subject) == ("run-held", RUN_ID)
    assert watched.look() == []


def test_a_member_that_a_run_needs_is_lost_once_until_it_was_there_again(watched: Watched) -> None:
    lost = watched.opened.settings.events.lost_seconds
    watched.set_state(RunState.RUNNING)
    assert watched.look() == []
    watched.world.clock.seconds += lost - 1
    assert watched.look(EVERYBODY - {"bob"}) == []
    watched.world.clock.seconds += 1
    (event,) = watched.look(EVERYBODY - {"bob"})
    assert (event.kind, event.subject) == ("member-lost", "bob")
    watched.world.clock.seconds += lost
    assert watched.look(EVERYBODY - {"bob"}) == []
    assert watched.look() == []
    watched.world.clock.seconds += lost
    assert [event.subject for event in watched.look(EVERYBODY - {"bob"})] == ["bob"]


def test_nobody_is_missed_by_a_run_that_is_paused_or_over(watched: Watched) -> None:
    watched.set_state(RunState.RUNNING)
    watched.look()
    with watched.world.store.begin() as connection:
        run_rows.set_paused(connection, RUN_ID, paused=True)
    watched.world.clock.seconds += 10_000
    assert watched.look(frozenset()) == []


def test_of_several_coordinators_the_one_that_leads_a_run_or_led_it_last_tells_of_it(
    tmp_path: Path, postgres: Server
) -> None:
    watched = Watched(tmp_path, postgres.database())
    own, store = watched.opened.settings.participants.address, watched.world.store
    lost = watched.opened.settings.events.lost_seconds
    watched.set_state(RunState.RUNNING)
    with store.begin() as connection:
        led = lease_rows.take(connection, RUN_ID, holder="b" * 32, address="sum-b.example.org:1", seconds=60)
        lease_rows.renew(connection, [led], seconds=60, live={RUN_ID: ["alice", "bob"]})
    assert watched.look(frozenset()) == []
    watched.world.clock.seconds += lost
    assert watched.look(frozenset()) == []
    with store.begin() as connection:
        run_rows.hold(connection, RUN_ID, code="E-COORDINATOR-ROLLBACK", reason="", now=1)
    assert watched.look(frozenset()) == []
    with store.begin() as connection:
        lease_rows.take(connection, RUN_ID, holder="a" * 32, address=own, seconds=60)
    assert [event.kind for event in watched.look(frozenset())] == ["run-held"]
    with store.begin() as connection:
        run_rows.set_paused(connection, RUN_ID, paused=False)
    assert [event.subject for event in watched.look(frozenset())] == ["carol"]  # the others polled its leader just now
    watched.set_state(RunState.COMPLETED)
    with store.begin() as connection:
        lease_rows.take(connection, RUN_ID, holder="b" * 32, address="sum-b.example.org:1", seconds=-1)
    assert watched.look() == []
    with store.begin() as connection:
        lease_rows.take(connection, RUN_ID, holder="a" * 32, address=own, seconds=-1)
    assert [event.kind for event in watched.look()] == ["run-ended"]
    store.close()


def test_certificates_that_end_within_two_weeks_are_told(watched: Watched) -> None:
    assert watched.look() == []
    ends = expires_at(watched.world.authority.server_certificate)
    watched.world.clock.seconds = float(ends - CERTIFICATE_SECONDS + 1)
    told = {event.subject: event for event in watched.look()}
    assert told["the service"].kind == "certificate-ends"
    assert "ends at" in told["the service"].text
    watched.world.clock.seconds += 7200
    assert watched.look() == []


def test_the_configuration_shows_how_and_refuses_what_would_travel_in_the_clear() -> None:
    text = settings_template(
        federation="clinics", operator="I", also=[], participants="localhost:8443", enrolment="localhost:8444"
    )
    assert not parse_settings(text).events.wanted
    assert parse_settings(f'{text}\n[events]\nwebhook = "https://hooks.example.org/x"\n').events.wanted
    with pytest.raises(LocalError) as refused:
        parse_settings(f'{text}\n[events]\nwebhook = "http://hooks.example.org/x"\n')
    assert refused.value.code == "E-CONFIG-INVALID"
