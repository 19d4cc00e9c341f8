"""What a participant is told in a round, and which state may follow which.

Guarantees: :data:`TRANSITIONS` is the whole of it: ``round.hear`` looks each step up before and after it
is taken.
Leaves to others: what is checked and sent in each step (``round``).
Source: docs/protocol.md section 5, whose diagram is drawn from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from participant.protocol.states import Advertised, Idle, Masked, Ready, Released, Shared, Signed, State
from privacy.errors import LocalError
from privacy.secagg.layout import Words
from privacy.secagg.messages import (
    AdvertisementSet,
    AttemptOffer,
    HolderShares,
    Position,
    RoundCertificate,
    SurvivorProposal,
    UnmaskRequest,
    VoidedRound,
)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUpdate:
    """The round's encoded update; file and record of it are durable already."""

    # As ``layout.encode`` makes them, with the weight; they become the masked update where they lie.
    words: Words = field(repr=False)
    threads: int = 1  # of the mask streams at most; 1 where participants share a machine


@dataclass(frozen=True, slots=True)
class Abort:
    """The coordinator has given an attempt up."""

    position: Position


Told = (
    AttemptOffer
    | AdvertisementSet
    | HolderShares
    | EncodedUpdate
    | SurvivorProposal
    | UnmaskRequest
    | RoundCertificate
    | VoidedRound
    | Abort
)

_IN_ATTEMPT: Final[tuple[type[State], ...]] = (Advertised, Shared, Ready, Masked, Signed, Released)

# In a state, on being told something: the states of which one follows; or none, where a rule refuses it in any case.
# What is not here is refused as out of order. A refusal changes nothing.
TRANSITIONS: Final[Mapping[tuple[type[State], type[Told]], tuple[type[State], ...]]] = {
    (Idle, AttemptOffer): (Advertised,),
    (Advertised, AdvertisementSet): (Shared,),
    (Shared, HolderShares): (Ready, Idle),  # idle if it complains about a dealer: it abstains from the attempt
    (Ready, EncodedUpdate): (Masked,),
    (Masked, SurvivorProposal): (Signed,),
    (Masked, UnmaskRequest): (Released,),  # who did not sign may still be asked to release
    (Signed, SurvivorProposal): (Signed,),  # asked again: the same bytes
    (Signed, UnmaskRequest): (Released,),
    (Released, SurvivorProposal): (Released,),
    (Released, UnmaskRequest): (Released,),
    **{(state, AttemptOffer): (Advertised,) for state in _IN_ATTEMPT},  # a later attempt closes this one for ever
    (Signed, AttemptOffer): (),  # the commit point: no other attempt may complete
    (Idle, RoundCertificate): (Idle,),  # of a round that it missed
    **{(state, RoundCertificate): (Idle,) for state in _IN_ATTEMPT},
    (Idle, VoidedRound): (Idle,),
    **{(state, VoidedRound): (Idle,) for state in _IN_ATTEMPT},  # whatever was signed or released in it
    **{(state, Abort): (Idle,) for state in _IN_ATTEMPT},
}


def awaits(state: State, told: Told) -> bool:
    """Return whether there is an answer to this in this state, if it breaks no rule."""
    return (type(state), type(told)) in TRANSITIONS


def check_following(state: State, told: Told, following: State) -> None:
    """Refuse a step that the table does not have: a bug of this program."""
    if type(following) not in TRANSITIONS[type(state), type(told)]:
        step = f"{type(told).__name__} leads from {type(state).__name__} to {type(following).__name__}"
        raise LocalError("E-BUG", f"{step}, which no row of the protocol's table says")
