"""Both machines do what their transition tables say and nothing else: a row removed, added or redirected shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pytest

import coordinator.protocol.transitions as coordinator_table
import participant.protocol.transitions as participant_table
from coordinator.protocol.round import CoordinatorRound
from participant.protocol.memory import RunMemory, UpdateEncoded
from participant.protocol.round import hear
from participant.protocol.states import Advertised, Idle, Masked, Ready, Released, Shared, Signed, State
from participant.protocol.step import Step
from participant.protocol.transitions import Abort, EncodedUpdate, Told
from privacy.errors import LocalError, PeerError, Phase
from privacy.secagg.messages import (
    AdvertisementSet,
    AttemptOffer,
    HolderShares,
    RoundCertificate,
    ShareBundle,
    SurvivorProposal,
    UnmaskRequest,
    VoidedRound,
)
from tests.worlds.expect import expect
from tests.worlds.federation import Federation, SeededSource
from tests.worlds.lying_participant import OFFENDER, rubbish_for

STATES: tuple[type[State], ...] = (Idle, Advertised, Shared, Ready, Masked, Signed, Released)
TOLD: tuple[type[Told], ...] = (
    AttemptOffer,
    AdvertisementSet,
    HolderShares,
    EncodedUpdate,
    SurvivorProposal,
    UnmaskRequest,
    RoundCertificate,
    VoidedRound,
    Abort,
)
PAIRS = tuple(product(STATES, TOLD))
ME = "erin"


@dataclass
class Course:
    """A round of five in which erin goes as far as some state and no further, while the other four complete it."""

    until: type[State]
    lying_dealer: bool = False  # who seals rubbish for erin
    signs: bool = True  # erin does, if she comes so far
    state: State = field(init=False)
    memory: RunMemory = field(init=False)
    said: dict[type[Told], Told] = field(init=False)  # by the coordinator to erin, or to another in its place

    def __post_init__(self) -> None:
        self.federation = Federation(5, 1, mode="local", seed=9)
        me = self.federation.participants[ME]
        self.state, self.memory = Idle(me.participant), me.journal.memory
        self.machine = CoordinatorRound(self.federation.plan, self.federation.offer(1, 1))
        self.said = {Abort: Abort(self.machine.offer.position)}
        self.said[EncodedUpdate] = EncodedUpdate(np.zeros(12, dtype="<u4"))
        while self.machine.phase is not Phase.RESULT:
            self._phase()
        self.said[RoundCertificate] = self.machine.result.certificate
        self.said[VoidedRound] = VoidedRound(self.federation.plan.hash, 1)
        if self.until is not Idle:
            self.said[AttemptOffer] = self.federation.offer(1, 2)

    def _phase(self) -> None:
        told = self.machine.outbox(ME) or self.machine.outbox("alice")
        assert told is not None
        self.said[type(told)] = told
        for name in sorted(self.machine.expected() - {ME}):
            for answer in self.federation.participants[name].hear(self.machine.outbox(name)):
                lies = self.lying_dealer and name == OFFENDER and isinstance(answer, ShareBundle)
                self.machine.receive(self._rubbish(answer) if lies else answer)
        if ME in self.machine.expected():
            self._go_on(told)
        self.machine.close()

    def _rubbish(self, bundle: object) -> ShareBundle:
        state = expect(Shared, self.federation.participants[OFFENDER].state)
        return rubbish_for(ME, expect(ShareBundle, bundle), state.round_ctx)

    def _go_on(self, told: Told) -> None:
        if type(self.state) is self.until or (isinstance(told, SurvivorProposal) and not self.signs):
            return
        step = self.tell(told)
        if isinstance(step.state, Ready):
            self._take(step)
            offer = step.state.offer
            durable = UpdateEncoded(1, bytes(32), offer.adapter_hash, offer.previous_transcript)
            self.memory = self.memory.apply(durable)
            if self.until is Ready:
                return
            step = self.tell(self.said[EncodedUpdate])
        self._take(step)
        if step.message is not None:
            self.machine.receive(step.message)

    def tell(self, told: Told) -> Step[State]:
        """Tell erin something; return the step, which is not taken."""
        return hear(self.state, told, self.memory, SeededSource(ME))

    def _take(self, step: Step[State]) -> None:
        self.memory = self.memory if step.record is None else self.memory.apply(step.record)
        self.state = step.state


def courses(state: type[State], told: type[Told]) -> Iterator[Course]:
    """Yield the courses that lead to everything that may follow in a state on being told something."""
    yield Course(state, signs=(state, told) != (Released, AttemptOffer))
    if (state, told) == (Shared, HolderShares):
        yield Course(state, lying_dealer=True)


def redirected(row: tuple[type[State], type[Told]], *following: type[State]) -> Mapping[object, object]:
    """Return the table with another end of a row."""
    return {**dict[object, object](participant_table.TRANSITIONS), row: following}


ROWS = list(participant_table.TRANSITIONS)
LEADING = [row for row in ROWS if participant_table.TRANSITIONS[row]]


def name_of(row: tuple[type, type]) -> str:
    return f"{row[0].__name__}, {row[1].__name__}"


# --- the participant's ---


@pytest.mark.parametrize("row", LEADING, ids=name_of)
def test_a_step_leads_exactly_where_its_row_says(row: tuple[type[State], type[Told]]) -> None:
    reached = set()
    for course in courses(*row):
        assert type(course.state) is row[0]
        reached.add(type(course.tell(course.said[row[1]]).state))
    assert reached == set(participant_table.TRANSITIONS[row])


@pytest.mark.parametrize("row", [pair for pair in PAIRS if pair not in ROWS], ids=name_of)
def test_what_no_row_says_is_refused_as_out_of_order_and_changes_nothing(row: tuple[type[State], type[Told]]) -> None:
    course = Course(row[0])
    before = course.state, course.memory
    with pytest.raises(LocalError, match="E-ROUND-PHASE"):
        course.tell(course.said[row[1]])
    assert (course.state, course.memory) == before


@pytest.mark.parametrize("row", [row for row in ROWS if row not in LEADING], ids=name_of)
def test_a_row_without_an_end_is_refused_by_a_rule(row: tuple[type[State], type[Told]]) -> None:
    course = Course(row[0])
    with pytest.raises(PeerError, match="E-ROUND-COMMITTED"):
        course.tell(course.said[row[1]])


@pytest.mark.parametrize("row", LEADING, ids=name_of)
def test_without_a_row_its_step_is_not_taken(
    row: tuple[type[State], type[Told]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = list(courses(*row))
    rest = {other: after for other, after in participant_table.TRANSITIONS.items() if other != row}
    monkeypatch.setattr(participant_table, "TRANSITIONS", rest)
    for course in ready:
        with pytest.raises(LocalError, match="E-ROUND-PHASE"):
            course.tell(course.said[row[1]])


@pytest.mark.parametrize("row", LEADING, ids=name_of)
def test_a_row_that_leads_elsewhere_stops_its_step(
    row: tuple[type[State], type[Told]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = list(courses(*row))
    elsewhere = tuple(state for state in STATES if state not in participant_table.TRANSITIONS[row])
    monkeypatch.setattr(participant_table, "TRANSITIONS", redirected(row, *elsewhere))
    for course in ready:
        with pytest.raises(LocalError, match="E-BUG"):
            course.tell(course.said[row[1]])


@pytest.mark.parametrize("row", [pair for pair in PAIRS if pair not in ROWS], ids=name_of)
def test_a_row_too_many_finds_no_answer(row: tuple[type[State], type[Told]], monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(row[0])
    monkeypatch.setattr(participant_table, "TRANSITIONS", redirected(row, *STATES))
    with pytest.raises(LocalError, match="E-BUG: there is no answer"):
        course.tell(course.said[row[1]])


def test_an_abort_of_another_attempt_than_the_one_in_progress_is_out_of_order() -> None:
    course = Course(Shared)
    other = expect(AttemptOffer, course.said[AttemptOffer]).position
    with pytest.raises(LocalError, match="E-ROUND-PHASE"):
        course.tell(Abort(other))


def test_nothing_is_masked_of_which_the_memory_does_not_know_that_it_is_durable() -> None:
    course = Course(Ready)
    assert course.tell(course.said[EncodedUpdate]).message is not None
    course.memory = RunMemory.empty(course.memory.plan_hash)
    with pytest.raises(LocalError, match="E-BUG: the encoded update of round 1 must be durable"):
        course.tell(course.said[EncodedUpdate])


# --- the coordinator's ---

PHASES = tuple(coordinator_table.TRANSITIONS)


def at_the_end_of(phase: Phase) -> CoordinatorRound:
    """Return an attempt in a phase in which everybody has answered."""
    federation = Federation(5, 1)
    machine = federation.round = CoordinatorRound(federation.plan, federation.offer(1, 1))
    while True:
        federation.collect({}, [])
        if machine.phase is phase:
            return machine
        machine.close()


@pytest.mark.parametrize("phase", PHASES[:-1], ids=lambda phase: phase.name)
def test_closing_a_phase_leads_exactly_where_its_row_says(phase: Phase) -> None:
    machine = at_the_end_of(phase)
    machine.close()
    assert coordinator_table.TRANSITIONS[phase] == (machine.phase,)


def test_no_row_leads_on_from_the_result() -> None:
    assert PHASES[-1] is Phase.RESULT
    assert coordinator_table.TRANSITIONS[Phase.RESULT] == ()
    assert not at_the_end_of(Phase.RESULT).can_close()


@pytest.mark.parametrize("phase", PHASES[:-1], ids=lambda phase: phase.name)
@pytest.mark.parametrize("instead", ["nothing", "every other phase"])
def test_a_phase_is_not_closed_where_no_row_leads_and_nothing_changes(
    phase: Phase, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = at_the_end_of(phase)
    (right,) = coordinator_table.TRANSITIONS[phase]
    others = tuple(other for other in PHASES if other is not right) if instead == "every other phase" else ()
    monkeypatch.setattr(coordinator_table, "TRANSITIONS", {**coordinator_table.TRANSITIONS, phase: others})
    answered = machine.answered()
    with pytest.raises(LocalError, match="E-BUG"):
        machine.close()
    assert (machine.phase, machine.answered()) == (phase, answered)
    monkeypatch.undo()
    machine.close()
    assert machine.phase is right


@pytest.mark.parametrize(("size", "word"), [(11, "<u4"), (13, "<u4"), (12, "<u8"), (0, "<u4")])
def test_words_that_are_no_encoded_update_of_the_round_are_not_masked(size: int, word: str) -> None:
    erin = Course(Ready)
    with pytest.raises(LocalError, match="are no encoded update of round 1") as caught:
        erin.tell(EncodedUpdate(np.zeros(size, dtype=word)))
    assert caught.value.code == "E-BUG"
