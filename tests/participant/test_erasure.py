"""Updates and shares on an owner's disk are swept by what the disk says, whatever was heard or not before it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from host import durable
from host.locks import only_daemon
from participant import home as home_module
from participant.daemon.runner import SWEEP_AGAIN_SECONDS, SWEEP_SECONDS
from participant.owner.plan_store import Ended
from participant.protocol.memory import RunMemory
from participant.runs.erasure import LAST_ATTEMPT_SECONDS, sweep, sweep_run, sweep_without_daemon
from participant.runs.journal import Journal
from participant.runs.open_runs import Runs
from privacy.errors import LocalError, Phase
from protos.envelope import RoundCompleted, RunEnded
from tests.worlds.owner import Killed, give
from tests.worlds.rehearsal import ME, Rehearsal

ALL = ["encoded-1", "masked-1-1", "shares-1-1"]


@pytest.fixture
def masked(tmp_path: Path) -> Rehearsal:
    """A daemon that has uploaded its masked update of round 1."""
    made = Rehearsal(tmp_path / ME)
    made.propose()
    made.open()
    for _ in range(2):
        made.phase()
    made.ask_me()
    assert made.blobs() == ALL
    return made


def swept(made: Rehearsal) -> int:
    """Sweep as a daemon does at its start."""
    return sweep(made.me.home, made.me.review().plans, now=made.me.clock.now())


def memory(made: Rehearsal) -> RunMemory:
    """What a restarted daemon would know of the run."""
    return Journal.open(made.me.home.runs / made.plan.run_id, made.world.plan.hash).memory


# --- while a run goes on ---


def test_a_sweep_leaves_what_a_round_in_progress_still_needs(masked: Rehearsal) -> None:
    assert swept(masked) == 0
    assert masked.blobs() == ALL
    masked.restart()
    masked.daemon._runs.sweep()
    assert masked.part.round_in_progress


def test_the_encoded_update_goes_once_its_rounds_survivors_are_signed(masked: Rehearsal) -> None:
    masked.ask_others()
    masked.machine.close()
    masked.ask_me()
    assert memory(masked).signed_in(1) is not None
    assert swept(masked) == 1
    assert masked.blobs() == ALL[1:]


def test_what_an_earlier_attempt_stored_goes_when_a_later_one_is_advertised(masked: Rehearsal) -> None:
    masked.open(1, 2)
    masked.ask_me()
    assert masked.blobs() == ["encoded-1"], "a retry masks these bytes"


def test_files_that_no_record_speaks_of_and_drafts_that_a_crash_left_go(masked: Rehearsal) -> None:
    run = masked.me.home.runs / masked.plan.run_id
    for name in (".encoded-1.new", "encoded-2", "masked-1-2", "shares-2-1"):
        (run / name).write_bytes(b"left behind")
    before = (run / "journal").read_bytes()
    assert swept(masked) == 4
    assert masked.blobs() == ALL
    assert (run / "journal").read_bytes() == before


def test_a_run_that_is_refused_for_good_leaves_nothing(masked: Rehearsal) -> None:
    masked.part.refuse_for_good("E-LEDGER-ROLLBACK")
    assert masked.blobs() == []


# --- however it ends ---


def refuse(made: Rehearsal) -> None:
    made.me.review().refuse(made.plan.run_id, because="not any more", who="Anna Meier")


def end(made: Rehearsal) -> None:
    made.me.review().plans.end(made.plan.run_id, Ended(state="aborted", code="E-RUN-FAILED", at=0))


def leave(made: Rehearsal) -> None:
    durable.write(made.me.home.left_mark, b"")


def forget_decision(made: Rehearsal) -> None:
    (made.me.review().plans.directory(made.plan.run_id) / "decision.json").unlink()


def damage_decision(made: Rehearsal) -> None:
    (made.me.review().plans.directory(made.plan.run_id) / "decision.json").write_text("{")


def other_plan(made: Rehearsal) -> None:
    path = made.me.review().plans.directory(made.plan.run_id) / "decision.json"
    path.write_text(path.read_text().replace(made.world.plan.hash.hex(), "00" * 32))


def lose_plan(made: Rehearsal) -> None:
    (made.me.review().plans.directory(made.plan.run_id) / "plan.json").unlink()


def damage_journal(made: Rehearsal) -> None:
    path = made.me.home.runs / made.plan.run_id / "journal"
    path.write_bytes(path.read_bytes().replace(b'"attempt":1', b'"attempt":2'))


def never_told(made: Rehearsal) -> None:
    made.me.clock.seconds = made.plan.expires_at + LAST_ATTEMPT_SECONDS


ENDS: dict[str, Callable[[Rehearsal], None]] = {
    "its owner refuses it": refuse,
    "it has ended": end,
    "the owner leaves the federation": leave,
    "no decision is there": forget_decision,
    "the decision is damaged": damage_decision,
    "another plan was approved": other_plan,
    "its plan is lost": lose_plan,
    "its journal is damaged": damage_journal,
    "its plan has expired and nobody said how it ended": never_told,
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_of_a_run_outlives_that(how: str, masked: Rehearsal) -> None:
    ENDS[how](masked)
    assert swept(masked) == 3
    assert masked.blobs() == []
    assert (masked.me.home.runs / masked.plan.run_id / "journal").exists()


def test_an_attempt_that_is_open_at_its_plans_expiry_may_end(masked: Rehearsal) -> None:
    masked.me.clock.seconds = masked.plan.expires_at + LAST_ATTEMPT_SECONDS - 1
    assert swept(masked) == 0


def test_a_disk_that_cannot_be_read_now_erases_nothing(masked: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Journal:
        raise LocalError("E-DISK-FAILED", "journal: input/output error")

    monkeypatch.setattr(Journal, "open", broken)
    adapter = masked.me.home.runs / masked.plan.run_id / "adapter.1"
    adapter.write_bytes(b"what the round starts from")
    with pytest.raises(LocalError, match="E-DISK-FAILED"):
        sweep_run(masked.me.home, masked.me.review().plans, masked.plan.run_id, now=masked.me.clock.now())
    masked.daemon._runs.sweep()  # it is logged, and the daemon goes on
    assert adapter.exists()
    assert masked.blobs() == ALL


def test_a_disk_that_cannot_be_read_for_a_moment_erases_nothing(
    masked: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, met = Journal.open, list[Path]()

    def broken_once(directory: Path, plan_hash: bytes) -> Journal:
        met.append(directory)
        if len(met) == 1:
            cannot(directory)
        return real(directory, plan_hash)

    monkeypatch.setattr(Journal, "open", broken_once)
    with pytest.raises(LocalError, match="E-DISK-FAILED"):
        sweep_run(masked.me.home, masked.me.review().plans, masked.plan.run_id, now=masked.me.clock.now())
    assert masked.blobs() == ALL


def test_a_refusal_that_a_running_daemon_sees_erases_what_a_part_before_it_left(masked: Rehearsal) -> None:
    masked.restart()  # the new process has no part in the run yet
    refuse(masked)
    masked.daemon._clerk.reconsider()
    assert masked.blobs() == []


def test_a_run_that_is_turned_down_again_after_it_had_begun_leaves_nothing(masked: Rehearsal) -> None:
    for path in masked.me.home.models.iterdir():
        path.unlink()
    masked.restart()
    masked.propose()
    decision = masked.me.review().plans.decision(masked.plan.run_id)
    assert decision is not None
    assert decision.verdict == "refused"
    assert masked.blobs() == []


def test_a_command_sweeps_where_no_daemon_runs_and_leaves_it_to_one_that_does(masked: Rehearsal) -> None:
    refuse(masked)
    home, plans = masked.me.home, masked.me.review().plans
    with only_daemon(home.directory, "participant"):
        sweep_without_daemon(home, plans, now=masked.me.clock.now())
        assert masked.blobs() == ALL
    sweep_without_daemon(home, plans, now=masked.me.clock.now())
    assert masked.blobs() == []


def cannot(path: Path) -> None:
    raise LocalError("E-DISK-FAILED", str(path))


def test_an_update_goes_although_an_adapter_beside_it_does_not(
    masked: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, run_id = masked.me.review().plans, masked.plan.run_id
    plans.end(run_id, Ended(state="aborted", code="", at=1))
    monkeypatch.setattr("participant.runs.erasure.erase_adapters", cannot)
    with pytest.raises(LocalError, match="E-DISK-FAILED"):
        sweep_run(masked.me.home, plans, run_id, now=masked.me.clock.now())
    assert masked.blobs() == []


def test_a_sweep_goes_on_with_other_runs_where_the_disk_refuses_one(
    masked: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, real = masked.me.home.runs / ("00" * 16), home_module.erase_updates
    other.mkdir()
    (other / "encoded-1").write_bytes(b"of a run that nobody knows")
    masked.me.review().plans.end(masked.plan.run_id, Ended(state="aborted", code="", at=1))

    def erase(run: Path, *, keep: Collection[str] = ()) -> int:
        if run == other:
            cannot(run)
        return real(run, keep=keep)

    monkeypatch.setattr("participant.runs.erasure.erase_updates", erase)
    with pytest.raises(LocalError, match="E-DISK-FAILED"):
        swept(masked)
    assert masked.blobs() == []
    assert (other / "encoded-1").exists()


def test_a_daemon_whose_disk_refused_sweeps_again_after_a_minute(
    masked: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = masked.daemon
    daemon._sweep()
    with monkeypatch.context() as disk:
        disk.setattr("participant.runs.erasure.erase_adapters", cannot)
        give(daemon, RunEnded(masked.plan.run_id, "aborted", ""))
    assert masked.me.review().plans.ended(masked.plan.run_id) is not None
    sweeps: list[int] = []

    def swept(runs: Runs) -> None:
        sweeps.append(1)
        runs.unerased = False

    monkeypatch.setattr(Runs, "sweep", swept)
    for seconds, count in ((SWEEP_AGAIN_SECONDS - 1, 0), (1, 1), (SWEEP_SECONDS - 1, 1), (1, 2)):
        masked.me.clock.seconds += seconds
        daemon._sweep_if_due()
        assert len(sweeps) == count


def test_a_command_says_that_the_disk_refused(masked: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*paths: Path) -> None:
        raise OSError(5, "Input/output error")

    refuse(masked)
    monkeypatch.setattr(durable, "erase", broken)
    with pytest.raises(LocalError, match="E-DISK-FAILED"):
        sweep_without_daemon(masked.me.home, masked.me.review().plans, now=masked.me.clock.now())


# --- killed at every step ---


class Steps:
    """Counts the writes and erasures of a daemon, and kills it before or after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done = 0
        self.last: int | None = None
        self.after = False
        for owner, name in ((durable, "write"), (durable, "erase"), (Journal, "append")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.done += 1
            if self.done == self.last and not self.after:
                raise Killed
            result = step(*args, **kwargs)
            if self.done == self.last:
                raise Killed
            return result

        return counted

    def kill(self, at: int | None, *, after: bool = False) -> None:
        """Count anew and kill at a step; None: at none."""
        self.done, self.last, self.after = 0, at, after


def restarted(made: Rehearsal) -> None:
    """Start a daemon after a crash, as the process does: it sweeps first."""
    made.restart()
    made.daemon._runs.sweep()


def play(made: Rehearsal, steps: Steps) -> None:
    """Play the story: a round, then the end of the run; after a crash the coordinator asks again."""
    made.open()
    while made.machine.phase is not Phase.RESULT:
        made.phase()
        if steps.last is not None and steps.done >= steps.last:  # it was killed, and has started again
            made.daemon._runs.sweep()
            assert set(made.blobs()) <= memory(made).files
    certificate = made.machine.result.certificate
    for task in (RoundCompleted(made.plan.run_id, certificate), RunEnded(made.plan.run_id, "aborted", "E-RUN-FAILED")):
        try:
            give(made.daemon, task)
        except Killed:
            restarted(made)
            assert set(made.blobs()) <= memory(made).files
            if not made.me.review().plans.ended(made.plan.run_id):
                give(made.daemon, task)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_or_erasure_nothing_of_no_use_is_left_and_after_the_end_nothing_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    steps, at, whole = Steps(monkeypatch), 0, 1
    while at <= whole:
        made = Rehearsal(tmp_path / f"{at}" / ME)
        made.propose()
        steps.kill(at or None, after=after)
        play(made, steps)
        whole = steps.done if at == 0 else whole
        steps.kill(None)
        if made.me.review().plans.ended(made.plan.run_id) is None:
            give(made.daemon, RunEnded(made.plan.run_id, "aborted", "E-RUN-FAILED"))
        restarted(made)
        assert made.blobs() == [], at
        at += 1
    assert whole >= 12
