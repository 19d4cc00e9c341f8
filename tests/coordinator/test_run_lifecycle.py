"""The life of a run over the backend: scripted members with the real round machines, a virtual clock, no network."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from audit.verify import verify_report
from coordinator.config import Durations
from coordinator.daemon.runner import Runner
from coordinator.database import attempt_rows, member_rows, run_rows
from coordinator.database.run_rows import RunState
from coordinator.opened import OpenHome
from coordinator.runs.global_adapter import RunFiles
from coordinator.views.overview import overview
from participant.protocol.states import Idle, Masked
from privacy.claims import difference_sentence
from privacy.errors import PeerError, Phase
from privacy.plan import signed_approval_bytes
from privacy.secagg.hashes import adapter_hash
from privacy.secagg.messages import (
    Advertisement,
    Complaint,
    MaskedUpload,
    Position,
    Receipt,
    ShareBundle,
    SurvivorSignature,
    UnmaskShares,
)
from protos.envelope import PlanApproved, PlanRefused
from tests.worlds.coordinator import EVALUATOR, RUN_ID, SEVENTY_PERCENT, Send, World
from tests.worlds.federation import SeededSource
from tests.worlds.lying_dealer import LIES, dealing
from tests.worlds.plans import signing_key

STEP = 2.0**-16  # what one integer stands for in the test plans


def settled(world: World) -> World:
    asyncio.run(world.settle())
    return world


def counted(world: World, round_number: int) -> list[float]:
    """Return how often each participant was counted in a round, from the adapters before and after it."""
    move = world.adapter(round_number) - world.adapter(round_number - 1)
    survivors = next(one.survivors for one in world.rounds() if one.round == round_number)
    return [round(float(x) * survivors / STEP, 3) for x in move[: world.plan.n]]


# --- all goes well ---


def test_a_run_completes_with_the_exact_sum_of_everybody_in_every_round(tmp_path: Path, database: str) -> None:
    world = settled(World(tmp_path, n=3, rounds=2, database=database))
    assert world.state().state is RunState.COMPLETED
    assert [(one.round, one.survivors, one.dropouts) for one in world.rounds()] == [(1, 3, ()), (2, 3, ())]
    assert counted(world, 1) == counted(world, 2) == [1, 1, 1]
    assert {member.ended for member in world.members.values()} == {"completed"}


def test_the_adapter_leaves_in_pefts_format_with_a_card_that_says_what_is_private(tmp_path: Path) -> None:
    world = settled(World(tmp_path, rounds=1, evaluated=True))
    exported = world.home.run(RUN_ID) / "adapter"
    tensors = load_file(exported / "adapter_model.safetensors")
    assert set(tensors) == {tensor.key for tensor in world.plan.recipe.adapter.tensors}
    assert np.concatenate([tensors[one.key].ravel() for one in world.plan.recipe.adapter.tensors[1:]]).tolist() == (
        world.adapter(1).tolist()
    )
    assert tensors["base_model.model.layer.q_proj.lora_A.weight"].tolist() == np.ones((2, 4)).tolist()
    assert json.loads((exported / "adapter_config.json").read_text()) == {"peft_type": "LORA"}
    card = (exported / "README.md").read_text()
    assert "No differential privacy" in card
    assert f"- {difference_sentence(world.plan)}\n" in card
    assert "accuracy 0.7 on 10 examples" in card


def test_the_report_of_a_completed_run_is_signed_and_verifies(tmp_path: Path) -> None:
    world = settled(World(tmp_path, rounds=1, evaluated=True))
    outcome = verify_report((world.home.run(RUN_ID) / "report.json").read_bytes())
    assert outcome.report.plan == world.plan
    assert len(outcome.report.evaluations) == 2


def test_the_evaluator_measures_the_start_and_every_released_adapter(tmp_path: Path, database: str) -> None:
    world = settled(World(tmp_path, rounds=3, evaluated=True, database=database))
    assert world.measured == [0, 1, 2, 3]
    with world.store.read() as connection:
        assert [evaluation.metrics for evaluation in run_rows.list_evaluations(connection, RUN_ID)] == [
            SEVENTY_PERCENT
        ] * 4


def test_an_averaged_iterate_is_released_and_the_raw_one_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFiles, "forget", lambda *_, **__: None)
    world = settled(World(tmp_path, rounds=2, recipe={"optimizer": {"average": "0.9"}}))
    directory = world.home.run(RUN_ID)
    released = np.frombuffer((directory / "released-2.f32").read_bytes(), dtype="<f4")
    raw = [world.adapter(number) for number in (1, 2)]
    first = 0.1 * world.adapter(0) + 0.9 * raw[0]
    assert released == pytest.approx(2 / 11 * first + 9 / 11 * raw[1], rel=1e-5)
    exported = load_file(directory / "adapter" / "adapter_model.safetensors")
    assert exported["base_model.model.classifier.weight"].tolist() == released[-3:].tolist()
    assert hashlib.sha256(released.tobytes()).digest() == world.rounds()[1].released_sha256
    assert adapter_hash(raw[1].tobytes()) == world.rounds()[1].adapter_hash


def test_weights_of_the_plan_enter_the_mean(tmp_path: Path) -> None:
    roster = [
        {
            "id": name,
            "identity_key": signing_key(name).public.hex(),
            "units": units,
            "weight": units,
            "with_operator": False,
            "options": {"rank": 0, "layers": []},
        }
        for name, units in (("alice", 1), ("bob", 2), ("carol", 5))
    ]
    world = settled(World(tmp_path, rounds=1, weight_rule="units", roster=roster))
    assert world.adapter(1)[:3] == pytest.approx(np.array([1, 2, 5]) * STEP / 8)


def test_of_past_rounds_only_the_adapters_that_are_measured_are_kept(tmp_path: Path) -> None:
    world = settled(World(tmp_path, rounds=6, evaluation={"every": 2}))
    kept = {path.name for path in world.home.run(RUN_ID).glob("*-*")}
    assert kept == {
        "state-6.safetensors",
        *(f"global-{number}.f32" for number in (0, 2, 4, 6)),
    }


def test_sums_are_there_for_whoever_comes_back_and_go_when_the_run_ends(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=3)
    there: list[int] = []
    for member in world.members.values():
        send = member.send

        async def noting(message: Any, send: Send = send) -> None:
            there.append(len(list(world.home.run(RUN_ID).glob("sum-*"))))
            await send(message)

        member.send = noting
    settled(world)
    assert sorted(set(there)) == [0, 1, 2]
    assert list(world.home.run(RUN_ID).glob("sum-*")) == []


def test_sums_that_a_crash_at_the_end_left_go_at_the_next_start(tmp_path: Path) -> None:
    world = settled(World(tmp_path, rounds=1))
    left, of_another = world.home.run(RUN_ID) / "sum-1.words", world.home.run(RUN_ID) / "global-1.f32"
    left.write_bytes(b"a sum")
    runner = Runner(
        world.store, world.home, world.settings, world.authority, clock=world.clock, random=SeededSource("again")
    )
    runner.discover()
    assert not left.exists()
    assert of_another.exists()


# --- somebody says no, or the operator does ---


def test_one_refusal_ends_the_run_as_refused_and_shows_who_the_rule_and_how_to_go_on(
    tmp_path: Path, database: str
) -> None:
    world = World(tmp_path, database=database)
    world.members["bob"].approves = False
    settled(world)
    state = world.state()
    assert (state.state, state.code) == (RunState.REFUSED, "E-POLICY-RULE")
    next_step = "onlysum coordinator run create DRAFT --members alice,carol"
    assert state.reason == f"bob: not these rounds; to go on without bob: {next_step}"
    assert world.attempts() == ()


@pytest.mark.parametrize("rounds_done", [None, 1, 2])
def test_an_approval_that_is_taken_back_ends_the_run(tmp_path: Path, rounds_done: int | None) -> None:
    world = World(tmp_path, rounds=3)
    refusal = PlanRefused(RUN_ID, world.plan.hash, "E-POLICY-REFUSED", "not any more")
    world.members["carol"].present = rounds_done is not None

    async def scenario() -> None:
        while "bob" not in world.answers() or (rounds_done is not None and len(world.rounds()) < rounds_done):
            await world.turn()
        await world.runner.submit("bob", refusal)
        await world.runner.submit("bob", refusal)
        await world.settle()

    asyncio.run(scenario())
    ended = RunState.REFUSED if rounds_done is None else RunState.ABORTED
    assert (world.state().state, world.state().code) == (ended, "E-POLICY-REFUSED")
    assert world.state().reason.startswith("bob")
    assert "not any more" in world.state().reason
    assert len(world.rounds()) == (rounds_done or 0)
    assert world.answers()["bob"] is False
    assert all(attempt.state != "open" for attempt in world.attempts())


def test_a_refusal_is_never_turned_into_an_approval(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.members["bob"].approves = False
    settled(world)
    world.members["bob"].approves = True
    signature = world.keys["bob"].sign(signed_approval_bytes(world.plan.hash, "bob"))
    asyncio.run(world.runner.submit("bob", PlanApproved(RUN_ID, world.plan.hash, signature)))
    assert world.answers()["bob"] is False


def test_nothing_is_opened_before_everybody_has_approved(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.members["bob"].present = False

    async def scenario() -> None:
        await world.settle()
        assert world.state().state is RunState.CREATED
        world.members["bob"].present = True
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED


def test_a_plan_that_nobody_answers_expires(tmp_path: Path) -> None:
    world = World(tmp_path, expires_at=1_767_225_600 + 100)
    for member in world.members.values():
        member.present = False
    world.clock.seconds += 200
    settled(world)
    assert (world.state().state, world.state().code) == (RunState.ABORTED, "E-PLAN-EXPIRED")


def test_an_abort_by_the_operator_ends_the_run_and_tells_everybody(tmp_path: Path, database: str) -> None:
    world = World(tmp_path, rounds=5, database=database)

    async def scenario() -> None:
        while len(world.rounds()) < 2:
            await world.turn()
        with world.store.begin() as connection:
            run_rows.request_abort(connection, RUN_ID)
        await world.settle()

    asyncio.run(scenario())
    assert (world.state().state, world.state().reason) == (RunState.ABORTED, "the operator ended the run")
    report = verify_report((world.home.run(RUN_ID) / "report.json").read_bytes()).report
    assert len(report.rounds) >= 2  # whatever was started was charged, and is reported
    assert {member.ended for member in world.members.values()} == {"aborted"}
    assert all(attempt.state != "open" for attempt in world.attempts())


def test_a_paused_run_opens_no_further_round_until_it_is_resumed(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=3)

    def set_paused(paused: bool) -> None:
        with world.store.begin() as connection:
            run_rows.set_paused(connection, RUN_ID, paused=paused)

    async def scenario() -> None:
        while not world.attempts():
            await world.turn()
        set_paused(True)
        await world.settle()
        assert len(world.rounds()) == 1
        set_paused(False)
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED


def test_a_revoked_key_ends_the_run(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=3)

    async def scenario() -> None:
        while not world.rounds():
            await world.turn()
        with world.store.begin() as connection:
            member_rows.revoke_member(connection, "bob", 1)
        world.members["bob"].present = False
        await world.settle()

    asyncio.run(scenario())
    assert (world.state().state, world.state().code) == (RunState.ABORTED, "E-MEMBER-REVOKED")


# --- somebody is gone ---


def gone_after(world: World, name: str, kind: type[object]) -> None:
    """Let a member vanish right after it sent a message of a kind."""
    member, send = world.members[name], world.members[name].send

    async def and_vanish(message: object) -> None:
        await send(message)
        if isinstance(message, kind):
            member.present = False
            member.send = send  # once

    member.send = and_vanish  # a fault on order


@pytest.mark.parametrize(
    ("kind", "in_the_sum"),
    [
        (Advertisement, False),
        (ShareBundle, False),
        (MaskedUpload, True),
        (SurvivorSignature, True),
        (UnmaskShares, True),
    ],
)
def test_who_vanishes_after_a_phase_costs_no_deadline_and_no_attempt(
    tmp_path: Path, kind: type[object], in_the_sum: bool
) -> None:
    world = World(tmp_path, n=5, f=1, rounds=1)
    gone_after(world, "bob", kind)

    async def scenario() -> None:
        await world.settle()
        world.clock.seconds += 2.5  # its heartbeat is over
        await world.settle()
        world.clock.seconds += 2.5
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert [attempt.attempt for attempt in world.attempts()] == [1]
    assert counted(world, 1) == [1, 1 if in_the_sum else 0, 1, 1, 1]
    assert world.rounds()[0].dropouts == (() if in_the_sum else ("bob",))


def test_an_upload_whose_receipt_comes_after_its_phase_is_not_called_counted(tmp_path: Path) -> None:
    world = World(tmp_path, n=5, f=1, rounds=1, durations=Durations(update_seconds=60, stall_seconds=1))
    erin, receipts = world.members["erin"], list[Receipt]()

    async def without_its_receipt(message: object) -> None:
        if isinstance(message, MaskedUpload):
            receipts.append(message.receipt)
            await erin.upload(message.receipt, bytes(message.masked))
        else:
            await erin.deliver(message)

    async def scenario() -> None:
        attempt = None
        while attempt is None or len(attempt.machine.answered()) < 4 or not receipts:
            await world.turn()
            attempt = world.run().attempt
        world.clock.seconds += 90
        await world.runner.tick()
        assert attempt.machine.phase is Phase.AGREE_SURVIVORS
        (late,) = receipts
        await world.runner.submit("erin", late)
        with pytest.raises(PeerError, match="no upload of this member is expected now"):
            await world.runner.upload_offset("erin", RUN_ID, late.position, late.masked_hash, late.length)
        counted = [sender for _, sender in rows_of(world, Receipt)]
        assert sorted(counted) == ["alice", "bob", "carol", "dave"], "opened again, the attempt comes to the same sum"

    erin.send = without_its_receipt
    asyncio.run(scenario())


def test_a_round_that_too_few_can_finish_is_given_up_at_its_deadline_and_tried_again(
    tmp_path: Path, database: str
) -> None:
    world = World(tmp_path, n=3, rounds=1, durations=Durations(phase_seconds=60), database=database)
    gone_after(world, "bob", Advertisement)

    async def scenario() -> None:
        await world.settle()
        world.clock.seconds += 61
        await world.settle()
        assert [attempt.state for attempt in world.attempts()] == ["aborted"]
        world.members["bob"].present = True
        await world.settle()

    asyncio.run(scenario())
    assert [attempt.state for attempt in world.attempts()] == ["aborted", "completed"]
    assert world.attempts()[0].code == "E-ROUND-DEADLINE"
    assert counted(world, 1) == [1, 1, 1]


def test_who_did_not_answer_is_named_in_the_reason_of_an_aborted_attempt_and_shown(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1, durations=Durations(phase_seconds=60))
    gone_after(world, "bob", Advertisement)

    async def scenario() -> None:
        await world.settle()
        world.clock.seconds += 61
        await world.settle()

    asyncio.run(scenario())
    reason = "2 of the 3 needed answered in SHARE_KEYS; no answer from bob"
    assert world.attempts()[0].reason == reason
    opened = OpenHome(world.home, world.settings, world.store)
    shown = overview(opened, RUN_ID)
    assert f"  round 1, attempt 1 was aborted: E-ROUND-DEADLINE {reason}" in shown.to_lines()


def test_no_attempt_is_spent_while_too_few_are_there(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=2)

    async def scenario() -> None:
        while not world.rounds():
            await world.turn()
        world.members["bob"].present = False
        for _ in range(50):
            world.clock.seconds += 30
            await world.turn()

    asyncio.run(scenario())
    assert len(world.attempts()) <= 2
    assert world.state().state is RunState.RUNNING


def test_a_run_ends_within_its_deadlines_when_its_rounds_cannot_complete(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1, durations=Durations(phase_seconds=60, update_seconds=60))

    async def scenario() -> None:
        for _ in range(3):  # bob advertises and then never deals
            member = world.members["bob"]
            member.present = True
            while isinstance(member.simulated.state, Idle):
                await world.turn()
            member.present = False
            member.simulated.state = Idle(member.simulated.participant)
            await world.settle()
            world.clock.seconds += 61
            await world.settle()

    asyncio.run(scenario())
    assert (world.state().state, world.state().code) == (RunState.ABORTED, "E-RUN-FAILED")
    assert "3 attempts" in world.state().reason


def test_attempts_that_restarts_of_one_member_cost_are_not_counted_where_everybody_is_needed(
    tmp_path: Path, database: str
) -> None:
    world = World(tmp_path, n=3, rounds=2, max_attempts=10, database=database)
    world.members["bob"].restarts = 5
    settled(world)
    assert world.state().state is RunState.COMPLETED
    assert [attempt.code for attempt in world.attempts()] == [*["E-ROUND-RESTART"] * 5, "", ""]
    assert counted(world, 1) == counted(world, 2) == [1, 1, 1]


def test_malicious_member_that_restarts_for_ever_uses_up_the_attempts_of_the_plan_and_no_more(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1, max_attempts=4)
    world.members["bob"].restarts = 100
    settled(world)
    assert (world.state().state, world.state().code) == (RunState.ABORTED, "E-RUN-FAILED")
    assert len(world.attempts()) == 4


def test_three_failures_end_a_round_whatever_the_plan_has_left_and_restarts_between_excuse_none(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1, max_attempts=10, durations=Durations(phase_seconds=60))
    bob, carol = world.members["bob"], world.members["carol"]

    async def and_vanish(message: object) -> None:
        await carol.deliver(message)
        carol.present = not (isinstance(message, Advertisement) and message.position.attempt in (1, 4, 5))

    async def scenario() -> None:
        for bob.restarts in (0, 2, 0):
            carol.present, carol.simulated.state = True, Idle(carol.simulated.participant)
            await world.settle()
            world.clock.seconds += 61
            await world.settle()

    carol.send = and_vanish
    asyncio.run(scenario())
    late, restarted = "E-ROUND-DEADLINE", "E-ROUND-RESTART"
    assert [attempt.code for attempt in world.attempts()] == [late, restarted, restarted, late, late]
    assert (world.state().state, world.state().code) == (RunState.ABORTED, "E-RUN-FAILED")


def test_an_attempt_that_another_member_failed_as_well_is_counted(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1, max_attempts=10, durations=Durations(phase_seconds=60))
    world.members["bob"].restarts = 1
    gone_after(world, "carol", Advertisement)

    async def scenario() -> None:
        await world.settle()
        world.clock.seconds += 61
        await world.settle()

    asyncio.run(scenario())
    assert world.attempts()[0].code == "E-ROUND-DEADLINE"


def test_who_missed_rounds_catches_up_and_takes_part_again(tmp_path: Path) -> None:
    world = World(tmp_path, n=5, f=1, rounds=4)

    async def scenario() -> None:
        while len(world.rounds()) < 1:
            await world.turn()
        world.members["erin"].present = False
        world.clock.seconds += 3
        while len(world.rounds()) < 2:  # the third has begun without it
            await world.turn()
            world.clock.seconds += 1
        world.members["erin"].present = True
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert counted(world, 4) == [1, 1, 1, 1, 1]
    assert world.members["erin"].simulated.journal.memory.completed == 4


def test_an_evaluator_that_is_away_does_not_hold_up_the_end(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=1, evaluated=True)
    world.evaluate = lambda: asyncio.sleep(0, False)  # type: ignore[method-assign]  # it never polls
    assert settled(world).state().state is RunState.COMPLETED


def test_an_evaluator_that_is_there_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=1, evaluated=True, durations=Durations(evaluation_seconds=30))

    async def polls_only() -> bool:
        await world.runner.next_task(EVALUATOR, frozenset(), 0)
        return False

    world.evaluate = polls_only  # type: ignore[method-assign]  # it polls and never measures

    async def scenario() -> None:
        await world.settle()
        assert world.state().state is RunState.RUNNING
        for _ in range(31):
            world.clock.seconds += 1
            await world.turn()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED


def test_a_dealer_of_suite_2_that_a_complaint_names_costs_an_attempt_and_is_left_out_of_the_next(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, n=7, f=1, rounds=1, suite=2, min_survivors=5)
    dealing(world.members["carol"].simulated, LIES["a tampered KEM ciphertext of a pair secret"])
    settled(world)
    assert world.state().state is RunState.COMPLETED
    assert [attempt.code for attempt in world.attempts()] == ["E-ROUND-SHARE", ""]
    assert world.attempts()[0].reason.startswith("dave complains about the shares of carol: both are left out")
    assert counted(world, 1) == [1, 1, 0, 0, 1, 1, 1]


def complaints_by(world: World, accuser: str, accused: list[str], *, times: int = 1) -> None:
    """Let a member complain, honestly signed, about others in place of uploading."""
    member, send = world.members[accuser], world.members[accuser].send

    async def complaining(message: object) -> None:
        if not isinstance(message, MaskedUpload):
            await send(message)
            return
        state = member.simulated.state
        assert isinstance(state, Masked)
        for dealer in accused * times:
            complaint = Complaint(message.position, accuser, dealer, "bad shares")
            signed = complaint.signed_bytes(world.plan.protocol_version, state.record.round_ctx)
            with suppress(PeerError):
                await world.runner.submit(accuser, replace(complaint, signature=world.keys[accuser].sign(signed)))

    member.send = complaining  # a lie on order


def rows_of(world: World, kind: type[object]) -> list[tuple[int, str]]:
    """Return attempt and sender of each committed message of a kind in the first round."""
    with world.store.read() as connection:
        return [
            (number, event.sender)
            for number in (1, 2, 3)
            for event in attempt_rows.list_events(connection, RUN_ID, Position(world.plan.hash, 1, number))
            if event.kind == kind.__name__
        ]


def test_malicious_complaints_about_everybody_count_once_and_leave_out_the_accuser_and_one_accused(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, n=7, f=1, rounds=1, suite=2, min_survivors=5)
    complaints_by(world, "alice", ["bob", "carol", "dave", "erin", "frank", "grace"], times=20)
    settled(world)
    assert world.state().state is RunState.COMPLETED
    assert rows_of(world, Complaint) == [(1, "alice")]
    reason = "alice complains about the shares of bob: both are left out of the next attempts at this round"
    assert [attempt.reason for attempt in world.attempts()] == [reason, ""]
    assert counted(world, 1) == [0, 0, 1, 1, 1, 1, 1]


def test_malicious_complaints_that_leave_too_few_end_the_run_at_once_with_both_names(tmp_path: Path) -> None:
    world = World(tmp_path, n=5, f=1, rounds=1, suite=2)
    complaints_by(world, "alice", ["bob"])
    settled(world)
    state = world.state()
    assert (state.state, state.code) == (RunState.ABORTED, "E-ROUND-SHARE")
    assert [attempt.attempt for attempt in world.attempts()] == [1]
    assert "alice complains about the shares of bob" in state.reason
    assert "only 3 of 5 participants" in state.reason


@pytest.mark.parametrize("silent", [SurvivorSignature, UnmaskShares])
def test_a_round_that_failed_after_its_commit_point_is_not_tried_again_and_its_cause_is_kept(
    tmp_path: Path, silent: type[object]
) -> None:
    world = World(tmp_path, n=3, f=1, rounds=1, durations=Durations(update_seconds=60))
    member = world.members["bob"]

    async def mute(message: object) -> None:
        if not isinstance(message, silent):
            await member.deliver(message)

    member.send = mute

    async def scenario() -> None:
        await world.settle()
        world.clock.seconds += 61
        await world.settle()

    asyncio.run(scenario())
    state = world.state()
    assert (state.state, state.code) == (RunState.ABORTED, "E-ROUND-DEADLINE")
    assert [attempt.attempt for attempt in world.attempts()] == [1]
    assert state.reason.startswith("round 1, attempt 1: ")
    assert "no answer from bob" in state.reason


def test_malicious_garbage_upload_ends_the_round_with_that_reason_and_no_adapter(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, f=1, rounds=1)
    simulated = world.members["bob"].simulated
    honest = simulated.train
    simulated.train = lambda number: honest(number) + 2**29
    settled(world)
    state = world.state()
    assert (state.state, state.code) == (RunState.ABORTED, "E-ROUND-SUM")
    assert "12 of the 12 coordinates of the sum" in state.reason
    assert world.rounds() == ()


def test_malicious_upload_with_a_bit_beyond_its_lanes_ends_the_round_with_that_reason(tmp_path: Path) -> None:
    """Three lanes of 21 bits leave one bit of a word, which no entry of the sum would show."""
    world = World(tmp_path, n=3, f=1, rounds=1, encoding={"ring_bits": 64, "lane_bits": 21, "clamp": 1000})
    simulated = world.members["bob"].simulated
    honest, stray = simulated.train, np.zeros(world.plan.recipe.entries, dtype=np.int64)
    stray[2] = 2**21  # in the highest lane of the first word
    simulated.train = lambda number: honest(number) + stray
    settled(world)
    state = world.state()
    assert (state.state, state.code) == (RunState.ABORTED, "E-ROUND-SUM")
    assert "1 words of the sum have bits beyond their lanes" in state.reason
    assert world.rounds() == ()


def test_a_sum_at_the_plans_bound_completes_the_round(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, f=1, rounds=1)
    at_the_clamp = np.full(world.plan.recipe.entries, -world.plan.encoding.clamp, dtype=np.int64)
    for member in world.members.values():
        member.simulated.train = lambda _number: at_the_clamp
    settled(world)
    assert world.state().state is RunState.COMPLETED


# --- the coordinator is killed and started again ---


@pytest.mark.parametrize("every", [1, 2, 3, 5, 8, 13])
def test_a_new_daemon_on_the_same_rows_completes_the_run_exactly(tmp_path: Path, every: int, database: str) -> None:
    world = World(tmp_path, n=3, rounds=2, evaluated=True, database=database)

    async def scenario() -> None:
        turns = 0
        while not world.state().state.ended:
            await world.turn()
            turns += 1
            if turns % every == 0:
                await world.runner.tick()
                world.runner = world.daemon()
            assert turns < 200
        await world.settle()

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert [attempt.attempt for attempt in world.attempts()] == [1, 1]
    assert counted(world, 1) == counted(world, 2) == [1, 1, 1]


@pytest.mark.parametrize("suite", [1, 2])
def test_a_daemon_killed_after_every_single_message_completes_the_round_exactly(tmp_path: Path, suite: int) -> None:
    world = World(tmp_path, n=5, f=1, rounds=1, suite=suite)
    gone_after(world, "bob", ShareBundle)
    for member in world.members.values():
        send = member.send

        async def then_kill(message: object, send: Send = send) -> None:
            await send(message)
            world.runner = world.daemon()
            await world.runner.tick()

        member.send = then_kill  # a fault on order

    async def scenario() -> None:
        for _ in range(100):
            await world.turn()
            world.clock.seconds += 0.1

    asyncio.run(scenario())
    assert world.state().state is RunState.COMPLETED
    assert counted(world, 1) == [1, 0, 1, 1, 1]


def test_both_daemons_give_the_same_tasks_the_same_ids(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1)

    async def scenario() -> None:
        while not world.attempts() or world.attempts()[0].phase != "COLLECT_MASKED":
            await world.runner.tick()
            if world.attempts() and world.attempts()[0].phase == "COLLECT_MASKED":
                break
            await world.turn()
        first = await world.runner.next_task("alice", frozenset(), 0)
        other = world.daemon()
        await other.tick()
        assert first is not None
        assert await other.next_task("alice", frozenset(), 0) == first

    asyncio.run(scenario())


def test_an_attempt_whose_uploads_are_lost_is_given_up_and_another_one_completes(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, rounds=1)

    async def scenario() -> None:
        spool = world.settings.spool_path(world.home)
        while not any(spool.rglob("carol.*")):
            await world.turn()
        for path in spool.rglob("*.*"):
            path.unlink()
        world.runner = world.daemon()
        await world.settle()

    asyncio.run(scenario())
    assert [(attempt.state, attempt.code) for attempt in world.attempts()] == [
        ("aborted", "E-STATE-DAMAGED"),
        ("completed", ""),
    ]
    assert counted(world, 1) == [1, 1, 1]
