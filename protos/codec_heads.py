"""Heads of ledgers and journals, between ``privacy.heads`` and ``federation.proto``.

Guarantees: as ``codec_round``.
Leaves to others: bytes and blame (``codec``), whether a head is one of its member's (whoever reads it).
"""

from __future__ import annotations

from typing import Final

from privacy.heads import HeadsShown, JournalHead, LedgerHead, Moment
from privacy.secagg.hashes import HASH_BYTES
from privacy.secagg.keys import SIGNATURE_BYTES
from protos import codec_round as rounds
from protos import federation_pb2 as pb
from protos.codec_fields import Malformed, count, exact, name, part, some

_MOMENTS: Final = frozenset(moment.value for moment in Moment)


def write_ledger_head(value: LedgerHead) -> pb.LedgerHead:
    """Return the message of a ledger's head."""
    return pb.LedgerHead(sequence=value.sequence, hash=value.hash, signature=value.signature)


def read_ledger_head(message: pb.LedgerHead) -> LedgerHead:
    """Return a ledger's head; none was shown where the number is 0."""
    return LedgerHead(
        sequence=count(message.sequence, "sequence"),
        hash=exact(message.hash, (0, HASH_BYTES), "hash"),
        signature=exact(message.signature, (0, SIGNATURE_BYTES), "signature"),
    )


def write_heads(value: HeadsShown) -> pb.HeadsShown:
    """Return the message of a member's heads."""
    return pb.HeadsShown(
        position=rounds.write_position(value.position),
        sender=value.sender,
        moment=pb.Moment.ValueType(value.moment.value),
        journal=pb.JournalHead(length=value.journal.length, hash=value.journal.hash),
        ledger=write_ledger_head(value.ledger),
        signature=value.signature,
        about=value.about,
    )


def read_heads(message: pb.HeadsShown) -> HeadsShown:
    """Return a member's heads; there is always a journal and a ledger."""
    if message.moment not in _MOMENTS:
        raise Malformed("moment is unknown")
    ledger = part(message, "ledger", read_ledger_head)
    some(ledger.hash, "ledger.hash")
    return HeadsShown(
        position=part(message, "position", rounds.read_position),
        sender=name(message.sender, "sender"),
        moment=Moment(message.moment),
        journal=part(message, "journal", _read_journal_head),
        ledger=ledger,
        about=exact(message.about, (0, HASH_BYTES), "about"),
        signature=exact(message.signature, SIGNATURE_BYTES, "signature"),
    )


def _read_journal_head(message: pb.JournalHead) -> JournalHead:
    return JournalHead(length=count(message.length, "length"), hash=exact(message.hash, HASH_BYTES, "hash"))
