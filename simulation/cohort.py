"""A federation in one process: the daemons' own round machines on both sides, nothing between them, nobody lost.

Guarantees: each sum comes out of real keys, masks, signatures and shares; each round extends the transcript as in a
real run.
Leaves to others: what is summed (``participant.training.torch_trainer``), networks, crashes and dropouts (the daemons
and their tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.protocol.round import CoordinatorRound, RoundResult
from participant.protocol.memory import RunMemory, UpdateEncoded
from participant.protocol.round import Advertised, Masked, Participant, Ready, Shared, Step, advertise, complete
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
        self._parties = {member.id: Participant(plan, member.id, keys[member.id]) for member in plan.plan.roster}
        self._memories = {name: RunMemory.empty(plan.hash) for name in self._parties}
        self._states: dict[str, object] = {}
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
                told = offer if coordinator.phase is Phase.ADVERTISE_KEYS else coordinator.outbox(name)
                self._answer(coordinator, name, told, train[name])
            coordinator.close()
        certificate = coordinator.result.certificate
        for name, party in self._parties.items():
            state, memory = self._states.get(name), self._memories[name]
            verified = state.quorum if isinstance(state, Masked) else None
            self._memories[name] = memory.apply(complete(party, certificate, memory, verified=verified))
        self._transcript = certificate.transcript(self._transcript)
        return coordinator.result

    def _answer(self, coordinator: CoordinatorRound, name: str, told: Any, train: Train) -> None:
        """Do what a participant does on what it is told, and hand its answer over."""
        memory, state = self._memories[name], self._states.get(name)
        match coordinator.phase, state:
            case Phase.ADVERTISE_KEYS, _:
                step: Step[Any] = advertise(self._parties[name], told, memory, self._random)
            case Phase.SHARE_KEYS, Advertised():
                step = state.on_advertisements(told, self._random)
            case Phase.COLLECT_MASKED, Shared():
                self._upload(coordinator, name, state.on_shares(told).state, train)
                return
            case Phase.AGREE_SURVIVORS, Masked():
                step = state.on_survivors(told, memory)
            case Phase.UNMASK, Masked():
                step = state.on_unmask(told, memory)
            case phase, _:
                raise LocalError("E-BUG", f"{name} has no answer in {phase.name}")
        coordinator.receive(self._keep(name, step))

    def _upload(self, coordinator: CoordinatorRound, name: str, ready: object, train: Train) -> None:
        if not isinstance(ready, Ready):
            raise LocalError("E-BUG", f"{name} complained among honest dealers")
        offer = ready.offer
        update = train(offer.position.round)
        encoded = UpdateEncoded(offer.position.round, b"\0" * 32, offer.adapter_hash, offer.previous_transcript)
        self._memories[name] = self._memories[name].apply(encoded)
        step, masked = ready.mask(update)
        coordinator.accumulate(self._keep(name, step), masked)

    def _keep(self, name: str, step: Step[Any]) -> Any:
        """Remember a step as a journal would, and return its message."""
        if step.record is not None:
            self._memories[name] = self._memories[name].apply(step.record)
        self._states[name] = step.state
        return step.message
