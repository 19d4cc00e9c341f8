"""When the coordinator's round may close a phase, when waiting on brings nothing, and whom it tells what."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.protocol import round as round_module
from coordinator.protocol.round import CoordinatorRound
from privacy.errors import LocalError, Phase
from tests.worlds.federation import Federation
from tests.worlds.plans import names


class Attempt:
    """An honest attempt of five, of whom four must survive and four sign."""

    def __init__(self, **overrides: Any) -> None:
        self.federation = Federation(5, 1, **overrides)
        self.offer = self.federation.offer(1, 1)
        self.round = CoordinatorRound(self.federation.plan, self.offer)

    def answers(self, *who: str) -> None:
        """Take the honest answers of some, once each."""
        for name in who:
            if name in self.round.answered():
                continue
            (answer,) = self.federation.participants[name].hear(self.round.outbox(name))
            assert self.round.receive(answer)

    def reaches(self, phase: Phase) -> None:
        """Everybody answers until a phase begins."""
        while self.round.phase is not phase:
            self.answers(*names(5))
            self.round.close()


WAITING = [Phase.ADVERTISE_KEYS, Phase.SHARE_KEYS, Phase.COLLECT_MASKED]
ENOUGH = [Phase.AGREE_SURVIVORS, Phase.UNMASK]


@pytest.mark.parametrize("phase", [*WAITING, *ENOUGH])
def test_a_phase_can_close_once_four_of_five_have_answered(phase: Phase) -> None:
    attempt = Attempt()
    attempt.reaches(phase)
    assert not attempt.round.can_close()
    attempt.answers("alice", "bob", "carol")
    assert not attempt.round.can_close()
    assert not attempt.round.settled()
    attempt.answers("dave")
    assert attempt.round.can_close()


@pytest.mark.parametrize("phase", WAITING)
def test_a_set_is_settled_only_when_everybody_has_answered_or_abstains(phase: Phase) -> None:
    attempt = Attempt()
    attempt.reaches(phase)
    attempt.answers("alice", "bob", "carol", "dave")
    assert not attempt.round.settled()
    assert attempt.round.awaited() == {"erin"}
    attempt.round.abstain("erin")
    assert attempt.round.settled()


@pytest.mark.parametrize("phase", WAITING)
def test_a_set_is_settled_without_enough_answers_if_nobody_else_may_answer(phase: Phase) -> None:
    attempt = Attempt()
    attempt.reaches(phase)
    attempt.answers("alice")
    for name in ("bob", "carol", "dave", "erin"):
        attempt.round.abstain(name)
    assert attempt.round.settled()
    assert not attempt.round.can_close()


@pytest.mark.parametrize("phase", ENOUGH)
def test_signatures_and_shares_are_settled_by_a_quorum(phase: Phase) -> None:
    attempt = Attempt()
    attempt.reaches(phase)
    attempt.answers("alice", "bob", "carol", "dave")
    assert attempt.round.settled()


def test_where_all_must_survive_four_signatures_are_enough() -> None:
    attempt = Attempt(min_survivors=5)
    for phase in WAITING:
        attempt.reaches(phase)
        attempt.answers("alice", "bob", "carol", "dave")
        assert not attempt.round.can_close()
    for phase in ENOUGH:
        attempt.reaches(phase)
        attempt.answers("alice", "bob", "carol")
        assert not attempt.round.can_close()
        attempt.answers("dave")
        assert attempt.round.can_close()


@pytest.mark.parametrize("phase", [*WAITING, *ENOUGH])
def test_a_repeated_message_changes_nothing_and_is_no_offence(phase: Phase) -> None:
    attempt = Attempt()
    attempt.reaches(phase)
    (answer,) = attempt.federation.participants["alice"].hear(attempt.round.outbox("alice"))
    assert attempt.round.receive(answer)
    assert not attempt.round.receive(answer)
    assert attempt.round.answered() == {"alice"}


def test_a_result_has_nothing_to_close_to_wait_for_or_to_answer() -> None:
    attempt = Attempt()
    attempt.reaches(Phase.RESULT)
    assert not attempt.round.can_close()
    assert not attempt.round.settled()
    assert attempt.round.expected() == attempt.round.answered() == attempt.round.awaited() == frozenset()


def test_masks_that_were_removed_in_part_are_never_removed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Attempt()
    attempt.reaches(Phase.UNMASK)
    attempt.answers(*names(5))

    def fails_half_way(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(round_module, "remove_masks", fails_half_way)
        with pytest.raises(MemoryError):
            attempt.round.close()
    with pytest.raises(LocalError, match="E-BUG: the masks of this attempt's sum were removed before, or in part"):
        attempt.round.close()


def test_who_takes_no_part_in_a_phase_is_told_nothing_until_the_result() -> None:
    attempt = Attempt()
    attempt.answers("alice", "bob", "carol", "dave")
    attempt.round.close()
    while attempt.round.phase is not Phase.RESULT:
        assert attempt.round.outbox("erin") is None
        attempt.answers("alice", "bob", "carol", "dave")
        attempt.round.close()
    assert attempt.round.outbox("erin") is attempt.round.result.certificate
    assert attempt.round.result.dropouts == ("erin",)
