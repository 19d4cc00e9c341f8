"""Vectors of lies: what a participant or the coordinator is told in a good round's place, and the error it must answer.

The lies are those of the catalogues (``tests/worlds/lying_coordinator.py``, ``tests/worlds/lying_participant.py``),
told to bob and by carol in the round of ``round_n5_f1.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from coordinator.protocol.round import CoordinatorRound
from privacy.errors import Phase
from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes
from tests.vectors.form import plain
from tests.vectors.rounds import ROUNDS, ReplaySource, fixed_update
from tests.worlds import lying_coordinator, lying_participant
from tests.worlds.federation import Federation

TRANSCRIPT: Final = "round_n5_f1"
Lies = Mapping[str, tuple[Callable[..., Any], str]]

TOLD: Final[tuple[tuple[Phase, Lies], ...]] = (
    (Phase.ADVERTISE_KEYS, lying_coordinator.OFFERS),
    (Phase.SHARE_KEYS, lying_coordinator.SETS_1),
    (Phase.COLLECT_MASKED, lying_coordinator.SETS_2),
    (Phase.AGREE_SURVIVORS, lying_coordinator.SETS_S),
    (Phase.UNMASK, lying_coordinator.REQUESTS),
    (Phase.RESULT, lying_coordinator.HISTORIES),
    (Phase.RESULT, lying_coordinator.SIGNED_HISTORIES),
)
SAID: Final[tuple[tuple[Phase, Lies], ...]] = (
    (Phase.ADVERTISE_KEYS, lying_participant.ADVERTISEMENTS),
    (Phase.SHARE_KEYS, lying_participant.BUNDLES),
    (Phase.COLLECT_MASKED, lying_participant.UPLOADS),
    (Phase.UNMASK, lying_participant.RELEASES),
)


def replayed(vector: Mapping[str, Any]) -> Federation:
    """Return the federation of a good vector, in which everybody draws again what it drew."""
    arguments, _ = ROUNDS[vector["file"]]
    federation = Federation(**arguments)
    assert federation.plan.hash.hex() == vector["plan_hash"]
    for name, one in vector["participants"].items():
        participant = federation.participants[name]
        participant.source = ReplaySource(bytes.fromhex(one["drawn"]))
        assert SigningKey(SecretBytes(bytes.fromhex(one["identity_secret"]))).public == federation.keys[name].public
        participant.train = partial(fixed_update, one["update"])
    return federation


class Staged:
    """A good vector's round, up to a phase."""

    def __init__(self, vector: Mapping[str, Any], phase: Phase) -> None:
        self.federation = replayed(vector)
        self.offer = self.federation.offer(1, 1)
        self.round = self.federation.round = CoordinatorRound(self.federation.plan, self.offer)
        self.answers: dict[str, Any] = {}
        while True:
            self.answers = {}
            if self.round.phase is phase:
                return
            for name in sorted(self.round.expected()):
                assert self.round.receive(self.answer(name))
            self.round.close()

    def told(self, name: str) -> Any:
        """What an honest coordinator tells a participant in this phase: of sets the members, which lies change."""
        return lying_coordinator.members_of(self.round.outbox(name))

    def answer(self, name: str) -> Any:
        """What an honest participant says in this phase."""
        if name not in self.answers:
            (self.answers[name],) = self.federation.participants[name].hear(self.round.outbox(name))
        return self.answers[name]


def told_to_bob(vector: Mapping[str, Any]) -> dict[str, Any]:
    """Return the vector of a lying coordinator."""
    return {"transcript": TRANSCRIPT, "to": lying_coordinator.VICTIM, "cases": list(_told(vector))}


def _told(vector: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for phase, lies in TOLD:
        honest = Staged(vector, phase).told(lying_coordinator.VICTIM)
        for sentence, (change, error) in lies.items():
            yield {"case": sentence, "phase": phase.name, "told": plain(change(honest)), "error": error}


def said_by_carol(vector: Mapping[str, Any]) -> dict[str, Any]:
    """Return the vector of a lying participant."""
    return {"transcript": TRANSCRIPT, "from": lying_participant.OFFENDER, "cases": list(_said(vector))}


def _said(vector: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for phase, lies in SAID:
        stage = Staged(vector, phase)
        honest = stage.answer(lying_participant.OFFENDER)
        context = bytes.fromhex(vector["round_ctx"])
        for sentence, (change, error) in lies.items():
            case = {"case": sentence, "phase": phase.name}
            if phase is Phase.COLLECT_MASKED:
                receipt, masked = change(honest.receipt, honest.masked, context)
                yield {**case, "said": plain(receipt), "masked": masked.hex(), "error": error}
            else:
                yield {**case, "said": plain(change(honest)), "error": error}
