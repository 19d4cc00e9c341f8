"""How far a member's ledger and its journal of a run have come, as it signs and shows it.

Guarantees: a head names a record and, through its hash, all before it: where a head that a member signed is missing,
something was rolled back. A head tells no more of the records than how many there are.
Leaves to others: the records (``privacy.ledger``, ``participant.runs.journal``), keeping heads (the coordinator), what
follows when one is missing (``participant.runs.open_runs``).
Source: docs/protocol.md section 6; ADR 0025.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from privacy.secagg.keys import framed, number
from privacy.secagg.messages import Position

LABEL_LEDGER_HEAD: Final = b"onlysum/1/ledger-head"
LABEL_HEADS: Final = b"onlysum/1/heads"


class Moment(Enum):
    """What a member is about to do when it shows its heads; journal or ledger have the record of it by then."""

    ADVERTISE = 1  # send its keys
    TRAIN = 2  # train a round that it has charged
    UPLOAD = 3  # send its masked update
    SIGN = 4  # sign the survivors
    RELEASE = 5  # release shares


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """The last record of a ledger: its number, its hash, and the signature of the ledger's key over both."""

    sequence: int  # 0: no ledger was shown
    hash: bytes
    signature: bytes = b""

    @property
    def signed_bytes(self) -> bytes:
        """The string that the ledger's key signs."""
        return framed(LABEL_LEDGER_HEAD, number(self.sequence), self.hash)

    @property
    def place(self) -> tuple[int, bytes]:
        """What two heads of one record have in common."""
        return self.sequence, self.hash


@dataclass(frozen=True, slots=True)
class JournalHead:
    """The last record of a run's journal: how many there are, and the hash of all of them."""

    length: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class HeadsShown:
    """A member's heads at a moment of an attempt, signed; durable at the coordinator before what they announce."""

    position: Position
    sender: str
    moment: Moment
    journal: JournalHead
    ledger: LedgerHead
    about: bytes = b""  # hash of the keys, or of the masked update, that these heads go with; else empty
    signature: bytes = b""

    def signed_bytes(self, version: int) -> bytes:
        """The string that the sender's identity key signs."""
        where = framed(LABEL_HEADS, number(version), *self.position.fields, self.sender.encode())
        what = number(self.moment.value), number(self.journal.length), self.journal.hash
        return where + framed(*what, number(self.ledger.sequence), self.ledger.hash, self.about)
