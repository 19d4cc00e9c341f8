"""One real daemon among simulated peers: kill it, fill its disk, roll it back, and count who is in the sum."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from audit.training_record import read_record
from audit.verify import verify_report
from participant.owner.plan_store import Decision
from participant.owner.registry import DatasetEntry
from participant.protocol.round import Masked
from participant.training.record import RunRecord
from privacy.errors import LocalError, NetworkError, PeerError, Phase, RefusedError
from privacy.ledger_entries import Unprotected
from privacy.plan import PROTOCOL_VERSION
from privacy.report_model import Claim
from privacy.secagg.messages import VoidedRound
from protos.envelope import (
    Abstained,
    AttemptAborted,
    AttemptOpened,
    LedgerHead,
    MemberExcluded,
    NumberedTask,
    PlanApproved,
    PlanProposed,
    PlanRefused,
    RoundVoided,
    RunEnded,
    Welcome,
)
from tests.worlds.expect import expect
from tests.worlds.owner import INITIAL_ADAPTER, Killed, content, give, owned_plan, policy_text
from tests.worlds.plans import names, sign_plan, signing_key
from tests.worlds.rehearsal import ME, Rehearsal, exact


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path / ME)
    (approved,) = made.propose()
    assert isinstance(approved, PlanApproved)
    return made


def test_three_rounds_are_trained_charged_masked_and_summed_exactly(rehearsal: Rehearsal) -> None:
    for number in (1, 2, 3):
        assert ME in exact(rehearsal, rehearsal.round(number))
    assert rehearsal.me.trained == [1, 2, 3]
    assert [charge.round for charge in rehearsal.charges()] == [1, 2, 3]
    assert {charge.population for charge in rehearsal.charges()} == {"patients"}
    give(rehearsal.daemon, RunEnded(rehearsal.plan.run_id, "completed", ""))
    assert rehearsal.blobs() == []
    ended = rehearsal.me.review().plans.ended(rehearsal.plan.run_id)
    assert ended is not None
    assert ended.state == "completed"
    report = verify_report((rehearsal.me.home.runs / rehearsal.plan.run_id / "report.json").read_bytes()).report
    assert [one.certificate and len(one.certificate.survivors) for one in report.rounds] == [5, 5, 5]
    assert (report.made_by.name, expect(Claim, report.privacy).charged_rounds, report.roster) == (ME, 3, "verified")


def test_a_population_renamed_in_the_middle_of_a_run_charges_nothing_and_the_report_counts_every_round(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.round(1)
    registry, policy = rehearsal.me.registry, policy_text()
    entry = registry.dataset("digits")
    registry.remove(entry)
    registry.add(entry.model_copy(update={"population": None}))
    rehearsal.me.write_policy(policy.replace("patients", "customers"))
    rehearsal.open(2)
    rehearsal.ask_me()
    assert rehearsal.me.trained == [1]
    assert [one.population for one in rehearsal.charges()] == ["patients"]
    with pytest.raises(RefusedError, match=r"population\.of-run: this run is charged to patients"):
        rehearsal.part._consent.require()
    give(rehearsal.daemon, RunEnded(rehearsal.plan.run_id, "ended-early", ""))
    report = verify_report((rehearsal.me.home.runs / rehearsal.plan.run_id / "report.json").read_bytes()).report
    assert isinstance(report.privacy, Claim)
    assert report.privacy.charged_rounds == 1
    assert report.ledger is not None
    assert report.ledger.population == "patients"


def test_a_report_calls_the_roster_verified_only_if_every_peer_is_pinned_when_it_is_made(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    rehearsal.me.write_policy(policy_text(roster=names(5)[1:4], more="unverified_roster = true"))
    give(rehearsal.daemon, RunEnded(rehearsal.plan.run_id, "aborted", "E-RUN-ABORTED"))
    report = verify_report((rehearsal.me.home.runs / rehearsal.plan.run_id / "report.json").read_bytes()).report
    assert report.roster == "unverified"


OPERATIONS = (
    "download",
    "Advertisement",
    "ShareBundle",
    "train",
    "upload",
    "Receipt",
    "SurvivorSignature",
    "UnmaskShares",
)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_any_point_it_resumes_or_abstains_and_is_counted_at_most_once(
    rehearsal: Rehearsal, operation: str, when: str
) -> None:
    def killer(what: str) -> None:
        if what == operation:
            raise Killed

    if operation == "train":
        rehearsal.me.on_training = lambda number: killer("train")
    else:
        setattr(rehearsal.me.link, when, killer)
    survivors = exact(rehearsal, rehearsal.round(1))
    forfeited = operation in ("Advertisement", "ShareBundle", "train")  # the keys lived in memory alone
    assert (ME in survivors) == (not forfeited)
    assert len({upload[0].sha256 for upload in rehearsal.me.link.uploads}) <= 1  # never masked twice
    rehearsal.me.on_training = lambda number: None
    assert ME in exact(rehearsal, rehearsal.round(2))  # back in the next round


def test_a_restart_before_masking_forfeits_the_attempt_openly(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    rehearsal.phase()
    rehearsal.restart()
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-ROUND-RESTART"


def play_until_masked(rehearsal: Rehearsal, number: int = 1, attempt: int = 1) -> None:
    rehearsal.open(number, attempt)
    rehearsal.phase()
    rehearsal.phase()
    rehearsal.ask_me()


def test_a_retry_masks_the_byte_identical_update_under_fresh_masks(rehearsal: Rehearsal) -> None:
    play_until_masked(rehearsal)
    encoded = rehearsal.me.home.runs / rehearsal.plan.run_id / "encoded-1"
    first = encoded.read_bytes()
    assert encoded.stat().st_mode & 0o777 == 0o600
    give(rehearsal.daemon, AttemptAborted(rehearsal.plan.run_id, rehearsal.machine.offer.position, "E-ROUND-TOO-FEW"))
    rehearsal.restart()
    play_until_masked(rehearsal, attempt=2)
    assert encoded.read_bytes() == first
    one, two = (upload[1] for upload in rehearsal.me.link.uploads)
    assert one != two
    assert rehearsal.me.trained == [1]
    assert len(rehearsal.charges()) == 1


def test_a_retry_whose_encoded_update_is_lost_abstains(rehearsal: Rehearsal) -> None:
    play_until_masked(rehearsal)
    (rehearsal.me.home.runs / rehearsal.plan.run_id / "encoded-1").unlink()
    rehearsal.restart()
    rehearsal.open(1, 2)
    rehearsal.phase()
    rehearsal.phase()
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-STATE-DAMAGED"
    assert rehearsal.me.trained == [1]


def test_a_retry_after_signing_the_survivors_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    for _ in range(3):
        rehearsal.phase()
    rehearsal.ask_me()
    rehearsal.restart()
    rehearsal.open(1, 2)
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-ROUND-COMMITTED"


def test_the_updates_are_erased_when_the_round_closes(rehearsal: Rehearsal) -> None:
    play_until_masked(rehearsal)
    assert rehearsal.blobs() == ["encoded-1", "masked-1-1", "shares-1-1"]
    rehearsal.ask_others()
    rehearsal.machine.close()
    while rehearsal.machine.phase is not Phase.RESULT:
        rehearsal.phase()
    rehearsal.finish()
    assert rehearsal.blobs() == []


def test_nothing_that_others_dealt_is_left_on_disk_when_the_round_closes(rehearsal: Rehearsal) -> None:
    """Neither the journal nor a backup of it may show later what T participants together could unmask."""
    run = rehearsal.me.home.runs / rehearsal.plan.run_id
    play_until_masked(rehearsal)
    shares = expect(Masked, rehearsal.part._state).shares
    secrets = [share.hex().encode() for one in shares for share in (one.masking_share, one.seed_share)]
    assert len(secrets) == 10
    assert (run / "shares-1-1").stat().st_mode & 0o777 == 0o600
    assert all(secret in (run / "shares-1-1").read_bytes() for secret in secrets)
    assert not any(secret in (run / "journal").read_bytes() for secret in secrets)
    rehearsal.ask_others()
    rehearsal.machine.close()
    while rehearsal.machine.phase is not Phase.RESULT:
        rehearsal.phase()
    assert ME in exact(rehearsal, rehearsal.finish())
    everything = b"".join(path.read_bytes() for path in rehearsal.me.home.directory.rglob("*") if path.is_file())
    assert not any(secret in everything for secret in secrets)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"[]")])
def test_a_restart_without_the_shares_of_others_forfeits_the_attempt(
    rehearsal: Rehearsal, damage: Callable[[Path], object]
) -> None:
    play_until_masked(rehearsal)
    rehearsal.ask_others()
    rehearsal.machine.close()
    damage(rehearsal.me.home.runs / rehearsal.plan.run_id / "shares-1-1")
    rehearsal.restart()
    give(rehearsal.daemon, rehearsal.task())
    assert rehearsal.me.link.take() == [], "it can release nothing, so it signs nothing"


def test_the_upload_waits_for_the_plans_time_after_the_start_of_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Rehearsal(tmp_path / ME, privacy={"upload_after_ms": 5000})
    made.propose()
    waits: list[float] = []
    monkeypatch.setattr(made.daemon._work.sender, "pause", waits.append)
    made.me.on_training = lambda number: setattr(made.me.clock, "seconds", made.me.clock.seconds + 2)
    play_until_masked(made)
    assert waits == [pytest.approx(3.0)]


def test_a_run_without_privacy_is_noted_once_in_the_ledger(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, mode="none")
    made.propose()
    for number in (1, 2):
        exact(made, made.round(number))
    notes = [row.entry for row in made.me.ledger().rows() if isinstance(row.entry, Unprotected)]
    assert [note.population for note in notes] == ["patients"]


# --- disk, network, coordinator ---


def test_a_full_disk_sends_nothing_and_goes_on_when_there_is_space_again(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    real, full = os.fsync, True

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    pauses: list[float] = []
    monkeypatch.setattr(rehearsal.daemon._work.sender, "pause", pauses.append)
    task = rehearsal.task()
    give(rehearsal.daemon, task)
    assert rehearsal.me.link.take() == []
    assert rehearsal.me.link.uploads == []
    assert pauses == [1.0]
    full = False
    rehearsal.ask_me()
    rehearsal.ask_others()
    rehearsal.machine.close()
    while rehearsal.machine.phase is not Phase.RESULT:
        rehearsal.phase()
    assert ME in exact(rehearsal, rehearsal.finish())
    assert rehearsal.me.trained == [1]  # the update in memory was kept, not drawn again


def test_a_disk_that_stays_full_is_told_to_the_coordinator_and_the_participant_is_away_until_there_is_room(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, full = rehearsal.me, True
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(rehearsal.daemon._work.sender, "pause", lambda seconds: None)
    task = rehearsal.task()
    for _ in range(10):
        give(rehearsal.daemon, task)
        me.clock.seconds += 1
        assert me.link.sent == []
        assert not rehearsal.daemon._is_idle()
    give(rehearsal.daemon, task)
    (abstained,) = me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-DISK-FULL"
    assert rehearsal.daemon._is_idle(), "it does not poll, and so counts as away"
    rehearsal.open(1, 2)
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = me.link.take()
    assert isinstance(abstained, Abstained), "it does not wait again before it says so in the next attempt"
    full = False
    assert not rehearsal.daemon._is_idle()
    rehearsal.open(1, 3)
    while rehearsal.machine.phase is not Phase.RESULT:
        rehearsal.phase()
    assert ME in exact(rehearsal, rehearsal.finish())
    assert me.trained == [1], "the update in memory was kept, not drawn again"


def test_malicious_refusal_that_names_a_full_disk_does_not_make_a_participant_go_away(rehearsal: Rehearsal) -> None:
    def refuse(what: str) -> None:
        if what == "Advertisement":
            raise PeerError("E-DISK-FAILED", participant=ME, phase=Phase.ADVERTISE_KEYS, rule="no room for you")

    rehearsal.me.link.before = refuse
    rehearsal.open()
    give(rehearsal.daemon, rehearsal.task())
    assert [type(sent) for sent in rehearsal.me.link.take()] == [Abstained]
    assert not rehearsal.daemon._is_idle()


def test_an_owner_is_told_that_the_operator_leaves_its_participant_out(rehearsal: Rehearsal) -> None:
    with capture_logs() as logs:
        give(rehearsal.daemon, MemberExcluded(rehearsal.plan.run_id))
    assert [log["run"] for log in logs if "leaves this participant out" in log["event"]] == [rehearsal.plan.run_id]
    with capture_logs() as logs:
        give(rehearsal.daemon, MemberExcluded(rehearsal.plan.run_id))
        give(rehearsal.daemon, MemberExcluded("f" * 32))
    assert logs == [], "once is enough, and a run that is not approved here is no business of its owner's"


def test_a_message_is_repeated_until_the_network_takes_it(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant.link.delivery.FIRST_PAUSE_SECONDS", 0.001)
    failures = {"Advertisement": 2, "upload": 3, "Receipt": 1}

    def cut(what: str) -> None:
        if failures.get(what, 0) > 0:
            failures[what] -= 1
            raise NetworkError("E-NET-LOST", "cut")

    rehearsal.me.link.before = cut
    assert ME in exact(rehearsal, rehearsal.round(1))
    assert set(failures.values()) == {0}


def test_a_refused_message_does_not_stop_the_daemon(rehearsal: Rehearsal) -> None:
    def refuse(what: str) -> None:
        if what == "ShareBundle":
            raise PeerError("E-ROUND-PHASE", participant=ME, phase=Phase.SHARE_KEYS, rule="too late")

    rehearsal.me.link.before = refuse
    assert ME not in exact(rehearsal, rehearsal.round(1))
    rehearsal.me.link.before = lambda what: None
    assert ME in exact(rehearsal, rehearsal.round(2))


def test_nothing_is_masked_for_an_attempt_that_closed_during_training(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    aborted = AttemptAborted(rehearsal.plan.run_id, rehearsal.machine.offer.position, "E-ROUND-DEADLINE")

    def abort(number: int) -> None:
        rehearsal.daemon._inbox.put(NumberedTask(b"\7" * 16, aborted))

    rehearsal.me.on_training = abort
    give(rehearsal.daemon, rehearsal.task())
    assert rehearsal.me.link.take() == []
    assert rehearsal.blobs() == ["encoded-1"]
    rehearsal.me.on_training = lambda number: None
    rehearsal.daemon._take(expect(NumberedTask, rehearsal.daemon._inbox.get(0)))
    rehearsal.open(1, 2)
    while rehearsal.machine.phase is not Phase.RESULT:
        rehearsal.phase()
    assert ME in exact(rehearsal, rehearsal.finish())
    assert rehearsal.me.trained == [1]


def test_missed_rounds_are_caught_up_and_not_charged(rehearsal: Rehearsal) -> None:
    rehearsal.open()
    while rehearsal.machine.phase is not Phase.RESULT:
        rehearsal.ask_others()
        rehearsal.machine.close()
    rehearsal.certify(rehearsal.machine.result)
    assert ME in exact(rehearsal, rehearsal.round(2))
    assert [charge.round for charge in rehearsal.charges()] == [2]


def test_training_that_fails_says_nothing_but_that_it_failed(rehearsal: Rehearsal) -> None:
    def fail(number: int) -> None:
        raise ValueError("patient 17 has a NaN")

    rehearsal.me.on_training = fail
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-BUG"
    assert len(rehearsal.charges()) == 1  # charged before training, and nothing is refunded


BEFORE_A_BATCH = {
    "randomness that repeats itself": "E-RANDOM-REPEATED",
    "a disk that fails": "E-DISK-FAILED",
}


@pytest.mark.parametrize("code", BEFORE_A_BATCH.values(), ids=BEFORE_A_BATCH.keys())
def test_what_fails_before_a_batch_is_drawn_keeps_its_own_code(rehearsal: Rehearsal, code: str) -> None:
    def refuse(number: int) -> None:
        raise LocalError(code, "before any data")

    rehearsal.me.on_training = refuse
    rehearsal.open()
    rehearsal.phase()
    rehearsal.phase()
    with capture_logs() as logs:
        give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == code
    assert [(log["code"], log["detail"]) for log in logs if log["event"] == "refused"] == [(code, "before any data")]
    assert rehearsal.me.link.uploads == []


# --- voided rounds ---


def test_a_voided_round_stays_charged_is_erased_and_reported_and_the_next_one_is_trained_anew(
    rehearsal: Rehearsal,
) -> None:
    play_until_masked(rehearsal)
    give(rehearsal.daemon, RoundVoided(rehearsal.plan.run_id, VoidedRound(rehearsal.world.plan.hash, 1)))
    assert rehearsal.blobs() == []
    rehearsal.restart()
    assert not rehearsal.part.round_in_progress
    rehearsal.world.transcript = VoidedRound(rehearsal.world.plan.hash, 1).transcript(rehearsal.world.transcript)
    for name, participant in rehearsal.world.participants.items():
        if name != ME:
            participant.hear(VoidedRound(rehearsal.world.plan.hash, 1))
    assert ME in exact(rehearsal, rehearsal.round(2))
    assert rehearsal.me.trained == [1, 2]
    assert [charge.round for charge in rehearsal.charges()] == [1, 2]
    give(rehearsal.daemon, RunEnded(rehearsal.plan.run_id, "aborted", "E-RUN-ABORTED"))
    report = verify_report((rehearsal.me.home.runs / rehearsal.plan.run_id / "report.json").read_bytes()).report
    assert [entry.certificate is not None for entry in report.rounds] == [False, True]
    assert expect(Claim, report.privacy).charged_rounds == 2


@pytest.mark.parametrize("told_before", [False, True])
def test_voided_rounds_in_the_history_of_an_offer_are_closed_in_their_order_once(
    rehearsal: Rehearsal, told_before: bool
) -> None:
    rehearsal.round(1)
    if told_before:
        give(rehearsal.daemon, RoundVoided(rehearsal.plan.run_id, VoidedRound(rehearsal.world.plan.hash, 2)))
    for name, participant in rehearsal.world.participants.items():
        if name != ME:
            participant.hear(VoidedRound(rehearsal.world.plan.hash, 2))
    rehearsal.world.transcript = VoidedRound(rehearsal.world.plan.hash, 2).transcript(rehearsal.world.transcript)
    rehearsal.state = replace(rehearsal.state, round=2)
    rehearsal.open(3)
    opened = expect(AttemptOpened, rehearsal.task())
    give(rehearsal.daemon, replace(opened, voided=(VoidedRound(rehearsal.world.plan.hash, 2),)))
    sent = [type(message).__name__ for message in rehearsal.me.link.take()]
    assert sent == ["Abstained", "Advertisement"], "it says that it is at work, and goes on"
    assert rehearsal.part._journal.memory.completed == 2


# --- roll-back ---


def test_a_journal_that_was_copied_back_refuses_the_run_for_good(rehearsal: Rehearsal, tmp_path: Path) -> None:
    run = rehearsal.me.home.runs / rehearsal.plan.run_id
    rehearsal.round(1)
    shutil.copytree(run, tmp_path / "backup")
    rehearsal.open(2)
    rehearsal.phase()
    mine = rehearsal.me.link.heads[-1]
    shutil.rmtree(run)
    shutil.copytree(tmp_path / "backup", run)
    rehearsal.restart()
    welcome = Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, bytes(32)), (mine,), ())
    rehearsal.daemon._compare(welcome)
    rehearsal.open(2, 2)
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-LEDGER-ROLLBACK"
    rehearsal.restart()  # also after a restart, without a handshake that says so
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-ROUND-TRANSCRIPT"


def test_heads_of_a_plan_that_is_lost_here_say_nothing_about_other_runs(rehearsal: Rehearsal) -> None:
    """Whoever lost that plan's files takes no part in its run; this run goes on."""
    rehearsal.open()
    rehearsal.phase()
    mine = rehearsal.me.link.heads[-1]
    lost = replace(mine, position=replace(mine.position, plan_hash=b"\7" * 32, round=9))
    lost = replace(lost, signature=signing_key(ME).sign(lost.signed_bytes(PROTOCOL_VERSION)))
    rehearsal.restart()
    head = LedgerHead(0, bytes(32))
    rehearsal.daemon._compare(Welcome(PROTOCOL_VERSION, "0", "test-federation", head, (lost,), ()))
    rehearsal.open(1, 2)
    assert ME in exact(rehearsal, rehearsal.round(1, 2))


def test_a_ledger_that_was_copied_back_abstains_from_every_run(rehearsal: Rehearsal) -> None:
    rehearsal.round(1)
    head = rehearsal.me.ledger().head()
    later = LedgerHead(head.sequence + 1, b"\1" * 32)
    made_up = replace(later, signature=signing_key("bob").sign(later.signed_bytes))
    signed = replace(later, signature=signing_key(ME).sign(later.signed_bytes))
    for seen in (later, made_up):
        rehearsal.daemon._compare(Welcome(PROTOCOL_VERSION, "0", "f", seen, (), ()))
        assert rehearsal.daemon._runs.part(rehearsal.plan.run_id), "nobody else's word for it counts"
    rehearsal.daemon._compare(Welcome(PROTOCOL_VERSION, "0", "f", signed, (), ()))
    rehearsal.open(2)
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-LEDGER-ROLLBACK"
    rehearsal.daemon._compare(Welcome(PROTOCOL_VERSION, "0", "f", head, (), ()))
    rehearsal.open(2, 2)
    assert ME in exact(rehearsal, rehearsal.round(2, 2))


# --- the owner's word ---


def test_a_paused_participant_abstains_and_goes_on_afterwards(rehearsal: Rehearsal) -> None:
    rehearsal.me.home.pause_mark.touch()
    rehearsal.open()
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-POLICY-WAITING"
    rehearsal.me.home.pause_mark.unlink()
    assert ME in exact(rehearsal, rehearsal.round(1, 2))


def test_an_expired_plan_is_not_trained_any_more(rehearsal: Rehearsal) -> None:
    rehearsal.me.clock.seconds = float(rehearsal.plan.expires_at)
    rehearsal.open()
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-PLAN-EXPIRED"


CHANGED_POLICY = {
    "the method is no longer allowed": (policy_text().replace("ffa-lora", "head"), "E-POLICY-RULE"),
    "the section is gone": (policy_text().split("[dataset.digits]")[0], "E-POLICY-RULE"),
    "the lifetime budget was lowered": (
        policy_text().replace("lifetime_epsilon = 40", "lifetime_epsilon = 0.1"), "E-POLICY-BUDGET"
    ),
    "a key was misspelt": (policy_text() + "[floor]\n", "E-CONFIG-UNKNOWN-KEY"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "code"), CHANGED_POLICY.values(), ids=CHANGED_POLICY.keys())
def test_a_policy_that_is_changed_during_a_run_counts_from_the_next_attempt(
    rehearsal: Rehearsal, text: str, code: str
) -> None:
    rehearsal.round(1)
    rehearsal.me.write_policy(text)
    rehearsal.open(2)
    give(rehearsal.daemon, rehearsal.task())
    (abstained,) = rehearsal.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == code
    assert rehearsal.me.trained == [1]


def test_the_hours_of_the_policy_are_kept(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime.fromtimestamp(Rehearsal(tmp_path / "one").me.clock.now(), UTC).astimezone()
    outside = f'hours = "{now + timedelta(hours=1):%H:%M}-{now + timedelta(hours=2):%H:%M}"'
    made = Rehearsal(tmp_path / "two", policy=policy_text(wards=outside))
    made.propose()
    made.open()
    give(made.daemon, made.task())
    (abstained,) = made.me.link.take()
    assert isinstance(abstained, Abstained)
    assert abstained.code == "E-POLICY-RULE"
    assert made.daemon._runs.is_idle()


# --- plans ---


def test_the_same_run_with_another_plan_is_refused_and_the_first_is_kept(rehearsal: Rehearsal) -> None:
    other = owned_plan(mode="distributed", f=0)
    give(rehearsal.daemon, PlanProposed(other.run_id, other.to_bytes(), sign_plan(other), content(INITIAL_ADAPTER)))
    assert rehearsal.me.link.take() == []
    assert rehearsal.me.review().plans.get(rehearsal.plan.run_id).plan == rehearsal.plan


def test_a_plan_that_another_operator_signed_is_not_kept(tmp_path: Path) -> None:

    made = Rehearsal(tmp_path / ME)
    signature = sign_plan(made.plan, signing_key("another operator"))
    give(made.daemon, PlanProposed(made.plan.run_id, made.plan.to_bytes(), signature, content(INITIAL_ADAPTER)))
    assert made.me.review().plans.run_ids() == ()


def test_a_plan_by_hand_waits_and_its_approval_is_sent_once_it_is_there(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(approval="by-hand"))
    assert made.propose() == []
    made.daemon._clerk.reconsider()
    assert made.me.link.take() == []
    decision = made.me.review().approve(made.plan.run_id, who="Anna Meier")
    assert isinstance(decision, Decision)
    made.daemon._clerk.reconsider()
    (approved,) = made.me.link.take()
    assert isinstance(approved, PlanApproved)
    made.daemon._clerk.reconsider()
    assert made.me.link.take() == []


def test_a_policy_that_decides_refuses_with_the_names_of_the_rules_alone(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(wards="max_rounds = 2"))
    (refused,) = made.propose()
    assert isinstance(refused, PlanRefused)
    assert (refused.code, refused.because) == ("E-POLICY-RULE", "refused by policy: dataset.rounds")


def test_a_waiting_plan_is_judged_again_when_the_policy_has_changed(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text() + "[floor]\n")
    assert made.propose() == []  # a misspelt section: nothing is decided
    made.me.write_policy(policy_text())
    made.daemon._clerk.reconsider()
    assert made.me.link.take() == []
    made.me.clock.seconds += 6
    made.daemon._clerk.reconsider()
    (approved,) = made.me.link.take()
    assert isinstance(approved, PlanApproved)


def test_a_paused_participant_rests_once_nothing_is_under_way(rehearsal: Rehearsal) -> None:
    runs = rehearsal.daemon._runs
    assert not runs.is_idle()
    rehearsal.open()
    rehearsal.phase()
    rehearsal.me.home.pause_mark.touch()
    assert not runs.is_idle()  # the attempt that has begun is finished first
    while rehearsal.machine.phase is not Phase.RESULT:
        rehearsal.phase()
    assert ME in exact(rehearsal, rehearsal.finish())
    assert runs.is_idle()
    rehearsal.me.home.pause_mark.unlink()
    assert not runs.is_idle()


def test_a_refusal_is_sent_with_what_the_owner_chose_to_say(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(approval="by-hand"))
    made.propose()
    made.me.review().refuse(made.plan.run_id, because="not this year", who="Anna Meier")
    made.daemon._clerk.reconsider()
    (refused,) = made.me.link.take()
    assert isinstance(refused, PlanRefused)
    assert (refused.code, refused.because) == ("E-POLICY-REFUSED", "not this year")


def test_an_approved_plan_that_cannot_be_trained_here_is_refused_with_the_reason(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME)

    def broken() -> None:
        raise LocalError("E-SELF-CHECK", "per-example gradients differ")

    made.me.on_prepare = broken
    (refused,) = made.propose()
    assert isinstance(refused, PlanRefused)
    assert refused.code == "E-SELF-CHECK"


def test_a_round_of_a_plan_that_was_never_approved_is_not_answered(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(approval="by-hand"))
    made.propose()
    made.open()
    give(made.daemon, made.task())
    assert made.me.link.take() == []


def test_a_dataset_with_users_is_announced_in_users_unless_its_rows_may_be_the_unit(rehearsal: Rehearsal) -> None:
    review = rehearsal.me.review()
    review.registry.add(
        DatasetEntry(name="wards", path="/data/wards.csv", added_at=0, rows=24, users=8, user_column="patient")
    )
    offered = {"digits": 100, "wards": 8}
    assert {offer.name: offer.units for offer in review.offers()} == offered
    more = '[dataset.wards]\npopulation = "patients"\nexample_level_despite_users = true\n'
    rehearsal.me.write_policy(policy_text() + more)
    assert {offer.name: offer.units for offer in review.offers()} == {**offered, "wards": 24}
    rehearsal.me.write_policy("nonsense")
    assert {offer.name: offer.units for offer in review.offers()} == offered


def test_the_owner_and_nobody_else_learns_in_how_many_rounds_training_failed(
    rehearsal: Rehearsal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rehearsal.round(1)
    run, told = rehearsal.me.home.runs / rehearsal.plan.run_id, tmp_path / "told"
    RunRecord(run).failed(1, "OutOfMemoryError")
    RunRecord(run).failed(1, "ValueError")
    RunRecord(run).failed(2, "OutOfMemoryError")
    RunRecord(run).read(24, 3, "digits.npz row 5: its label is not among the plan's")
    said = (
        f"training failed in 2 of {rehearsal.plan.recipe.rounds} rounds (OutOfMemoryError); "
        "3 of 24 rows cannot be used; the first: digits.npz row 5: its label is not among the plan's"
    )
    assert read_record(run).summary(rehearsal.plan.recipe.rounds) == said
    command = ("/bin/sh", "-c", f'printf "%s" "$ONLYSUM_MESSAGE" > {told}')
    rehearsal.me.settings = rehearsal.me.settings.model_copy(update={"notify": command})
    rehearsal.restart()
    give(rehearsal.daemon, RunEnded(rehearsal.plan.run_id, "completed", ""))
    assert told.read_text() == said
    assert said in capsys.readouterr().out
    assert b"training failed" not in (run / "report.json").read_bytes()
    assert b"OutOfMemoryError" not in (run / "report.json").read_bytes()
    assert b"cannot be used" not in (run / "report.json").read_bytes()


def test_a_policy_may_ask_a_person_after_so_many_rounds_whose_training_failed(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(wards="max_failed_rounds = 2"))
    made.propose()
    run = made.me.home.runs / made.plan.run_id
    made.round(1)
    RunRecord(run).failed(1, "RuntimeError")
    made.part._consent.require()
    RunRecord(run).failed(2, "RuntimeError")
    with pytest.raises(RefusedError, match="E-POLICY-WAITING: training failed in 2 of"):
        made.part._consent.require()
    made.me.write_policy(policy_text(wards="max_failed_rounds = 3"))
    made.part._consent.require()


def test_a_policy_that_asks_a_person_of_failures_asks_before_a_run_in_which_no_row_is_usable(tmp_path: Path) -> None:
    made = Rehearsal(tmp_path / ME, policy=policy_text(wards="max_failed_rounds = 100"))
    made.propose()
    made.part._consent.require()
    record = RunRecord(made.me.home.runs / made.plan.run_id)
    record.read(24, 23, "digits.npz row 1: its label is not among the plan's")
    made.part._consent.require()
    record.read(24, 24, "digits.npz row 1: its label is not among the plan's")
    with pytest.raises(RefusedError, match=r"E-POLICY-WAITING: 24 of 24 rows cannot be used; the first: digits\.npz"):
        made.part._consent.require()
    made.me.write_policy(policy_text())
    made.part._consent.require()


def test_a_record_of_failures_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(LocalError, match="E-STATE-DAMAGED"):
        read_record(tmp_path)
    RunRecord(tmp_path).failed(1, "RuntimeError")  # is logged, and raises nothing
    assert (tmp_path / "training.json").read_text() == "{"
