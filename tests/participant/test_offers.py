"""What a daemon trains from, what it sends again, and when it may say that it takes no part."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from participant.owner.plan_store import Ended
from participant.runs import journal as journal_module
from participant.runs import plan_decisions
from participant.runs.plan_decisions import largest_initial
from privacy.errors import LocalError, OnlysumError, PeerError, Phase
from protos.envelope import Abstained, AttemptOpened, ContentRef, KeysAdvertised, PlanProposed, SharesDealt
from tests.worlds.expect import expect
from tests.worlds.owner import INITIAL_ADAPTER, content, give
from tests.worlds.plans import sign_plan
from tests.worlds.rehearsal import ME, Rehearsal, heads_with


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path / ME)
    made.propose()
    return made


def offered(rehearsal: Rehearsal, number: int, **changes: Any) -> OnlysumError:
    """Return the refusal of an honest offer of which something was changed."""
    rehearsal.open(number)
    task = expect(AttemptOpened, rehearsal.task())
    with pytest.raises(OnlysumError) as refused:
        rehearsal.part.handle(replace(task, **changes))
    assert rehearsal.me.link.take() == []
    assert rehearsal.part.highest < (number, 1)
    return refused.value


def refused_as_context(error: OnlysumError, words: str) -> None:
    assert isinstance(error, PeerError)
    assert (error.code, error.participant, error.phase) == ("E-ROUND-CONTEXT", "coordinator", "ADVERTISE_KEYS")
    assert words in error.rule


# --- the global adapter ---


def test_an_initial_adapter_that_was_changed_on_disk_is_not_compared_with(rehearsal: Rehearsal) -> None:
    kept = rehearsal.part._job.initial_adapter
    kept.write_bytes(kept.read_bytes() + b"\0")
    error = offered(rehearsal, 1)
    assert isinstance(error, LocalError)
    assert error.code == "E-ADAPTER-HASH"


def test_malicious_initial_adapter_larger_than_the_plans_tensors_is_refused_before_it_is_downloaded(
    tmp_path: Path,
) -> None:
    made = Rehearsal(tmp_path / ME)
    plan = made.plan
    limit = largest_initial(plan.recipe.adapter.tensors)
    assert len(INITIAL_ADAPTER) <= limit < len(INITIAL_ADAPTER) + 2**18
    downloads: list[str] = []
    made.me.link.before = downloads.append
    large = ContentRef(content(INITIAL_ADAPTER).sha256, limit + 1)
    proposed = PlanProposed(plan.run_id, plan.to_bytes(), sign_plan(plan), large)
    give(made.daemon, proposed)
    assert downloads == []
    assert not made.daemon._work.review.plans.initial_adapter(plan.run_id).exists()
    give(made.daemon, replace(proposed, initial_adapter=content(INITIAL_ADAPTER)))
    assert made.daemon._work.review.plans.initial_adapter(plan.run_id).exists()


def test_malicious_flood_of_plans_is_refused_before_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_decisions, "MAX_OPEN_RUNS", 2)
    made = Rehearsal(tmp_path / ME)
    plans = made.daemon._work.review.plans

    def propose(number: int) -> None:
        plan = made.plan.model_copy(update={"run_id": f"{number:032x}"})
        give(made.daemon, PlanProposed(plan.run_id, plan.to_bytes(), sign_plan(plan), content(INITIAL_ADAPTER)))

    for number in (1, 2, 3, 4):
        propose(number)
    assert [int(run_id, 16) for run_id in plans.run_ids()] == [1, 2]
    propose(2)  # one that is known is no further one
    plans.end(f"{1:032x}", Ended(state="refused", code="E-POLICY-REFUSED", at=1))
    propose(3)
    assert [int(run_id, 16) for run_id in plans.open_runs()] == [2, 3]


def test_malicious_initial_adapters_have_a_bound_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_decisions, "MAX_INITIAL_BYTES", 2 * len(INITIAL_ADAPTER) - 1)
    made = Rehearsal(tmp_path / ME)
    for number in (1, 2):
        plan = made.plan.model_copy(update={"run_id": f"{number:032x}"})
        give(made.daemon, PlanProposed(plan.run_id, plan.to_bytes(), sign_plan(plan), content(INITIAL_ADAPTER)))
    plans = made.daemon._work.review.plans
    assert [plans.initial_bytes(f"{number:032x}") for number in (1, 2)] == [len(INITIAL_ADAPTER), 0]


def test_malicious_initial_adapter_that_breaks_off_counts_with_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_decisions, "MAX_INITIAL_BYTES", len(INITIAL_ADAPTER) + 9)
    made = Rehearsal(tmp_path / ME)
    plans, link = made.daemon._work.review.plans, made.me.link
    wanted = [made.plan.model_copy(update={"run_id": f"{number:032x}"}) for number in (1, 2)]
    one, two = [PlanProposed(p.run_id, p.to_bytes(), sign_plan(p), content(INITIAL_ADAPTER)) for p in wanted]

    def broken(ref: ContentRef, destination: Path) -> None:
        destination.with_name(f"{destination.name}.part").write_bytes(b"0123456789")
        raise PeerError.by_coordinator("E-WIRE-CHUNK", Phase.WIRE, "it broke off")

    with monkeypatch.context() as cut:
        cut.setattr(link, "download", broken)
        give(made.daemon, one)
    give(made.daemon, two)
    assert [plans.initial_bytes(one.run_id), plans.initial_bytes(two.run_id)] == [10, 0]
    plans.initial_adapter(one.run_id).with_name(f"{plans.initial_adapter(one.run_id).name}.part").unlink()
    give(made.daemon, two)
    assert plans.initial_bytes(two.run_id) == len(INITIAL_ADAPTER)


def test_malicious_initial_adapter_that_the_connection_passes_on_is_hashed_again(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME)
    announced = content(INITIAL_ADAPTER)
    made.me.link.contents[announced.sha256] = INITIAL_ADAPTER[:-1] + bytes([INITIAL_ADAPTER[-1] ^ 1])
    give(made.daemon, PlanProposed(made.plan.run_id, made.plan.to_bytes(), sign_plan(made.plan), announced))
    assert not made.daemon._work.review.plans.initial_adapter(made.plan.run_id).exists()


def test_malicious_plan_that_does_not_name_its_receiver_is_not_kept(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME)
    plan = made.plan
    strange = PlanProposed("ab" * 16, plan.to_bytes(), sign_plan(plan), content(INITIAL_ADAPTER))
    give(made.daemon, strange)
    assert made.daemon._work.review.plans.run_ids() == ()


def test_the_bound_on_tasks_follows_from_the_plans_that_were_approved_and_have_not_ended(rehearsal: Rehearsal) -> None:
    plans = rehearsal.daemon._work.review.plans
    assert [verified.plan for verified in plans.going_on()] == [rehearsal.plan]
    plans.end(rehearsal.plan.run_id, Ended(state="aborted", code="E-RUN-FAILED", at=1))
    assert plans.going_on() == ()


def test_malicious_initial_adapter_that_is_no_adapter_is_refused(rehearsal: Rehearsal) -> None:
    """Its hash is the plan's: the operator signed it."""
    noise, part = b"no tensors", rehearsal.part
    part._job.initial_adapter.write_bytes(noise)
    recipe = rehearsal.plan.recipe
    adapter = recipe.adapter.model_copy(update={"initial_hash": hashlib.sha256(noise).hexdigest()})
    plan = rehearsal.plan.model_copy(update={"recipe": recipe.model_copy(update={"adapter": adapter})})
    part._adapter._plan = plan
    error = offered(rehearsal, 1)
    assert isinstance(error, PeerError)
    assert (error.code, error.participant) == ("E-PLAN-RULE", "coordinator")


def test_a_full_disk_when_a_retry_is_opened_leaves_the_attempt_before_as_it_was(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal.round(1)
    rehearsal.open(2)
    rehearsal.phase()
    rehearsal.phase()
    shares, first = rehearsal.task(), rehearsal.machine
    rehearsal.open(2, 2)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal_module, "_append", full)
    with pytest.raises(LocalError, match="E-DISK-FULL"):
        rehearsal.part.handle(rehearsal.task())
    monkeypatch.undo()
    rehearsal.part.handle(shares)
    rehearsal.machine = first
    assert rehearsal.part.highest == (2, 1)


# --- what is sent again, and what is not said ---


def until_masked(rehearsal: Rehearsal) -> SharesDealt:
    """Play until the upload is out; return the task that asked for it."""
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    task = expect(SharesDealt, rehearsal.task())
    rehearsal.ask_me()
    return task


def test_a_masked_update_that_is_lost_is_not_masked_again(rehearsal: Rehearsal) -> None:
    task = until_masked(rehearsal)
    (rehearsal.me.home.runs / rehearsal.plan.run_id / "masked-1-1").unlink()
    rehearsal.restart()
    uploads = len(rehearsal.me.link.uploads)
    with pytest.raises(LocalError, match="E-STATE-DAMAGED: the masked update of round 1 is lost"):
        rehearsal.part.handle(task)
    assert len(rehearsal.me.link.uploads) == uploads
    assert rehearsal.me.link.take() == []


def test_who_has_uploaded_does_not_say_that_it_takes_no_part_in_that_attempt_but_may_in_a_later_one(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.open()
    rehearsal.phase()
    keys = KeysAdvertised(rehearsal.plan.run_id, rehearsal.advertisements(), heads_with(rehearsal.advertisements()))
    rehearsal.phase()
    rehearsal.ask_me()
    give(rehearsal.daemon, keys)
    assert rehearsal.me.link.take() == [], "its upload is out: nobody must be told that there is none"
    offer = replace(rehearsal.offer(1, 2), previous_transcript=b"\1" * 32)
    give(rehearsal.daemon, AttemptOpened(rehearsal.plan.run_id, offer, (), ()))
    (answer,) = rehearsal.me.link.take()
    assert isinstance(answer, Abstained)
    assert (answer.position.attempt, answer.code) == (2, "E-ROUND-TRANSCRIPT")


def test_training_that_fails_is_named_by_its_kind_alone(rehearsal: Rehearsal) -> None:
    def fail(number: int) -> None:
        raise ValueError("patient 17 has a NaN")

    rehearsal.me.on_training = fail
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    with pytest.raises(LocalError) as refused:
        rehearsal.part.handle(rehearsal.task())
    assert refused.value.detail == "training failed with ValueError: abstaining"
    assert refused.value.__cause__ is None


def test_a_named_error_of_training_may_depend_on_the_data_too_and_is_not_passed_on(rehearsal: Rehearsal) -> None:
    def fail(number: int) -> None:
        raise LocalError("E-DATA-INVALID", "row 17 is empty")

    rehearsal.me.on_training = fail
    until_asked_for_the_upload(rehearsal)
    with pytest.raises(LocalError) as refused:
        rehearsal.part.handle(rehearsal.task())
    assert (refused.value.code, refused.value.detail) == ("E-BUG", "training failed with LocalError: abstaining")


def until_asked_for_the_upload(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()


def test_tasks_of_phases_that_are_over_or_to_come_are_not_answered(rehearsal: Rehearsal) -> None:
    """Keys after a restart, shares before keys, shares of another attempt: each is of an attempt that is not here."""
    rehearsal.open()
    rehearsal.phase()
    keys = KeysAdvertised(rehearsal.plan.run_id, rehearsal.advertisements(), heads_with(rehearsal.advertisements()))
    early = SharesDealt(rehearsal.plan.run_id, rehearsal.machine.offer.position, ())
    elsewhere = replace(early, position=replace(early.position, attempt=2))
    for task in (early, elsewhere):
        with pytest.raises(LocalError, match="E-ROUND-PHASE"):
            rehearsal.part.handle(task)
    rehearsal.phase()
    with pytest.raises(LocalError, match="E-ROUND-PHASE"):
        rehearsal.part.handle(elsewhere)
    assert rehearsal.machine.phase is Phase.COLLECT_MASKED
    rehearsal.restart()
    with pytest.raises(LocalError, match="E-ROUND-RESTART"):
        rehearsal.part.handle(keys)
    with pytest.raises(LocalError, match="E-ROUND-PHASE"):
        rehearsal.part.handle(elsewhere)
    rehearsal.part.refuse_for_good("E-LEDGER-ROLLBACK")
    with pytest.raises(LocalError, match="E-ROUND-PHASE"):  # no restart is to blame: it takes no part any more
        rehearsal.part.handle(keys)
    assert rehearsal.me.link.take() == []
    assert rehearsal.me.link.uploads == []
