"""Whatever is lost, late, doubled or restarted: the exact sum of the survivors, or a clean abort."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.errors import Phase, RoundAborted
from tests.worlds.federation import Fault, FaultKind, Federation
from tests.worlds.plans import names

Update = NDArray[np.int64]
PHASES = [Phase.ADVERTISE_KEYS, Phase.SHARE_KEYS, Phase.COLLECT_MASKED, Phase.AGREE_SURVIVORS, Phase.UNMASK]
SIZES = [(3, 0), (3, 1), (4, 1), (5, 0), (5, 1), (7, 2), (10, 3)]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Federation, list[Fault]]:
    n, f = draw(st.sampled_from(SIZES))
    fault = st.builds(
        Fault,
        participant=st.sampled_from(names(n)),
        phase=st.sampled_from(PHASES),
        kind=st.sampled_from(FaultKind),
        attempt=st.integers(1, 3),
    )
    world = Federation(n, f, seed=draw(st.integers(0, 2**20)), suite=draw(st.sampled_from((1, 2))))
    return world, draw(st.lists(fault, max_size=5))


def assert_exact_or_clean(federation: Federation, faults: list[Fault], *, crash: bool) -> None:
    plan = federation.plan.plan
    try:
        result = federation.run_round(faults, crash_coordinator=crash)
    except RoundAborted:
        assert not federation.completed
        return
    assert len(result.survivors) >= plan.min_survivors
    assert (result.total() == federation.one_hot(result.survivors)).all()
    assert set(result.survivors) | set(result.dropouts) == set(federation.participants)
    for participant in federation.participants.values():
        memory = participant.journal.memory
        if participant.present:
            assert memory.transcript == federation.transcript


@settings(max_examples=150, deadline=None)
@given(worlds(), st.booleans())
def test_any_schedule_of_faults_gives_the_survivors_exact_sum_or_a_clean_abort(
    world: tuple[Federation, list[Fault]], crash: bool
) -> None:
    assert_exact_or_clean(*world, crash=crash)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PHASES), max_size=1), min_size=3, max_size=3), st.integers(0, 99))
def test_rounds_go_on_after_a_participant_was_away(schedule: list[list[Phase]], seed: int) -> None:
    federation = Federation(5, 1, seed=seed)
    for phases in schedule:
        result = federation.run_round([Fault("carol", phase, FaultKind.LOST) for phase in phases])
        assert (result.total() == federation.one_hot(result.survivors)).all()
        carol = federation.participants["carol"]
        if not carol.present:  # it comes back, catches up from the certificates and takes part again
            carol.present = True
            carol.crash_and_restart()
            for certificate in federation.completed[carol.journal.memory.completed :]:
                carol.hear(certificate)
        assert carol.journal.memory.transcript == federation.transcript
        assert not carol.refusals


@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("lost", ["alice", "carol", "erin"])  # all pairs with her as the lower, some, none
@pytest.mark.parametrize("phase", PHASES)
def test_five_with_one_colluder_lose_one_in_any_phase_and_go_on(phase: Phase, lost: str, suite: int) -> None:
    federation = Federation(5, 1, suite=suite)
    result = federation.run_round([Fault(lost, phase, FaultKind.LOST)])
    counted = phase in (Phase.AGREE_SURVIVORS, Phase.UNMASK)  # its upload was in before it was lost
    assert (lost in result.survivors) == counted
    assert (result.total() == federation.one_hot(result.survivors)).all()


@pytest.mark.parametrize("phase", PHASES[:3])
def test_three_with_one_colluder_tolerate_no_dropout_and_abort(phase: Phase) -> None:
    federation = Federation(3, 1)
    with pytest.raises(RoundAborted, match="2 of the 3 needed"):
        federation.run_round([Fault("bob", phase, FaultKind.LOST)])
    assert all(not participant.journal.memory.released for participant in federation.participants.values())


@pytest.mark.parametrize("suite", [1, 2])
def test_a_retry_masks_the_byte_identical_encoded_update_under_other_masks(suite: int) -> None:
    federation = Federation(5, 1, suite=suite)
    trained: list[int] = []
    for participant in federation.participants.values():
        participant.train = _counting(participant.train, trained)
    late = [Fault(name, Phase.COLLECT_MASKED, FaultKind.LATE) for name in ("alice", "bob")]
    result = federation.run_round(late)
    assert result.certificate.position.attempt == 2
    assert (result.total() == federation.one_hot(result.survivors)).all()
    assert trained == [1] * 5, "nobody trains twice in a round"


def _counting(train: Callable[[int], Update], trained: list[int]) -> Callable[[int], Update]:
    def counted(number: int) -> Update:
        trained.append(number)
        return train(number)

    return counted


@pytest.mark.parametrize("phase", PHASES)
def test_a_participant_that_crashes_in_any_phase_never_says_two_different_things(phase: Phase) -> None:
    federation = Federation(5, 1)
    federation.run_round([Fault("bob", phase, FaultKind.CRASH_AFTER_SEND)])
    bob = federation.participants["bob"]
    kinds = [(type(record).__name__, getattr(record, "round", 0)) for record in bob.journal.records]
    assert len(kinds) == len(set(kinds)), "one record of each kind a round"


def test_a_coordinator_restored_mid_round_gives_the_same_sum() -> None:
    """In suite 1, where the worlds draw the same bytes: the library's encapsulation draws its own."""
    plain, restored = Federation(5, 1, seed=7), Federation(5, 1, seed=7)
    faults = [Fault("erin", Phase.COLLECT_MASKED, FaultKind.LOST)]
    one, other = plain.run_round(faults), restored.run_round(faults, crash_coordinator=True)
    assert one.certificate == other.certificate
