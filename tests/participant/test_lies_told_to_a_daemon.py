"""Every lie of the coordinators' catalogue told to a real daemon: named, unanswered, and no byte on disk changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from participant.runs.participation import Participation
from privacy.errors import LocalError, OnlysumError, PeerError, Phase
from protos.envelope import (
    AttemptOpened,
    KeysAdvertised,
    RoundCompleted,
    SharesDealt,
    SurvivorsProposed,
    UnmaskRequested,
)
from tests.worlds import lying_coordinator as lies
from tests.worlds.owner import give
from tests.worlds.rehearsal import Rehearsal, exact, heads_with

CATALOGUE: dict[Phase, Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    Phase.ADVERTISE_KEYS: lies.OFFERS,
    Phase.SHARE_KEYS: lies.SETS_1,
    Phase.COLLECT_MASKED: lies.SETS_2,
    Phase.AGREE_SURVIVORS: lies.SETS_S,
    Phase.UNMASK: lies.REQUESTS,
    Phase.RESULT: lies.HISTORIES,
}

# What the refusal says of each lie: the rule that was broken.
OUTSIDE, HISTORY = "outside the plan's limits", "does not continue the history that this participant knows"
UNSORTED, TOO_FEW = "must be sorted and name nobody twice", "has 3 members, the plan asks for at least 4"
OWN, TWICE, LOW_ORDER = "own advertisement is missing or changed", "a key that appears twice", "of low order or no key"
UNSIGNED_SHARES, NOT_UNDER = "the shares of alice are not signed by it", "not under the root that it signed"
NOT_IN_S, NONE_VALID = "this participant is not among the survivors", "0 of the 4 signatures that the plan asks for"
ONE_SHORT, NOT_NEXT = "3 of the 4 signatures that the plan asks for", "not of the next round of this plan"
RULES: dict[str, str] = {
    "an offer of another plan": "belongs to another plan",
    "a round beyond the plan": OUTSIDE,
    "round zero": OUTSIDE,
    "an attempt beyond the plan": OUTSIDE,
    "attempt zero": OUTSIDE,
    "a round that skips one": HISTORY,
    "another history": HISTORY,
    "an invented participant": "names mallory, who does not belong to it",
    "substituted keys of a peer": "the advertisement of dave is not signed by it",
    "substituted keys of the victim itself": OWN,
    "the victim left out": OWN,
    "too few participants": TOO_FEW,
    "a participant named twice": UNSORTED,
    "an unsorted set": UNSORTED,
    "a peer that was offered another model": "dave was offered another round, attempt or adapter",
    "a peer that was shown another history": "split view: dave was shown another history",
    "a low-order masking key": LOW_ORDER,
    "a low-order masking key, top bit set": LOW_ORDER,
    "a low-order channel key": LOW_ORDER,
    "one key for two participants": TWICE,
    "one key for two participants, top bit flipped": TWICE,
    "one key for masking and channel": TWICE,
    "too few dealers": TOO_FEW,
    "a dealer named twice": UNSORTED,
    "unsorted dealers": "must come from this participant's neighbours in U2, sorted",
    "a dealer outside U1": "names zoe, who does not belong to it",
    "a share with another dealer's name": UNSIGNED_SHARES,
    "an unopened share of another attempt": "the share of alice is for another attempt or holder",
    "an unopened share with a changed signature": UNSIGNED_SHARES,
    "an unopened share with another root": UNSIGNED_SHARES,
    "an unopened share with another commitment": UNSIGNED_SHARES,
    "an unopened share with a wrong proof": NOT_UNDER,
    "a share with a changed hash": NOT_UNDER,
    "a changed ciphertext": "the sealed share of alice was changed on the way",
    "a longer ciphertext": "the sealed share of alice has a wrong length",
    "the asked participant is not in S": NOT_IN_S,
    "too few survivors": TOO_FEW,
    "a survivor named twice": UNSORTED,
    "unsorted survivors": UNSORTED,
    "a survivor outside U2": "names zoe, who does not belong to it",
    "another digest for the victim's own upload": "the receipt of this participant names another upload",
    "one receipt of another attempt": "the receipt of erin is of another attempt",
    "all masked with another U2": "masked with another U2 than this participant",
    "a threshold downgrade: one signature short": ONE_SHORT,
    "one signature repeated": ONE_SHORT,
    "forged signatures": NONE_VALID,
    "signatures under swapped names": NONE_VALID,
    "signatures of another attempt": NONE_VALID,
    "another S than was signed": "not the survivor set signed or released before",
    "an S without the asked participant": NOT_IN_S,
    "an S that is too small": TOO_FEW,
    "a survivor outside the quorum whose receipt it did not sign": "the receipt of erin is not signed by it",
    "an S with a stranger": "names zoe, who does not belong to it",
    "a certificate of another plan": NOT_NEXT,
    "a certificate of an attempt beyond the plan": NOT_NEXT,
    "a certificate with too few signatures": ONE_SHORT,
    "a certificate with the right names under wrong signatures": NONE_VALID,
    "a certificate with the right signatures under wrong names": "1 of the 4 signatures that the plan asks for",
    "a certificate with another context": NONE_VALID,
    "a certificate with fewer survivors": TOO_FEW,
    "a certificate with unsorted survivors": UNSORTED,
    "a certificate with a changed digest": NONE_VALID,
    "other survivors than the victim signed": "names other survivors than this participant signed",
    "another upload of the victim": "lists an upload that this journal does not know",
    "another attempt than the victim uploaded to": "lists an upload that this journal does not know",
    "another context than the victim uploaded in": "lists an upload that this journal does not know",
    "a survivor who is not on the roster": "names zoe, who does not belong to it",
    "attempt zero in a certificate": NOT_NEXT,
}
EARLY = "a certificate of a later round"  # nothing to refuse: the next offer brings the rounds between
ELSEWHERE = "the receipts of another round"  # a daemon has no state of it, whoever is to blame


class Bob:
    """Bob's daemon in a phase of an honest round, and all that lies on his disk."""

    def __init__(self, path: Path, phase: Phase) -> None:
        self.rehearsal = Rehearsal(path, name=lies.VICTIM)
        self.rehearsal.propose()
        self.rehearsal.open()
        while self.rehearsal.machine.phase is not phase:
            self.rehearsal.phase()
        self.phase = phase
        self.path = path

    @property
    def part(self) -> Participation:
        """Bob's part in the run."""
        return self.rehearsal.daemon._runs.part(self.rehearsal.plan.run_id)

    @property
    def honest(self) -> Any:
        """What an honest coordinator would tell bob now: of sets the members, which lies change."""
        return lies.members_of(self.rehearsal.machine.outbox(lies.VICTIM))

    def task(self, told: Any) -> Any:
        """Return the task that tells it."""
        run_id, at = self.rehearsal.plan.run_id, self.rehearsal.machine.offer.position
        match self.phase:
            case Phase.ADVERTISE_KEYS:
                return AttemptOpened(run_id, told, (), ())
            case Phase.SHARE_KEYS:
                return KeysAdvertised(run_id, told, heads_with(told))
            case Phase.COLLECT_MASKED:
                return SharesDealt(run_id, at, told)
            case Phase.AGREE_SURVIVORS:
                return SurvivorsProposed(run_id, told, heads_with(told.receipts))
            case Phase.UNMASK:
                return UnmaskRequested(run_id, told)
        return RoundCompleted(run_id, told)

    def disk(self) -> dict[str, bytes]:
        """Return every file of bob's directory, and what his ledger holds."""
        files = (
            path for path in sorted(self.path.rglob("*")) if path.is_file() and not path.name.startswith("ledger.db")
        )
        rows = repr([row.hash for row in self.rehearsal.me.ledger().rows()]).encode()
        return {str(file.relative_to(self.path)): file.read_bytes() for file in files} | {"ledger": rows}

    def refusal(self, told: Any) -> OnlysumError:
        """Tell it; return the refusal after checking that nothing was sent, and nothing on disk has changed."""
        before, uploads = self.disk(), len(self.rehearsal.me.link.uploads)
        with pytest.raises(OnlysumError) as refused:
            self.part.handle(self.task(told))
        assert self.rehearsal.me.link.sent == []
        assert len(self.rehearsal.me.link.uploads) == uploads
        assert self.disk() == before
        return refused.value

    def go_on(self) -> None:
        """Play the round to its end: bob is in the sum, once."""
        while self.rehearsal.machine.phase is not Phase.RESULT:
            self.rehearsal.phase()
        assert lies.VICTIM in exact(self.rehearsal, self.rehearsal.finish())


@pytest.mark.parametrize("phase", CATALOGUE, ids=lambda phase: phase.name)
def test_malicious_coordinator_gets_a_named_refusal_and_changes_no_byte_of_a_daemons_disk(
    phase: Phase, tmp_path: Path
) -> None:
    """All lies of a phase, one after the other; then the round goes on as if none had been told."""
    bob = Bob(tmp_path / "bob", phase)
    for sentence, (change, code) in CATALOGUE[phase].items():
        if sentence in (EARLY, ELSEWHERE):
            continue
        error = bob.refusal(change(bob.honest))
        assert isinstance(error, PeerError), sentence
        assert (error.code, error.participant, error.phase) == (code, "coordinator", phase.name), sentence
        assert RULES[sentence] in error.rule, sentence
    bob.go_on()


def test_malicious_survivors_of_a_round_that_was_not_begun_find_nobody(tmp_path: Path) -> None:
    bob = Bob(tmp_path / "bob", Phase.AGREE_SURVIVORS)
    change, _ = lies.SETS_S[ELSEWHERE]
    error = bob.refusal(change(bob.honest))
    assert isinstance(error, LocalError)
    assert "round 2, attempt 1 is not the attempt in progress here" in error.detail
    bob.go_on()


def test_malicious_certificate_of_a_later_round_is_not_looked_at(tmp_path: Path) -> None:
    bob = Bob(tmp_path / "bob", Phase.RESULT)
    before = bob.disk()
    change, _ = lies.HISTORIES[EARLY]
    bob.part.handle(bob.task(change(bob.honest)))
    assert bob.disk() == before
    assert bob.rehearsal.me.link.sent == []
    bob.go_on()


@pytest.mark.parametrize("sentence", lies.SIGNED_HISTORIES)
def test_malicious_history_that_a_quorum_signed_is_refused_by_a_daemon_and_may_end_its_part(
    sentence: str, tmp_path: Path
) -> None:
    """A quorum that signed what the journal does not know means that the journal was rolled back: nothing from then."""
    change, code = lies.SIGNED_HISTORIES[sentence]
    bob = Bob(tmp_path / "bob", Phase.RESULT)
    journal = bob.rehearsal.me.home.runs / bob.rehearsal.plan.run_id / "journal"
    before = journal.read_bytes()
    with pytest.raises(PeerError) as refused:
        bob.part.handle(bob.task(change(bob.honest)))
    error = refused.value
    assert (error.code, error.participant, error.phase) == (code, "coordinator", "RESULT")
    said = sentence if sentence != "attempt zero" else "attempt zero in a certificate"
    assert RULES[said] in error.rule
    assert bob.rehearsal.me.link.sent == []
    added = journal.read_bytes().removeprefix(before)
    if code != "E-ROUND-TRANSCRIPT":
        assert added == b""
        bob.go_on()
        return
    assert added.count(b"\n") == 1
    assert b"RunRefused" in added
    bob.rehearsal.restart()
    give(bob.rehearsal.daemon, AttemptOpened(bob.rehearsal.plan.run_id, bob.rehearsal.offer(1, 2), (), ()))
    (answer,) = bob.rehearsal.me.link.take()
    assert type(answer).__name__ == "Abstained"
