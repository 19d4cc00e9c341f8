"""A participant whose software speaks another protocol: refused with both versions, and back once it is upgraded.

No release has been tagged yet. Once one is, its wheel belongs here in place of a daemon that is told another version.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.database import member_rows
from host.system import SystemClock, SystemRandom
from participant.daemon import poller
from participant.daemon.joining import join
from participant.daemon.status import read_status
from participant.home import Home
from participant.link import delivery, identity
from privacy.draft import Recipe
from privacy.errors import PeerError
from privacy.plan import PROTOCOL_VERSION
from protos.envelope import Role
from tests.worlds.coordinator import initial_adapter
from tests.worlds.daemons import Member, Service, enrol, until
from tests.worlds.plans import make_plan

OLDER = PROTOCOL_VERSION - 1


@pytest.fixture
def recipe() -> Recipe:
    initial = hashlib.sha256(initial_adapter(12)).hexdigest()
    return make_plan(recipe={"adapter": {"initial_hash": initial}})[0].recipe


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "coordinator")
    yield running
    running.stop()


def refused(service: Service) -> list[tuple[str, str]]:
    with service.store.read() as connection:
        rows = member_rows.security_log(connection)
    return [(row.subject, row.detail) for row in rows if row.kind == "handshake-refused"]


@pytest.mark.parametrize("spoken", [OLDER, PROTOCOL_VERSION + 1])
def test_a_daemon_of_another_protocol_is_refused_with_both_versions_and_back_once_upgraded(
    tmp_path: Path, service: Service, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, spoken: int
) -> None:
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_SECONDS", 0.5)
    alice: Member = enrol(service, tmp_path / "alice", "alice", Role.PARTICIPANT, recipe)
    monkeypatch.setattr(poller, "PROTOCOL_VERSION", spoken)
    alice.start()
    home = Home(alice.directory)
    until(lambda: (seen := read_status(home)) is not None and seen.code == "E-VERSION", "the daemon is refused")
    status = read_status(home)
    assert status is not None
    assert f"alice speaks protocol version {spoken}, the other side version {PROTOCOL_VERSION}" in status.detail
    assert not status.connected
    assert "alice" not in service.live()
    assert ("alice", "E-VERSION") in refused(service)
    time.sleep(1)
    assert alice.thread is not None
    assert alice.thread.is_alive(), "it waits for its upgrade"
    monkeypatch.setattr(poller, "PROTOCOL_VERSION", PROTOCOL_VERSION)
    until(lambda: "alice" in service.live(), "the upgraded daemon is served")
    alice.end()


def test_an_enrolment_of_another_protocol_is_refused_and_spends_no_invitation(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    invitation = service.invite("alice", Role.PARTICIPANT)
    ledgers, clock, random = tmp_path / "ledgers", SystemClock(), SystemRandom()
    monkeypatch.setattr(identity, "PROTOCOL_VERSION", OLDER)
    with pytest.raises(PeerError) as raised:
        join(invitation, tmp_path / "alice", ledgers=ledgers, clock=clock, random=random)
    assert raised.value.code == "E-VERSION"
    monkeypatch.setattr(identity, "PROTOCOL_VERSION", PROTOCOL_VERSION)
    join(invitation, tmp_path / "alice", ledgers=ledgers, clock=clock, random=random)
