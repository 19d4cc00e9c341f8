"""A federation in one process: the daemons' own round machines on both sides, nothing between them, nobody lost.

Guarantees: each sum comes out of real keys, masks, signatures and shares; each round extends the transcript as in a
real run.
Leaves to others: what is summed (``participant.training.torch_trainer``), networks, crashes and dropouts (the daemons
and their tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from coordinator.protocol.round import CoordinatorRound, RoundResult
from participant.protocol.member import Participant
from participant.protocol.memory import RunMemory, UpdateEncoded
from participant.protocol.round import hear
from participant.protocol.states import Idle, Ready, State
from participant.protocol.step import Step
from participant.protocol.transitions import EncodedUpdate, Told
from privacy.errors import LocalError, Phase
from privacy.interfaces import RandomSource
from privacy.plan import VerifiedPlan
from privacy.secagg import hashes
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import AttemptOffer, Position

Train = Callable[[int], NDArray[np.int64]]


class Cohort:
    """A coordinator and everybody on its roster.

    Args:
        plan: with its operator's signature.
        keys: the roster's identity keys by name.
        random: secrets of the rounds; a seeded source makes a simulation that is not private.
    """

    def __init__(self, plan: VerifiedPlan, keys: Mapping[str, SigningKey], random: RandomSource) -> None:
        self._plan = plan
        self._random = random
        roster = [Participant(plan, member.id, keys[member.id]) for member in plan.plan.roster]
        self._states: dict[str, State] = {participant.me: Idle(participant) for participant in roster}
        self._memories = {participant.me: RunMemory.empty(plan.hash) for participant in roster}
        self._transcript = hashes.genesis_transcript(plan.hash)

    def run_round(self, number: int, adapter: bytes, train: Mapping[str, Train]) -> RoundResult:
        """Run a round from its offer to everybody's check of its certificate, and return the sum.

        Args:
            number: from 1, one more than the last.
            adapter: the global adapter that the round starts from, float32 little-endian.
            train: returns each participant's encoded update, shape (entries,); called once each.
        """
        at = Position(self._plan.hash, number, 1)
        offer = AttemptOffer(at, self._transcript, hashes.adapter_hash(adapter))
        coordinator = CoordinatorRound(self._plan, offer)
        while coordinator.phase is not Phase.RESULT:
            for name in sorted(coordinator.expected()):
                self._answer(coordinator, name, train[name])
            coordinator.close()
        certificate = coordinator.result.certificate
        for name in self._states:
            self._hear(name, certificate)
        self._transcript = certificate.transcript(self._transcript)
        return coordinator.result

    def _answer(self, coordinator: CoordinatorRound, name: str, train: Train) -> None:
        """Let a participant hear what the coordinator has for it, and hand its answer over."""
        told = coordinator.outbox(name)
        if told is None:
            raise LocalError("E-BUG", f"{name} is told nothing in {coordinator.phase.name}")
        step = self._hear(name, told)
        if isinstance(step.state, Ready):
            offer, update = step.state.offer, train(step.state.position.round)
            encoded = UpdateEncoded(offer.position.round, b"\0" * 32, offer.adapter_hash, offer.previous_transcript)
            self._memories[name] = self._memories[name].apply(encoded)
            words = step.state.participant.encode(step.state.position.round, update)
            step = self._hear(name, EncodedUpdate(words))
        if step.message is None:
            raise LocalError("E-BUG", f"{name} has no answer in {coordinator.phase.name}")
        coordinator.receive(step.message)

    def _hear(self, name: str, told: Told) -> Step[State]:
        """Tell a participant something and remember its step as a journal would."""
        step = hear(self._states[name], told, self._memories[name], self._random)
        if step.record is not None:
            self._memories[name] = self._memories[name].apply(step.record)
        self._states[name] = step.state
        return step
