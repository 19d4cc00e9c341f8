"""A federation driven at random: drops, delays, reordering, duplicates, restarts on both sides, journals copied back.

The coordinator follows the protocol; everything else may go wrong. Whatever happens, a completed round is the exact sum
of its survivors, nobody says two different things in a phase, and a journal that was copied back is noticed or does no
harm.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.memory import RunRefused, SharesReleased, SurvivorsSigned, UpdateMasked
from participant.protocol.transitions import Told
from privacy.errors import PeerError, Phase, RoundAborted
from privacy.secagg.messages import Advertisement, AttemptOffer, Position
from tests.worlds.federation import Federation
from tests.worlds.plans import names

SIZE, COLLUDING = 4, 1
WHO = st.sampled_from(names(SIZE))
MAYBE = st.sampled_from([None, None, None, *names(SIZE)])
ANY = st.integers(0, 2**16)  # an index, modulo what there is


class FaultyFederation(RuleBasedStateMachine):
    """Four participants of whom three must survive, over three rounds of three attempts."""

    @initialize(seed=st.integers(0, 99), suite=st.sampled_from([1, 1, 2]), phases=st.integers(0, 9))
    def begin(self, seed: int, suite: int, phases: int) -> None:
        """Nothing has gone wrong in the first phases."""
        self.federation = Federation(SIZE, COLLUDING, seed=seed, suite=suite)
        self.attempt = 0  # of the next round; 0: none was opened
        self.offer: AttemptOffer | None = None
        self.excluded = frozenset[str]()
        self.on_the_way: list[Any] = []  # to the coordinator
        self.told: list[tuple[str, Any]] = []  # all that any participant was ever told
        self.seen: dict[str, Advertisement] = {}  # the last that the coordinator received of each, for the handshake
        self.said: dict[tuple[str, str, Position], Any] = {}
        self.copied_back: set[str] = set()
        self.transcripts = [self.federation.transcript]
        self.go_on(phases, list(names(SIZE)), None, None)

    # --- the coordinator ---

    @property
    def _round(self) -> CoordinatorRound:
        assert self.federation.round is not None
        return self.federation.round

    def open_an_attempt(self) -> None:
        """At the next round."""
        self.attempt += 1
        self.offer = self.federation.offer(len(self.federation.completed) + 1, self.attempt)
        self.federation.round = CoordinatorRound(self.federation.plan, self.offer, disputed=self.excluded)
        self.federation.log = []

    @precondition(lambda self: self.offer is not None)
    @rule(who=WHO)
    def tell(self, who: str) -> None:
        """What the phase has for a participant."""
        told = self._round.outbox(who)
        if told is not None and who in self._round.expected():
            self.told.append((who, told))
            self._hear(who, told)

    @rule(phases=st.sampled_from([5, 5, 2, 1]), order=st.permutations(names(SIZE)), lost=MAYBE, late=MAYBE)
    def go_on(self, phases: int, order: list[str], lost: str | None, late: str | None) -> None:
        """Some phases in which at most one answer is lost in each, and one comes late."""
        for _ in range(phases):
            if self.offer is None:
                self._open_if_allowed()
            if self.offer is None:
                return
            held_back: list[Any] = []
            for who in order:
                before = len(self.on_the_way)
                self.tell(who)
                if who in (lost, late):
                    answers = self.on_the_way[before:]
                    del self.on_the_way[before:]
                    held_back += answers if who == late else []
            self.deliver_all()
            self.on_the_way += held_back
            if not self._round.can_close():
                return
            self.close_the_phase()

    def _open_if_allowed(self) -> None:
        if len(self.federation.completed) < 3 and self.attempt < 3:
            self.open_an_attempt()

    @precondition(lambda self: self.offer is not None and not self._round.can_close())
    @rule()
    def give_up(self) -> None:
        """The deadline of a phase that too few answered has passed."""
        self.close_the_phase()

    def close_the_phase(self) -> None:
        """If enough have answered; otherwise the attempt is given up."""
        try:
            self._round.close()
        except RoundAborted:
            self._give_up()
            return
        self.federation.log.append(None)
        if self._round.phase is Phase.RESULT:
            self._complete()

    def _give_up(self) -> None:
        self.excluded |= self._round.disputed
        self.offer = None

    def _complete(self) -> None:
        result = self._round.result
        plan = self.federation.plan.plan
        assert len(result.survivors) >= plan.min_survivors
        assert (result.total() == self.federation.one_hot(result.survivors)).all()
        self.federation.completed.append(result.certificate)
        self.federation.transcript = result.certificate.transcript(self.federation.transcript)
        self.transcripts.append(self.federation.transcript)
        self.offer, self.attempt, self.excluded = None, 0, frozenset()

    @precondition(lambda self: self.offer is not None)
    @rule()
    def kill_the_coordinator(self) -> None:
        """It goes on from what it had made durable."""
        assert self.offer is not None
        phase, answered = self._round.phase, self._round.answered()
        self.federation.round = self.federation.replayed(self.offer, self.excluded)
        assert (self._round.phase, self._round.answered()) == (phase, answered)

    # --- the network ---

    def _hear(self, who: str, told: Told) -> None:
        for answer in self.federation.participants[who].hear(told):
            key = (who, type(answer).__name__, answer.position)
            if who not in self.copied_back:
                assert self.said.setdefault(key, answer) == answer, "two different things in a phase"
            self.on_the_way.append(answer)

    @precondition(lambda self: self.told)
    @rule(which=ANY)
    def tell_again(self, which: int) -> None:
        """Something old, to whom it was told."""
        self._hear(*self.told[which % len(self.told)])

    @precondition(lambda self: self.on_the_way)
    @rule(which=ANY, stays=st.booleans())
    def deliver(self, which: int, stays: bool) -> None:
        """Any message, in any order, perhaps not for the last time."""
        index = which % len(self.on_the_way)
        message = self.on_the_way[index] if stays else self.on_the_way.pop(index)
        self._deliver(message)

    def deliver_all(self) -> None:
        """Everything that is on the way."""
        for message in self.on_the_way:
            self._deliver(message)
        self.on_the_way = []

    def _deliver(self, message: Any) -> None:
        if self.federation.round is None:
            return
        before = len(self.federation.log)
        self.federation.deliver(message)
        if len(self.federation.log) > before and isinstance(message, Advertisement):
            self.seen[message.sender] = message

    @precondition(lambda self: self.on_the_way)
    @rule(which=ANY)
    def drop(self, which: int) -> None:
        """A message is lost."""
        self.on_the_way.pop(which % len(self.on_the_way))

    @precondition(lambda self: self.federation.completed)
    @rule(who=WHO)
    def catch_up(self, who: str) -> None:
        """The history that a participant has missed, in order, as the next offer brings it."""
        one = self.federation.participants[who]
        for certificate in self.federation.completed[one.journal.memory.completed :]:
            refusals, masked = len(one.refusals), one.journal.memory.masked_in(certificate.position.round)
            forgotten = who in certificate.survivors.ids and masked is None
            one.hear(certificate)
            if len(one.refusals) > refusals:
                assert who in self.copied_back, f"an honest history was refused: {one.refusals[-1]}"
                one.journal.append(RunRefused(one.refusals[-1].code))
                event("a journal that had forgotten an upload was noticed")
                return
            assert not forgotten, "a journal that had forgotten an upload was not noticed"

    # --- the participants ---

    @rule(who=WHO)
    def kill(self, who: str) -> None:
        """It goes on from its journal, after a handshake."""
        one = self.federation.participants[who]
        one.crash_and_restart()
        self._handshake(who)

    @precondition(lambda self: not self.copied_back)
    @rule(who=WHO, back=st.integers(1, 6))
    def copy_a_journal_back(self, who: str, back: int) -> None:
        """An old backup of its journal is put in place."""
        one = self.federation.participants[who]
        kept = max(0, len(one.journal.records) - back)
        if not one.journal.memory.refused:
            one.journal = one.journal.rolled_back(kept)
            self.copied_back.add(who)
            one.crash_and_restart()
            self._handshake(who)

    def _handshake(self, who: str) -> None:
        """The coordinator returns the last advertisement that it saw: one above the journal shows that it is old."""
        memory = self.federation.participants[who].journal.memory
        last = self.seen.get(who)
        if last is not None and last.position.order > memory.highest and not memory.refused:
            assert who in self.copied_back
            self.federation.participants[who].journal.append(RunRefused("E-LEDGER-ROLLBACK"))

    # --- what always holds ---

    @invariant()
    def nobody_commits_twice_in_a_round(self) -> None:
        """One survivor set is signed, one released along."""
        for participant in self.federation.participants.values():
            for kind in (SurvivorsSigned, SharesReleased):
                records = [record for record in participant.journal.records if isinstance(record, kind)]
                assert len({record.round for record in records}) == len(records)
            masked = [record for record in participant.journal.records if isinstance(record, UpdateMasked)]
            assert len({(record.round, record.attempt) for record in masked}) == len(masked)

    @invariant()
    def all_know_one_history(self) -> None:
        """Whoever knows a round knows the same transcript as everybody."""
        for participant in self.federation.participants.values():
            memory = participant.journal.memory
            assert memory.transcript == self.transcripts[memory.completed]

    @invariant()
    def nobody_fails_but_by_a_typed_refusal(self) -> None:
        """Refusals name the coordinator or a peer; nothing else was raised on the way."""
        for participant in self.federation.participants.values():
            assert all(isinstance(refusal, PeerError) for refusal in participant.refusals)

    def teardown(self) -> None:
        """Once faults end, the next rounds complete if enough are left whose journals were never copied back."""
        if not hasattr(self, "federation"):
            return
        event(f"{len(self.federation.completed)} rounds completed, {len(self.copied_back)} journals copied back")
        for who in names(SIZE):
            self.catch_up(who)
        open_to_a_retry = [
            one
            for name, one in self.federation.participants.items()
            if name not in self.copied_back
            and not one.journal.memory.refused
            and one.journal.memory.signed_in(len(self.federation.completed) + 1) is None
        ]
        if len(open_to_a_retry) < SIZE or self.attempt >= 3 or len(self.federation.completed) >= 3:
            return
        self.offer = None
        self.excluded = frozenset()
        self.open_an_attempt()
        self.on_the_way = []
        self.go_on(5, list(names(SIZE)), None, None)
        assert self.attempt == 0, "with everybody there a round completes"


TestFaultyFederation = FaultyFederation.TestCase
TestFaultyFederation.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
