"""An owner may take an approval back at any time: the coordinator is told, and nothing more is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.errors import PeerError, Phase
from protos.envelope import Abstained, PlanApproved, PlanRefused
from tests.worlds.owner import give, policy_text
from tests.worlds.rehearsal import ME, Rehearsal


@pytest.fixture
def approved(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path / ME, policy=policy_text(approval="by-hand"))
    made.propose()
    made.me.review().approve(made.plan.run_id, who="Anna Meier")
    made.daemon._clerk.reconsider()
    assert [type(one) for one in made.me.link.take()] == [PlanApproved]
    return made


def refuse(made: Rehearsal) -> None:
    made.me.review().refuse(made.plan.run_id, because="not any more", who="Anna Meier")


def test_a_refusal_after_an_approval_is_sent_once(approved: Rehearsal) -> None:
    refuse(approved)
    approved.daemon._clerk.reconsider()
    approved.daemon._clerk.reconsider()
    (refused,) = approved.me.link.take()
    assert isinstance(refused, PlanRefused)
    assert (refused.code, refused.because) == ("E-POLICY-REFUSED", "not any more")


def test_a_refusal_that_was_written_while_the_daemon_was_off_is_sent_at_its_start(approved: Rehearsal) -> None:
    refuse(approved)
    approved.restart()
    approved.daemon._clerk.reconsider()
    assert [type(one) for one in approved.me.link.take()] == [PlanRefused]


def test_a_coordinator_that_does_not_know_the_run_any_more_is_asked_once(approved: Rehearsal) -> None:
    refuse(approved)

    def unknown(what: str) -> None:
        raise PeerError("E-WIRE-UNEXPECTED", participant=ME, phase=Phase.PLAN, rule="no run of this member has this id")

    approved.me.link.before = unknown
    approved.daemon._clerk.reconsider()
    approved.me.link.before = lambda what: None
    approved.daemon._clerk.reconsider()
    assert approved.me.link.take() == []


def test_a_refusal_is_told_although_the_coordinator_did_not_take_the_approval(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(approval="by-hand"))
    made.propose()
    made.me.review().approve(made.plan.run_id, who="Anna Meier")

    def not_now(what: str) -> None:
        raise PeerError("E-WIRE-UNEXPECTED", participant=ME, phase=Phase.PLAN, rule="no answer is expected now")

    made.me.link.before = not_now
    made.daemon._clerk.reconsider()
    made.me.link.before = lambda what: None
    refuse(made)
    made.daemon._clerk.reconsider()
    assert [type(one) for one in made.me.link.take()] == [PlanRefused]


def test_no_attempt_is_answered_after_the_approval_was_taken_back(approved: Rehearsal) -> None:
    approved.open()
    approved.phase()
    refuse(approved)
    assert approved.due_task() is not None
    approved.ask_me()  # the daemon has not noticed yet: what is under way is not begun anew
    approved.daemon._clerk.reconsider()
    assert [type(one) for one in approved.me.link.take()] == [PlanRefused]
    before = approved.me.ledger().spent("patients")
    approved.open(attempt=2)
    approved.ask_me()
    assert approved.me.link.take() == []
    assert approved.me.ledger().spent("patients") == before


def test_an_attempt_that_opens_before_the_daemon_has_noticed_is_abstained_from(approved: Rehearsal) -> None:
    refuse(approved)
    approved.open()
    give(approved.daemon, approved.task())
    (abstained,) = approved.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-POLICY-REFUSED"
    assert not (approved.me.home.runs / approved.plan.run_id / "journal").exists()


def test_a_refusal_during_the_self_check_wins_over_the_approval(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(approval="by-hand"))
    made.propose()
    made.me.review().approve(made.plan.run_id, who="Anna Meier")

    made.me.on_prepare = lambda: refuse(made)
    made.daemon._clerk.reconsider()
    assert [type(one) for one in made.me.link.take()] == [PlanRefused]
