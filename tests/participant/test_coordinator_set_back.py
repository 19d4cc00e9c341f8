"""A participant that is offered a round again shows the coordinator what it has forgotten, and tells its owner."""

from __future__ import annotations

from pathlib import Path

import pytest

from participant.daemon.status import read_status
from participant.home import certificate_file
from privacy.errors import PeerError, Phase
from privacy.secagg.hashes import genesis_transcript
from protos.envelope import RoundKnown
from tests.worlds.expect import expect
from tests.worlds.owner import give
from tests.worlds.rehearsal import ME, Rehearsal


@pytest.fixture
def set_back(tmp_path: Path) -> Rehearsal:
    """Two rounds are completed; the coordinator knows none of them any more, and offers the first again."""
    made = Rehearsal(tmp_path / ME)
    made.propose()
    made.round(1)
    made.round(2)
    made.me.link.take()
    made.world.completed.clear()
    made.world.transcript = genesis_transcript(made.world.plan.hash)
    made.open(1, 3)
    made.restart()
    return made


def said_in_status(made: Rehearsal) -> bool:
    status = read_status(made.me.home)
    assert status is not None
    return status.runs[made.plan.run_id].startswith("E-COORDINATOR-ROLLBACK: ")


def journal(made: Rehearsal) -> bytes:
    return (made.me.home.runs / made.plan.run_id / "journal").read_bytes()


def test_the_certificate_of_the_last_completed_round_is_shown_in_place_of_an_answer(
    set_back: Rehearsal,
) -> None:
    before, spent = journal(set_back), set_back.me.ledger().spent("patients")
    give(set_back.daemon, set_back.task())
    (shown,) = set_back.me.link.take()
    assert expect(RoundKnown, shown).certificate.position.round == 2
    assert journal(set_back) == before
    assert set_back.me.ledger().spent("patients") == spent


def test_a_daemon_that_saw_the_round_complete_shows_it_too(tmp_path: Path) -> None:
    """To it that attempt is over, and nothing that belongs to it is sent any more."""
    made = Rehearsal(tmp_path / ME)
    made.propose()
    made.round(1)
    made.me.link.take()
    made.world.completed.clear()
    made.world.transcript = genesis_transcript(made.world.plan.hash)
    made.open(1, 3)
    give(made.daemon, made.task())
    assert [type(said) for said in made.me.link.take()] == [RoundKnown]


def test_the_owners_status_says_so_until_a_task_of_the_run_is_answered(set_back: Rehearsal) -> None:
    give(set_back.daemon, set_back.task())
    status = read_status(set_back.me.home)
    assert status is not None
    said = status.runs[set_back.plan.run_id]
    assert said.startswith("E-COORDINATOR-ROLLBACK: ")
    assert "it offers round 1 again, but round 2 was completed" in said
    assert "restore a newer backup" in said
    set_back.daemon._status.note_run(set_back.plan.run_id, None)
    status = read_status(set_back.me.home)
    assert status is not None
    assert status.runs == {}


def test_a_coordinator_that_does_not_take_the_certificate_is_told_nothing_else(set_back: Rehearsal) -> None:
    def refused(what: str) -> None:
        if what == "RoundKnown":
            raise PeerError("E-ROUND-CONTEXT", participant=ME, phase=Phase.RESULT, rule="it is known here")

    set_back.me.link.before = refused
    give(set_back.daemon, set_back.task())
    assert set_back.me.link.take() == []
    assert said_in_status(set_back)


def test_a_lost_certificate_does_not_keep_the_round_from_being_refused(set_back: Rehearsal) -> None:
    certificate_file(set_back.me.home.runs / set_back.plan.run_id, 2).unlink()
    give(set_back.daemon, set_back.task())
    assert set_back.me.link.take() == []
    assert said_in_status(set_back)
