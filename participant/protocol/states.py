"""Where a participant stands in a round: one class per state, each with what exists then and no longer.

Guarantees: a state holds its secrets only as long as its phase needs them; nothing in it changes.
Leaves to others: which state may follow which (``transitions``), how one is reached (``round``).
Source: docs/protocol.md section 5, whose diagram has the first line of each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from participant.protocol.checks import Quorum
from participant.protocol.member import Participant
from participant.protocol.memory import UpdateMasked
from privacy.secagg.dealing import Channels, HeldShare
from privacy.secagg.graph import MaskingGraph
from privacy.secagg.messages import Advertisement, AttemptOffer, Position, ShareBundle
from privacy.secagg.pairing import Pairing
from privacy.secagg.suites import SuiteKeys
from privacy.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class Idle:
    """Waits for an offer."""

    participant: Participant


@dataclass(frozen=True, slots=True)
class Advertised:
    """Waits for the others' keys (U1)."""

    participant: Participant
    own: Advertisement
    masking_secret: SecretBytes
    masking: SuiteKeys
    channel: SuiteKeys

    @property
    def position(self) -> Position:
        """The attempt."""
        return self.own.position


@dataclass(frozen=True, slots=True)
class Shared:
    """Waits for the others' shares (U2)."""

    participant: Participant
    offer: AttemptOffer
    channels: Channels
    pairing: Pairing
    graph: MaskingGraph
    bundle: ShareBundle
    kept: HeldShare
    seed: SecretBytes

    @property
    def position(self) -> Position:
        """The attempt."""
        return self.offer.position

    @property
    def round_ctx(self) -> bytes:
        """The context that U1 fixes."""
        return self.channels.round_ctx

    @property
    def u1(self) -> tuple[str, ...]:
        """The verified members of the attempt, sorted."""
        return self.graph.members


@dataclass(frozen=True, slots=True)
class Ready:
    """Waits for its own update, trained and encoded.

    U2 is verified. The caller charges the round, trains, and makes the encoded update and its record durable, unless
    they are from an earlier attempt; then it tells the update.
    """

    participant: Participant
    offer: AttemptOffer
    round_ctx: bytes
    u2: tuple[str, ...]
    shares: tuple[HeldShare, ...]
    seed: SecretBytes
    masking: Mapping[str, SecretBytes]

    @property
    def position(self) -> Position:
        """The attempt."""
        return self.offer.position


@dataclass(frozen=True, slots=True)
class Masked:
    """Waits for the survivors (S).

    The masked update is out; what is left of the secrets are the shares held for others. After a restart a participant
    goes on from here, from the journal's record and the file of shares, also if it has signed or released: its memory
    knows that.
    """

    participant: Participant
    record: UpdateMasked
    shares: tuple[HeldShare, ...]  # of its own neighbours in U2 and its own, by dealer

    @property
    def position(self) -> Position:
        """The attempt."""
        return self.record.offer.position


@dataclass(frozen=True, slots=True)
class Signed(Masked):
    """Waits to be asked for shares."""


@dataclass(frozen=True, slots=True)
class Released(Masked):
    """Waits for the result."""

    quorum: Quorum  # for which shares were released, verified; a restart forgets it


InAttempt = Advertised | Shared | Ready | Masked  # a Signed or a Released is a Masked too
State = Idle | InAttempt
