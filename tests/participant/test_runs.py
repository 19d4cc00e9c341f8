"""Which runs a daemon takes part in: what was approved, with what is registered here, and none that is too old."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from participant.owner.plan_store import Ended
from participant.runs.context import DaemonContext, TrainingJob
from participant.runs.open_runs import NotApproved, Runs
from participant.runs.participation import Participation
from privacy.errors import LocalError, OnlysumError, PeerError, RefusedError
from privacy.heads import HeadsShown, JournalHead, Moment
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import Position
from protos.envelope import LedgerHead, Role, Welcome
from tests.worlds.owner import owned_plan, policy_text
from tests.worlds.plans import sign_plan, signing_key
from tests.worlds.rehearsal import Rehearsal

ME = "alice"
AT_NO_TIME = 'hours = "03:00-03:01"'


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path / ME)
    made.propose()
    return made


def runs_of(rehearsal: Rehearsal, role: Role = Role.PARTICIPANT) -> Runs:
    """The runs of a daemon that has just been started."""
    runs: Runs = rehearsal.me.daemon(role)._runs
    return runs


def decided(rehearsal: Rehearsal, **changes: Any) -> None:
    """Write another decision in place of the one that is there, as nobody but the disk would."""
    plans = rehearsal.me.review().plans
    before = plans.decision(rehearsal.plan.run_id)
    assert before is not None
    path = plans.directory(rehearsal.plan.run_id) / "decision.json"
    path.write_text(before.model_copy(update=changes).model_dump_json())


def refusal(rehearsal: Rehearsal) -> OnlysumError:
    with pytest.raises(OnlysumError) as refused:
        runs_of(rehearsal).job(rehearsal.plan.run_id)
    return refused.value


def test_an_approved_plan_with_its_model_and_dataset_is_an_assignment(rehearsal: Rehearsal) -> None:
    job = runs_of(rehearsal).job(rehearsal.plan.run_id)
    assert job.verified.plan == rehearsal.plan
    assert (job.me, job.dataset.name) == (ME, "digits")
    assert job.model.files == rehearsal.plan.recipe.base.files


def test_a_plan_that_was_refused_after_all_is_not_taken_part_in(rehearsal: Rehearsal) -> None:
    decided(rehearsal, verdict="refused")
    assert isinstance(refusal(rehearsal), NotApproved)
    assert runs_of(rehearsal).going_on() == []


def test_an_approval_without_a_dataset_trains_on_none(rehearsal: Rehearsal) -> None:
    decided(rehearsal, dataset=None)
    assert isinstance(refusal(rehearsal), NotApproved)


def test_an_approval_of_another_plan_does_not_count_for_the_one_that_lies_there(rehearsal: Rehearsal) -> None:
    decided(rehearsal, plan_hash="00" * 32)
    error = refusal(rehearsal)
    assert isinstance(error, RefusedError)
    assert error.code == "E-PLAN-CHANGED"


def test_a_base_model_that_is_not_registered_any_more_is_named(rehearsal: Rehearsal) -> None:
    for path in rehearsal.me.home.models.iterdir():
        path.unlink()
    error = refusal(rehearsal)
    assert isinstance(error, LocalError)
    assert error.code == "E-MODEL-HASH"
    assert rehearsal.plan.recipe.base.name in error.detail


# --- what was signed before ---


def signed_elsewhere(rehearsal: Rehearsal, plan_hash: bytes) -> HeadsShown:
    """Heads that this member has shown of a plan's run, of a journal that is not here."""
    ledger = rehearsal.me.ledger().head()
    unsigned = HeadsShown(Position(plan_hash, 1, 1), ME, Moment.UPLOAD, JournalHead(3, b"\1" * 32), ledger)
    return replace(unsigned, signature=signing_key(ME).sign(unsigned.signed_bytes(PROTOCOL_VERSION)))


def test_a_plan_that_is_approved_again_after_it_was_lost_with_what_was_signed_for_it_stays_out(
    rehearsal: Rehearsal,
) -> None:
    """The directory was restored from before the approval; the coordinator remembers more."""
    path = rehearsal.me.review().plans.directory(rehearsal.plan.run_id) / "decision.json"
    kept = path.read_bytes()
    path.unlink()
    runs = runs_of(rehearsal)
    last = signed_elsewhere(rehearsal, rehearsal.world.plan.hash)
    runs.compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, bytes(32)), (last,), ()))
    path.write_bytes(kept)
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        runs.part(rehearsal.plan.run_id)
    rehearsal.restart()
    rehearsal.open()
    with pytest.raises(PeerError, match=r"refused before \(E-LEDGER-ROLLBACK\)"):
        rehearsal.daemon._runs.part(rehearsal.plan.run_id).handle(rehearsal.task())


def test_what_was_signed_for_another_plan_keeps_nobody_out_of_this_one(rehearsal: Rehearsal) -> None:
    runs = runs_of(rehearsal)
    last = signed_elsewhere(rehearsal, b"\7" * 32)
    runs.compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, bytes(32)), (last,), ()))
    assert runs.part(rehearsal.plan.run_id).highest == (0, 0)


def test_runs_that_are_closed_are_named_for_their_owner(rehearsal: Rehearsal) -> None:
    runs = runs_of(rehearsal)
    assert runs.closed() == []
    last = signed_elsewhere(rehearsal, rehearsal.world.plan.hash)
    with capture_logs() as logs:
        runs.compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, b""), (last,), ()))
    assert runs.closed() == [rehearsal.plan.run_id]
    assert [log["code"] for log in logs] == ["E-LEDGER-ROLLBACK"], "a coordinator that saw no ledger is no liar"


def test_a_run_that_ended_here_is_not_compared_any_more(rehearsal: Rehearsal) -> None:
    run_id = rehearsal.plan.run_id
    rehearsal.me.review().plans.end(run_id, Ended(state="completed", code="", at=1))
    runs = runs_of(rehearsal)
    last = signed_elsewhere(rehearsal, rehearsal.world.plan.hash)
    runs.compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, b""), (last,), ()))
    assert not (rehearsal.me.home.runs / run_id / "journal").exists()
    assert runs.going_on() == runs.refused() == runs.closed() == []
    assert runs.part(run_id).highest == (0, 0)


def test_a_part_that_is_taken_already_ends_when_its_journal_is_found_out(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    rehearsal.phase()
    runs = rehearsal.daemon._runs
    part = runs.part(rehearsal.plan.run_id)
    assert part.round_in_progress
    last = signed_elsewhere(rehearsal, rehearsal.world.plan.hash)
    runs.compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, b""), (last,), ()))
    assert not part.round_in_progress
    assert part.journal.memory.refused == "E-LEDGER-ROLLBACK"
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        runs.part(rehearsal.plan.run_id)


UNREADABLE = {
    "its journal is damaged": "runs/{run_id}/journal",
    "its plan was changed": "plans/{run_id}/plan.json",
    "its decision does not parse": "plans/{run_id}/decision.json",
    "nobody knows how it ended": "plans/{run_id}/ended.json",
}


@pytest.mark.parametrize("file", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_run_that_cannot_be_opened_switches_the_comparison_of_no_other_run_off(
    rehearsal: Rehearsal, file: str
) -> None:
    plans, other = rehearsal.me.review().plans, owned_plan(run_id="ff" * 16)
    plans.put(other.to_bytes(), sign_plan(other))
    before = plans.decision(rehearsal.plan.run_id)
    assert before is not None
    plans.decide(other.run_id, before.model_copy(update={"plan_hash": other.hash.hex()}))
    broken = rehearsal.me.home.directory / file.format(run_id=other.run_id)
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"neither this nor that\n")
    runs = runs_of(rehearsal)
    last = tuple(signed_elsewhere(rehearsal, plan_hash) for plan_hash in (other.hash, rehearsal.world.plan.hash))
    runs.prepare_all()
    assert not runs.is_idle()
    runs.compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, bytes(32)), last, ()))
    with pytest.raises(OnlysumError):
        runs.part(other.run_id)
    rehearsal.open()
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        runs.part(rehearsal.plan.run_id).handle(rehearsal.task())


def test_a_run_is_compared_also_where_its_model_is_missing(rehearsal: Rehearsal) -> None:
    runs = runs_of(rehearsal)
    (model,) = rehearsal.me.home.models.iterdir()
    kept = model.read_bytes()
    model.unlink()
    last = signed_elsewhere(rehearsal, rehearsal.world.plan.hash)
    runs.compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, bytes(32)), (last,), ()))
    model.write_bytes(kept)
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        runs.part(rehearsal.plan.run_id)


# --- resting, and being ready ---


def at_no_time(rehearsal: Rehearsal) -> None:
    rehearsal.me.write_policy(policy_text(wards=AT_NO_TIME))


def test_a_participant_rests_outside_the_hours_of_its_datasets_and_an_evaluator_does_not(
    rehearsal: Rehearsal,
) -> None:
    assert not runs_of(rehearsal).is_idle()
    at_no_time(rehearsal)
    assert runs_of(rehearsal).is_idle()
    assert not runs_of(rehearsal, Role.EVALUATOR).is_idle()


def test_a_run_without_a_dataset_neither_lets_rest_nor_keeps_from_it(rehearsal: Rehearsal) -> None:
    at_no_time(rehearsal)
    decided(rehearsal, dataset=None)
    assert not runs_of(rehearsal).is_idle(), "no dataset is asked for, so that no hours are kept"


def test_a_dataset_whose_section_was_taken_out_of_the_policy_keeps_no_hours(rehearsal: Rehearsal) -> None:
    at_no_time(rehearsal)
    rehearsal.me.write_policy(policy_text(wards=AT_NO_TIME).replace("[dataset.digits]", "[dataset.letters]"))
    assert not runs_of(rehearsal).is_idle(), "its next task says what is wrong"


def test_a_run_without_a_dataset_does_not_keep_another_from_resting(rehearsal: Rehearsal) -> None:
    at_no_time(rehearsal)
    plans, other = rehearsal.me.review().plans, owned_plan(run_id="ff" * 16)
    plans.put(other.to_bytes(), sign_plan(other))
    before = plans.decision(rehearsal.plan.run_id)
    assert before is not None
    plans.decide(other.run_id, before.model_copy(update={"dataset": None, "plan_hash": other.hash.hex()}))
    assert len(runs_of(rehearsal).going_on()) == 2
    assert runs_of(rehearsal).is_idle()


def test_what_keeps_a_participant_from_training_keeps_no_evaluator_from_measuring(rehearsal: Rehearsal) -> None:
    run_id = rehearsal.plan.run_id
    assert runs_of(rehearsal).problem(run_id) is None
    for path in rehearsal.me.home.models.iterdir():
        path.unlink()
    found = runs_of(rehearsal).problem(run_id)
    assert found is not None
    assert found.code == "E-MODEL-HASH"
    assert runs_of(rehearsal, Role.EVALUATOR).problem(run_id) is None


def test_a_part_is_opened_once(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, opened = runs_of(rehearsal), list[str]()

    def counting(work: DaemonContext, job: TrainingJob) -> Participation:
        opened.append(job.verified.plan.run_id)
        return Participation(work, job)

    monkeypatch.setattr("participant.runs.open_runs.Participation", counting)
    run_id = rehearsal.plan.run_id
    assert runs.part(run_id) is runs.part(run_id)
    assert opened == [run_id], "its journal is read and locked once"
