"""A federation in one process: the daemons' own round machines on both sides, nothing between them.

Guarantees: each sum comes out of real keys, masks, signatures and shares; each round extends the transcript as in a
real run. Who is lost answers nothing more in the attempt, and hears how the round ended when it is back.
Leaves to others: what is summed (``participant.training.torch_trainer``), who is lost when, networks and crashes (the
daemons and their tests).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coordinator.protocol.round import CoordinatorRound, RoundResult
from participant.protocol.member import Participant
from participant.protocol.memory import RoundClosed, RunMemory, UpdateEncoded
from participant.protocol.round import hear
from participant.protocol.states import Idle, Ready, State
from participant.protocol.step import Message, Step
from participant.protocol.transitions import EncodedUpdate, Told
from privacy.errors import LocalError, Phase
from privacy.interfaces import RandomSource
from privacy.plan import VerifiedPlan
from privacy.secagg import hashes
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import AttemptOffer, MaskedUpload, Position, VoidedRound
from protos import codec

Train = Callable[[Sequence[str]], Iterable[NDArray[np.int64]]]  # the encoded updates of some, in their order
NOBODY: Final[Mapping[str, Phase]] = MappingProxyType({})


class Cohort:
    """A coordinator and everybody on its roster.

    Args:
        plan: with its operator's signature.
        keys: the roster's identity keys by name.
        random: secrets of the rounds; a seeded source makes a simulation that is not private.
        completed: rounds that are over already.
        transcript: after them; of nothing, if there are none.
    """

    def __init__(
        self,
        plan: VerifiedPlan,
        keys: Mapping[str, SigningKey],
        random: RandomSource,
        *,
        completed: int = 0,
        transcript: bytes = b"",
    ) -> None:
        self._plan = plan
        self._random = random
        self.transcript = transcript or hashes.genesis_transcript(plan.hash)
        self.sent = 0  # bytes of all messages to the coordinator, masked updates included
        roster = [Participant(plan, member.id, keys[member.id]) for member in plan.plan.roster]
        self._states: dict[str, State] = {participant.me: Idle(participant) for participant in roster}
        memory = RunMemory.empty(plan.hash)
        if completed:
            memory = memory.apply(RoundClosed(completed, 1, self.transcript, survivors=(), alarm=False))
        self._memories = {participant.me: memory for participant in roster}

    def run_round(
        self, number: int, adapter: Buffer, train: Train, *, attempt: int = 1, lost: Mapping[str, Phase] = NOBODY
    ) -> RoundResult:
        """Run an attempt at a round from its offer to everybody's check of its certificate, and return the sum.

        Args:
            number: from 1, one more than the last.
            adapter: the global adapter that the round starts from, float32 little-endian.
            train: returns the encoded updates of those who upload, each of shape (entries,).
            attempt: from 1; a retry asks for the same updates again.
            lost: the phase from which on somebody answers no more.

        Raises:
            RoundAborted: too few were left.
        """
        at = Position(self._plan.hash, number, attempt)
        offer = AttemptOffer(at, self.transcript, hashes.adapter_hash(adapter))
        coordinator, gone = CoordinatorRound(self._plan, offer), set(self.committed(number))
        while coordinator.phase is not Phase.RESULT:
            gone |= {name for name, phase in lost.items() if phase is coordinator.phase}
            self._collect(coordinator, sorted(coordinator.expected() - gone), train)
            coordinator.close()
        certificate = coordinator.result.certificate
        for name in self._states:
            self._hear(name, certificate)
        self.transcript = certificate.transcript(self.transcript)
        return coordinator.result

    def committed(self, number: int) -> frozenset[str]:
        """Return who has signed a round's survivors: they take part in no other attempt at it."""
        return frozenset(name for name, memory in self._memories.items() if memory.signed_in(number))

    def void(self, number: int) -> None:
        """Tell everybody that a round has no sum and never will."""
        voided = VoidedRound(self._plan.hash, number)
        for name in self._states:
            self._hear(name, voided)
        self.transcript = voided.transcript(self.transcript)

    def _collect(self, coordinator: CoordinatorRound, names: Sequence[str], train: Train) -> None:
        """Let participants hear what the coordinator has for them, and hand their answers over."""
        updates = iter(train(names)) if coordinator.phase is Phase.COLLECT_MASKED else iter(())
        for name in names:
            told = coordinator.outbox(name)
            if told is None:
                raise LocalError("E-BUG", f"{name} is told nothing in {coordinator.phase.name}")
            step = self._hear(name, told)
            if isinstance(step.state, Ready):
                step = self._mask(name, step.state, next(updates))
            if step.message is None:
                raise LocalError("E-BUG", f"{name} has no answer in {coordinator.phase.name}")
            self.sent += _size(step.message)
            coordinator.receive(step.message)

    def _mask(self, name: str, ready: Ready, update: NDArray[np.int64]) -> Step[State]:
        """Let a participant mask its update."""
        offer = ready.offer
        if self._memories[name].encoded_in(offer.position.round) is None:
            encoded = UpdateEncoded(offer.position.round, b"\0" * 32, offer.adapter_hash, offer.previous_transcript)
            self._memories[name] = self._memories[name].apply(encoded)
        words = ready.participant.encode(offer.position.round, update)
        return self._hear(name, EncodedUpdate(words))

    def _hear(self, name: str, told: Told) -> Step[State]:
        """Tell a participant something and remember its step as a journal would."""
        step = hear(self._states[name], told, self._memories[name], self._random)
        if step.record is not None:
            self._memories[name] = self._memories[name].apply(step.record)
        self._states[name] = step.state
        return step


def _size(message: Message) -> int:
    """Return the bytes of a message; of a masked update its own beside the receipt's."""
    if isinstance(message, MaskedUpload):
        return len(codec.encode_submission(message.receipt)) + len(message.masked)
    return len(codec.encode_submission(message))
