"""A run's directory copied back to each state that it ever had: the handshake or the history finds it out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from participant.protocol.memory import Record, RunMemory
from participant.runs.journal import Journal
from participant.runs.participation import Participation
from privacy.errors import OnlysumError, PeerError
from privacy.heads import HeadsShown, Moment
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import RoundCertificate, SurvivorProposal, UnmaskRequest
from protos.envelope import (
    Abstained,
    AttemptAborted,
    LedgerHead,
    RoundCompleted,
    Submission,
    SurvivorsProposed,
    UnmaskRequested,
    Welcome,
)
from tests.worlds.expect import expect
from tests.worlds.owner import give
from tests.worlds.plans import signing_key
from tests.worlds.rehearsal import ME, Rehearsal, heads_with


@dataclass
class Story:
    """A daemon's life: two attempts at round 1, of which the second completes, and round 2 until the upload is out."""

    rehearsal: Rehearsal
    copies: list[tuple[Path, RunMemory]]  # of the run's directory after each record of its journal
    shown: list[HeadsShown]  # by this participant; an honest coordinator has the last
    certificate: RoundCertificate  # of round 1
    asked: tuple[SurvivorProposal, SurvivorProposal, UnmaskRequest]  # in round 1: of attempt 1, and twice of attempt 2

    @property
    def last(self) -> HeadsShown:
        """What an honest coordinator returns."""
        return self.shown[-1]

    @property
    def directory(self) -> Path:
        """Where the run's journal and files lie."""
        return self.rehearsal.me.home.runs / self.rehearsal.plan.run_id

    @property
    def part(self) -> Participation:
        """The daemon's part in the run."""
        return self.rehearsal.part

    @property
    def memory(self) -> RunMemory:
        """What the daemon's journal says."""
        return Journal.open(self.directory, self.rehearsal.world.plan.hash).memory

    def go_back(self, copy: Path) -> None:
        """Put a copy in place, and start a daemon on it."""
        shutil.rmtree(self.directory)
        shutil.copytree(copy, self.directory)
        self.rehearsal.restart()
        self.rehearsal.me.link.take()

    def shake_hands(self, *seen: HeadsShown) -> None:
        """Let a coordinator say what it has last seen of this participant."""
        self.rehearsal.daemon._compare(
            Welcome(PROTOCOL_VERSION, "0", "test-federation", LedgerHead(0, bytes(32)), seen, ())
        )

    def offered(self, number: int, attempt: int) -> Submission:
        """Return the answer to an offer."""
        self.rehearsal.open(number, attempt)
        give(self.rehearsal.daemon, self.rehearsal.task())
        (answer,) = self.rehearsal.me.link.take()
        return answer


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    path = tmp_path_factory.mktemp("story")
    rehearsal, copies = Rehearsal(path / ME), list[tuple[Path, RunMemory]]()
    rehearsal.propose()
    directory, journal = (
        rehearsal.me.home.runs / rehearsal.plan.run_id,
        rehearsal.part._journal,
    )
    append = journal.append

    def copied(record: Record) -> None:
        append(record)
        copies.append((shutil.copytree(directory, path / f"copy-{len(copies)}"), journal.memory))

    journal.append = copied  # type: ignore[method-assign]  # this journal alone, for its whole life
    rehearsal.open()
    for _ in range(3):
        rehearsal.phase()
    give(rehearsal.daemon, AttemptAborted(rehearsal.plan.run_id, rehearsal.machine.offer.position, "E-ROUND-TOO-FEW"))
    first = expect(SurvivorProposal, rehearsal.outbox())
    rehearsal.open(1, 2)
    for _ in range(3):
        rehearsal.phase()
    second = expect(SurvivorProposal, rehearsal.outbox())
    rehearsal.phase()
    request = expect(UnmaskRequest, rehearsal.outbox())
    rehearsal.phase()
    certificate = rehearsal.finish().certificate
    rehearsal.open(2)
    rehearsal.phase()
    rehearsal.phase()
    rehearsal.ask_me()
    return Story(rehearsal, copies, [*rehearsal.me.link.heads], certificate, (first, second, request))


def test_a_journal_copied_back_to_any_earlier_record_ends_the_run_at_the_handshake(story: Story) -> None:
    """Also within an attempt: after its keys, its update, its upload, its signature or its release."""
    assert len(story.copies) == 11, "round 1: two offers, an update, two uploads, a signature, a release, a result"
    for copy, memory in story.copies[:-1]:
        story.go_back(copy)
        assert story.memory == memory
        story.shake_hands(story.last)
        assert story.memory.refused == "E-LEDGER-ROLLBACK"
        story.rehearsal.restart()
        assert isinstance(story.offered(memory.completed + 1, 3), Abstained)
        assert story.memory.highest == memory.highest


def test_a_daemon_goes_on_only_with_the_upload_of_its_last_attempt_and_of_a_round_that_is_not_over(
    story: Story,
) -> None:
    """The copies were made right after each record: a crash at that point leaves the files of the round behind."""
    gone_on = []
    for copy, memory in story.copies:
        story.go_back(copy)
        last = memory.masked is not None and memory.masked.offer.position.order == memory.highest
        assert story.part.round_in_progress == (last and memory.completed < memory.highest[0])
        gone_on.append(story.part.round_in_progress)
    assert gone_on == [False, False, True, False, True, True, True, False, False, False, True]


def test_malicious_coordinator_gets_nothing_from_a_refused_run_though_its_upload_is_still_there(story: Story) -> None:
    """The refusal outlives a restart, also where the coordinator does not say again what it once had seen."""
    run_id = story.rehearsal.plan.run_id
    first, second, request = story.asked
    uploaded = [(copy, memory) for copy, memory in story.copies if memory.masked_in(1) and not memory.completed]
    assert len(uploaded) == 5
    for copy, _ in uploaded:
        story.go_back(copy)
        story.shake_hands(story.last)
        story.rehearsal.restart()
        story.shake_hands()
        before = story.memory
        assert not story.part.round_in_progress
        for task in (
            SurvivorsProposed(run_id, first, heads_with(first.receipts)),
            SurvivorsProposed(run_id, second, heads_with(second.receipts)),
            UnmaskRequested(run_id, request),
        ):
            with pytest.raises(OnlysumError):
                story.part.handle(task)
        assert story.rehearsal.me.link.take() == []
        assert story.memory == before


def test_the_newest_journal_goes_on_with_its_upload(story: Story) -> None:
    copy, memory = story.copies[-1]
    story.go_back(copy)
    story.shake_hands(story.last)
    assert story.memory == memory
    assert story.part.round_in_progress


def test_malicious_heads_that_this_participant_did_not_sign_end_nothing(story: Story) -> None:
    """A coordinator may return what others signed, what was changed, or garbage: nothing of it is believed."""
    copy, memory = story.copies[-1]
    longer = replace(story.last, journal=replace(story.last.journal, length=99))
    named = replace(longer, sender="bob")
    theirs = replace(named, signature=signing_key("bob").sign(named.signed_bytes(PROTOCOL_VERSION)))
    mine = replace(named, signature=signing_key(ME).sign(named.signed_bytes(PROTOCOL_VERSION)))
    for shown in (longer, replace(longer, signature=bytes(64)), theirs, mine):
        story.go_back(copy)
        story.shake_hands(shown)
        assert story.memory == memory


def test_heads_of_another_branch_end_the_run(story: Story) -> None:
    """As long as the journal, with another record: a copy of the directory went on elsewhere."""
    copy, _ = story.copies[-1]
    other = replace(story.last, journal=replace(story.last.journal, hash=bytes(32)))
    story.go_back(copy)
    story.shake_hands(replace(other, signature=signing_key(ME).sign(other.signed_bytes(PROTOCOL_VERSION))))
    assert story.memory.refused == "E-LEDGER-ROLLBACK"


def test_each_step_is_announced_before_it_and_a_retry_trains_nothing_anew(story: Story) -> None:
    def moments(*attempt: int) -> list[Moment]:
        return [shown.moment for shown in story.shown if shown.position.order == attempt]

    assert moments(1, 1) == [Moment.ADVERTISE, Moment.TRAIN, Moment.UPLOAD]
    assert moments(1, 2) == [Moment.ADVERTISE, Moment.UPLOAD, Moment.SIGN, Moment.RELEASE]
    assert moments(2, 1) == [Moment.ADVERTISE, Moment.TRAIN, Moment.UPLOAD]


def test_malicious_coordinator_that_hides_what_it_saw_is_found_out_by_the_rounds_certificate(story: Story) -> None:
    """It wants attempt 3 of round 1 from a journal that does not know the upload to attempt 2 any more."""
    before = [copy for copy, memory in story.copies if memory.highest <= (1, 2) and not _uploaded_again(memory)]
    assert len(before) == 4
    for copy in before:
        story.go_back(copy)
        story.shake_hands()
        with pytest.raises(PeerError, match="lists an upload that this journal does not know"):
            story.part.handle(RoundCompleted(story.rehearsal.plan.run_id, story.certificate))
        assert story.memory.refused == "E-ROUND-TRANSCRIPT"


def _uploaded_again(memory: RunMemory) -> bool:
    return memory.masked is not None and memory.masked.attempt == 2


def test_malicious_second_survivor_set_is_refused_by_every_journal_that_knows_the_first(story: Story) -> None:
    """Whatever the coordinator hides, a journal that has the signature or the release opens no retry of its round."""
    committed = [(copy, memory) for copy, memory in story.copies if memory.signed_in(1) and not memory.completed]
    assert len(committed) == 2, "with the signature, and with the release too"
    for copy, _ in committed:
        story.go_back(copy)
        story.rehearsal.world.completed.clear()
        story.rehearsal.world.transcript = story.memory.transcript
        answer = story.offered(1, 3)
        assert isinstance(answer, Abstained)
        assert answer.code == "E-ROUND-COMMITTED"
