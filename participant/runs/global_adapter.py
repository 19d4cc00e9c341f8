"""The global adapter that a round starts from: each participant computes it from the sums itself.

Guarantees: what is returned follows from the adapter that the owner approved with the plan and from the sums of all
rounds, whose hashes are in the transcript that all participants agree on; an offer of any other adapter is refused, so
that a coordinator cannot choose the model. A state is on disk before its round is advertised.
Leaves to others: what the offer must follow from (``participant.protocol.checks``), repeating downloads (``delivery``).
Whether an announced sum is what was masked, nobody can see who does not hold all updates (docs/threat-model.md).
Source: docs/protocol.md sections 5.1 and 5.8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import methods
from host import durable
from methods.agreement import agree
from methods.global_adapter import (
    VECTOR_TYPE,
    iterate_bytes,
    next_state,
    read_initial,
    state_from_bytes,
    state_to_bytes,
    without_sum,
)
from methods.optimizer import OptimizerState
from methods.vectors import joined
from participant.home import adapter_file, certificate_file, sum_file, taken_file
from participant.link.delivery import Sender
from privacy.errors import LocalError, OnlysumError, PeerError, Phase
from privacy.plan import Plan, largest_sum
from privacy.secagg import hashes
from privacy.secagg.messages import AttemptOffer, Position, RoundCertificate
from protos import codec
from protos.envelope import ContentRef


class GlobalAdapter:
    """The adapter of one run, from round to round.

    Args:
        plan: of the run.
        initial: the file of the initial adapter that was approved with it.
        directory: of the run; certificates of completed rounds lie there.
        sender: downloads.
    """

    def __init__(self, plan: Plan, initial: Path, directory: Path, sender: Sender) -> None:
        self._plan = plan
        self._initial = initial
        self._directory = directory
        self._sender = sender

    def start_of(
        self,
        offer: AttemptOffer,
        sums: Sequence[ContentRef],
        iterate: ContentRef | None = None,
        *,
        voided: Collection[int] = (),
    ) -> NDArray[np.float32]:
        """Return what an offered round starts from, shape (state entries,).

        Args:
            offer: its history is verified already.
            sums: of the last completed rounds, as many as the coordinator thinks that this participant lacks.
            iterate: the coordinator's own, where the method's step may differ in rounding.
            voided: rounds that have no sum; the next one starts where they did.

        Raises:
            PeerError: ``E-ROUND-STEP``, the offered adapter is another, or a sum is missing, too long or too large;
                ``E-ROUND-CONTEXT``, a sum is not the one of the transcript; ``E-PLAN-RULE``, no initial adapter.
            LocalError: ``E-ADAPTER-HASH``, ``E-STATE-DAMAGED`` or ``E-DISK-FULL``.
        """
        state, before = self._stored(), offer.position.round - 1
        left = list(sums)[::-1]  # the newest first
        lacking = [number for number in range(state.round + 1, before + 1) if number not in voided]
        if len(lacking) > len(left):
            raise _refusal("E-ROUND-STEP", f"the sum of round {lacking[0]} did not come with the offer")
        contents = dict(zip(reversed(lacking), left, strict=False))
        for number in range(state.round + 1, before + 1):
            last, start = state.round, self._as_taken(state)
            state = (
                self._advanced(start, contents[number], offer) if number in contents else without_sum(self._plan, start)
            )
            durable.write(adapter_file(self._directory, number), state_to_bytes(state, with_iterate=True))
            adapter_file(self._directory, last).unlink(missing_ok=True)
            taken_file(self._directory, last).unlink(missing_ok=True)
        start = self._as_taken(state)
        if hashes.adapter_hash(iterate_bytes(start.iterate)) == offer.adapter_hash:
            return start.iterate
        exact = methods.get(self._plan.recipe.adapter.method).exact_step
        if exact or iterate is None or start is not state or state.round != before or before == 0:
            rule = f"round {before + 1} is offered from another adapter than the one that the plan's sums lead to"
            raise _refusal("E-ROUND-STEP", rule)
        return self._adopted(state, iterate, offer)

    def _adopted(self, state: OptimizerState, content: ContentRef, offer: AttemptOffer) -> NDArray[np.float32]:
        """Download the coordinator's iterate and start from it, if it agrees with one's own but for rounding."""
        if content.length != state.iterate.size * VECTOR_TYPE.itemsize:
            raise _refusal("E-ROUND-STEP", f"the adapter is announced as {content.length} bytes")
        data = self._sender.download(content, of=(self._plan.run_id, offer.position))
        if hashes.adapter_hash(data) != offer.adapter_hash:
            raise _refusal("E-ROUND-CONTEXT", "the adapter is not the one that the offer names")
        offered = np.frombuffer(data, dtype=VECTOR_TYPE)
        if not agree(self._plan.recipe, state.iterate, offered):
            rule = f"round {state.round + 1} is offered from another model than the one that the plan's sums lead to"
            raise _refusal("E-ROUND-STEP", rule)
        durable.write(taken_file(self._directory, state.round), data)
        return offered

    def _as_taken(self, state: OptimizerState) -> OptimizerState:
        """Return a state with the coordinator's iterate, if that was taken: once a round, for all of its attempts."""
        path = taken_file(self._directory, state.round)
        if not path.exists():
            return state
        taken = np.frombuffer(path.read_bytes(), dtype=VECTOR_TYPE)
        averaged = not np.array_equal(state.average, state.iterate)
        return replace(state, iterate=taken, average=state.average if averaged else taken)

    def keep_sum(self, content: ContentRef) -> None:
        """Download the sum of a measurement, whose certificate is here, and keep it: it is the result.

        Raises:
            PeerError: as :meth:`start_of`, of a sum.
            LocalError: ``E-STATE-DAMAGED`` or ``E-DISK-FULL``.
        """
        path = sum_file(self._directory)
        if not path.exists():
            words = self._downloaded(1, content, None)
            durable.write(path, words.tobytes())

    def _advanced(self, state: OptimizerState, content: ContentRef, offer: AttemptOffer) -> OptimizerState:
        """Download a round's sum and return the state that it leads to."""
        number = state.round + 1
        words = self._downloaded(number, content, offer.position)
        return next_state(self._plan, state, self._plan.layout(number).blocks(words), self._survivors(number))

    def _survivors(self, number: int) -> tuple[str, ...]:
        return tuple(self._certificate(number).survivors.ids)

    def _downloaded(self, number: int, content: ContentRef, at: Position | None) -> NDArray[Any]:
        """Return a round's sum as its certificate has it.

        Args:
            number: of the round.
            content: as it was announced.
            at: the attempt that it is needed for, after whose end it is not wanted any more; ``None``: it always is.
        """
        layout, certificate = self._plan.layout(number), self._certificate(number)
        if content.length != layout.bytes:
            raise _refusal("E-ROUND-STEP", f"the sum of round {number} is announced as {content.length} bytes")
        data = self._sender.download(content, of=None if at is None else (self._plan.run_id, at))
        if hashes.sum_hash(data) != certificate.sum_hash:
            raise _refusal("E-ROUND-CONTEXT", f"the sum of round {number} is not the one of its certificate")
        words = np.frombuffer(data, dtype=layout.ring.dtype)
        if layout.count_beyond(words, largest_sum(self._plan)):
            raise _refusal("E-ROUND-STEP", f"the sum of round {number} is larger than updates of this plan can sum to")
        if layout.count_stray(words):
            raise _refusal("E-ROUND-STEP", f"the sum of round {number} has bits beyond its lanes")
        return words

    def _stored(self) -> OptimizerState:
        """Return the last state on disk; before round 1 it is the plan's initial adapter."""
        rounds = [int(path.suffix[1:]) for path in self._directory.glob("adapter.*") if path.suffix[1:].isdigit()]
        if not rounds:
            return OptimizerState.start(self._approved())
        number = max(rounds)
        return state_from_bytes(number, adapter_file(self._directory, number).read_bytes())

    def _approved(self) -> NDArray[np.float32]:
        """Return the vector of the plan's initial adapter, whose hash the owner approved."""
        recipe, data = self._plan.recipe, self._initial.read_bytes()
        if hashlib.sha256(data).hexdigest() != recipe.adapter.initial_hash:
            raise LocalError("E-ADAPTER-HASH", f"{self._initial} is not the plan's initial adapter any more")
        try:
            return joined(recipe, read_initial(data, recipe))
        except LocalError as error:  # the operator signed it
            raise _refusal(error.code, error.detail) from None

    def _certificate(self, number: int) -> RoundCertificate:
        try:
            return codec.decode_certificate(certificate_file(self._directory, number).read_bytes(), sender="")
        except (OSError, OnlysumError) as error:
            raise LocalError("E-STATE-DAMAGED", f"the certificate of round {number} does not load") from error


def _refusal(code: str, rule: str) -> PeerError:
    return PeerError.by_coordinator(code, Phase.ADVERTISE_KEYS, rule)
