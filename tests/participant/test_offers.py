"""What a daemon trains from, what it sends again, and when it may say that it takes no part."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from participant.owner.plan_store import Ended
from participant.runs import journal as journal_module
from participant.runs.plan_decisions import largest_initial
from participant.training.trainer import Progress
from privacy.errors import LocalError, OnlysumError, PeerError, Phase
from protos.envelope import Abstained, AttemptOpened, ContentRef, KeysAdvertised, PlanProposed, SharesDealt
from tests.worlds.expect import expect
from tests.worlds.owner import INITIAL_ADAPTER, content, give
from tests.worlds.plans import sign_plan
from tests.worlds.rehearsal import ME, Rehearsal, exact


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path / ME)
    made.propose()
    return made


def note_adapters(rehearsal: Rehearsal, seen: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the daemon's trainer note the entries of the adapter that it starts from."""
    trainer = rehearsal.part._training._trainer
    assert trainer is not None, "the run was not prepared"
    train = trainer.train

    def noting(number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        seen.extend(adapter)
        return train(number, adapter, progress)

    monkeypatch.setattr(trainer, "train", noting)


def serve(rehearsal: Rehearsal, data: bytes) -> None:
    """Let the coordinator go on with another global adapter."""
    rehearsal.adapter = data
    rehearsal.me.link.contents[content(data).sha256] = data


def offered(rehearsal: Rehearsal, number: int, **changes: Any) -> OnlysumError:
    """Return the refusal of an offer of the adapter that is served, with the offer or its content changed."""
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


@pytest.mark.parametrize("entries", [0, 11, 13])
def test_malicious_adapter_with_more_or_fewer_entries_is_refused_before_it_is_downloaded(
    rehearsal: Rehearsal, entries: int
) -> None:
    rehearsal.round(1)
    serve(rehearsal, bytes(4 * entries))
    downloads: list[str] = []
    rehearsal.me.link.before = downloads.append
    refused_as_context(offered(rehearsal, 2), f"announced as {4 * entries} bytes for 12 entries")
    assert downloads == []


def test_malicious_adapter_that_is_not_the_one_of_the_offer_is_refused_in_later_rounds_too(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.round(1)
    other = np.full(12, 7, dtype="<f4").tobytes()
    rehearsal.me.link.contents[content(other).sha256] = other
    refused_as_context(offered(rehearsal, 2, adapter=content(other)), "not the one that the offer names")


def test_later_rounds_start_from_whatever_adapter_the_offer_names(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    rehearsal.round(1)
    serve(rehearsal, np.full(12, 7, dtype="<f4").tobytes())
    note_adapters(rehearsal, seen, monkeypatch)
    assert ME in exact(rehearsal, rehearsal.round(2))
    assert seen == [7.0] * 12


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
    part._participant = replace(part._participant, plan=replace(part._participant.plan, plan=plan))
    error = offered(rehearsal, 1)
    assert isinstance(error, PeerError)
    assert (error.code, error.participant) == ("E-PLAN-RULE", "coordinator")


def test_a_full_disk_when_a_retry_is_opened_leaves_the_attempt_before_its_own_adapter(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator may offer another adapter to a retry of a round in which nothing is encoded yet."""
    rehearsal.round(1)
    rehearsal.open(2)
    rehearsal.phase()
    rehearsal.phase()
    shares = rehearsal.task()
    first, other = rehearsal.machine, np.full(12, 7, dtype="<f4").tobytes()
    serve(rehearsal, other)
    rehearsal.open(2, 2)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal_module, "_append", full)
    with pytest.raises(LocalError, match="E-DISK-FULL"):
        rehearsal.part.handle(rehearsal.task())
    monkeypatch.undo()
    seen: list[float] = []
    part = rehearsal.part
    note_adapters(rehearsal, seen, monkeypatch)
    part.handle(shares)
    assert seen == [0.0] * 12
    rehearsal.machine = first
    assert part.highest == (2, 1)


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
    keys = KeysAdvertised(rehearsal.plan.run_id, rehearsal.advertisements())
    rehearsal.phase()
    rehearsal.ask_me()
    give(rehearsal.daemon, keys)
    assert rehearsal.me.link.take() == [], "its upload is out: nobody must be told that there is none"
    offer = replace(rehearsal.offer(1, 2), previous_transcript=b"\1" * 32)
    give(rehearsal.daemon, AttemptOpened(rehearsal.plan.run_id, offer, content(rehearsal.adapter), ()))
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
    keys = KeysAdvertised(rehearsal.plan.run_id, rehearsal.advertisements())
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
    assert rehearsal.me.link.take() == []
    assert rehearsal.me.link.uploads == []
