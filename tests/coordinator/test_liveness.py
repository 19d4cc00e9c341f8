"""Who is there, and when a phase has waited long enough, on a virtual clock."""

from __future__ import annotations

import pytest

from coordinator.config import Durations
from coordinator.runs.liveness import Liveness, PhaseTimer, patience
from privacy.errors import Phase
from tests.worlds.federation import VirtualClock

DURATIONS = Durations(phase_seconds=60, update_seconds=100, stall_seconds=30)


def test_a_member_is_live_while_a_poll_is_in_flight_however_long_it_takes() -> None:
    clock = VirtualClock()
    liveness = Liveness(clock, grace=2, settling=0)
    assert not liveness.live("alice")
    with liveness.poll("alice"):
        clock.seconds += 1000
        assert liveness.live("alice")


def test_a_member_is_live_for_the_grace_after_its_last_poll_however_that_ended() -> None:
    clock = VirtualClock()
    liveness = Liveness(clock, grace=2, settling=0)
    with pytest.raises(ConnectionError), liveness.poll("alice"):
        raise ConnectionError
    clock.seconds += 1.9
    assert liveness.all_live() == {"alice"}
    clock.seconds += 0.1
    assert liveness.all_live() == frozenset()


def test_the_end_of_one_of_two_polls_does_not_end_the_other() -> None:
    clock = VirtualClock()
    liveness = Liveness(clock, grace=2, settling=0)
    with liveness.poll("alice"):
        with liveness.poll("alice"):
            pass
        clock.seconds += 50
        assert liveness.live("alice")


def test_a_daemon_that_has_just_started_waits_for_everybody_to_come_back() -> None:
    clock = VirtualClock()
    liveness = Liveness(clock, grace=2, settling=5)
    with liveness.poll("alice"):
        pass
    clock.seconds += 4.9
    assert liveness.may_answer({"alice", "bob"}) == {"bob"}  # alice came back and is gone again
    clock.seconds += 0.1
    assert liveness.may_answer({"alice", "bob"}) == frozenset()


def test_a_phase_expires_at_its_duration() -> None:
    clock = VirtualClock()
    timer = PhaseTimer(clock, DURATIONS, Phase.SHARE_KEYS)
    clock.seconds += 59.9
    assert not timer.expired
    clock.seconds += 0.1
    assert timer.expired


def test_bytes_that_move_extend_the_deadline_and_a_stall_ends_it() -> None:
    clock = VirtualClock()
    timer = PhaseTimer(clock, DURATIONS, Phase.COLLECT_MASKED)
    clock.seconds += 95
    timer.bytes_moved("alice", 50, 100)
    clock.seconds += 29
    assert not timer.expired
    clock.seconds += 1
    assert timer.expired


def test_an_upload_that_keeps_moving_cannot_hold_a_phase_for_ever() -> None:
    clock = VirtualClock()
    timer = PhaseTimer(clock, DURATIONS, Phase.COLLECT_MASKED)
    while not timer.expired:
        clock.seconds += 10
        timer.bytes_moved("alice", 100, 100)
        assert clock.seconds <= 400
    assert clock.seconds == 400


def test_malicious_trickle_of_bytes_gains_no_more_than_a_stall_may_take() -> None:
    clock = VirtualClock()
    timer = PhaseTimer(clock, DURATIONS, Phase.COLLECT_MASKED)
    clock.seconds += 90
    sent = 0
    while not timer.expired:
        sent += 1
        timer.bytes_moved("mallory", sent, 10**6)
        clock.seconds += 2
    assert clock.seconds == 122, "30 seconds from its first byte, and the last step"


def test_malicious_upload_that_stops_half_way_and_trickles_holds_a_phase_half_as_long_as_it_may_take() -> None:
    clock = VirtualClock()
    timer = PhaseTimer(clock, DURATIONS, Phase.COLLECT_MASKED)
    timer.bytes_moved("mallory", 50, 100)
    while not timer.expired:
        clock.seconds += 1
        timer.bytes_moved("mallory", 50, 100)
    assert clock.seconds == 30 + (400 - 30) / 2


def test_a_slow_upload_that_can_be_there_by_the_extended_deadline_is_waited_for() -> None:
    clock = VirtualClock()
    timer = PhaseTimer(clock, DURATIONS, Phase.COLLECT_MASKED)
    clock.seconds += 80
    for percent in range(1, 101):
        clock.seconds += 3
        timer.bytes_moved("alice", percent, 100)
        assert not timer.expired
    assert clock.seconds == 380


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_a_duration(phase: Phase) -> None:
    assert patience(phase, DURATIONS) in (60, 100)
