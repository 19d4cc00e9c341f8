"""What is hashed in a round, and under which label.

Guarantees: two hashes of different meaning never have the same input: each begins with a label of its own, and every
field is framed by its length.
Leaves to others: what is signed, and the hashes over whole messages (``privacy.secagg.messages``).
Source: docs/protocol.md section 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from privacy.secagg.keys import framed, length_prefix, number

Buffer = bytes | bytearray | memoryview

# Domain separation: every label in one place (docs/protocol.md section 4).
LABEL_ADVERTISE_CONTEXT: Final = b"onlysum/1/advertise-context"
LABEL_ROUND_CONTEXT: Final = b"onlysum/1/round-context"
LABEL_ADVERTISE: Final = b"onlysum/1/ADVERTISE_KEYS"
LABEL_SHARE: Final = b"onlysum/1/SHARE_KEYS"
LABEL_COLLECT: Final = b"onlysum/1/COLLECT_MASKED"
LABEL_AGREE: Final = b"onlysum/1/AGREE_SURVIVORS"
LABEL_SURVIVORS: Final = b"onlysum/1/survivors"
LABEL_COMPLAIN: Final = b"onlysum/1/complaint"
LABEL_SET: Final = b"onlysum/1/set"
LABEL_SHARE_HASH: Final = b"onlysum/1/share-hash"
LABEL_LEAF: Final = b"onlysum/1/merkle-leaf"
LABEL_NODE: Final = b"onlysum/1/merkle-node"
LABEL_SEED_COMMITMENT: Final = b"onlysum/1/seed-commitment"
LABEL_TRANSCRIPT: Final = b"onlysum/1/transcript"
LABEL_VOID: Final = b"onlysum/1/voided-round"
LABEL_SUM: Final = b"onlysum/1/sum"
LABEL_GENESIS: Final = b"onlysum/1/genesis"
LABEL_ADAPTER: Final = b"onlysum/1/adapter"
LABEL_SEAL: Final = b"onlysum/1/sealed-share"
LABEL_PAIR_COMMITMENT: Final = b"onlysum/1/pair-commitment"
LABEL_GRAPH: Final = b"onlysum/1/masking-graph"

HASH_BYTES: Final = 32


def digest(*fields: bytes) -> bytes:
    """Return SHA-256 over the framed fields."""
    return hashlib.sha256(framed(*fields)).digest()


def set_hash(participants: Sequence[str]) -> bytes:
    """Return H(sorted set) of participant ids."""
    return digest(LABEL_SET, *(participant.encode() for participant in sorted(participants)))


def adapter_hash(data: Buffer) -> bytes:
    """Return the hash under which a global adapter's bytes enter the contexts."""
    return _vector_digest(LABEL_ADAPTER, data)


def adapter_hash_of(parts: Iterable[Buffer], size: int) -> bytes:
    """Return the :func:`adapter_hash` of ``size`` bytes that come in parts: of a file that is not read whole."""
    hashed = _vector_begun(LABEL_ADAPTER, size)
    for part in parts:
        hashed.update(part)
    return hashed.digest()


def sum_hash(data: Buffer) -> bytes:
    """Return H(sum) over the little-endian ring words of the unmasked total."""
    return _vector_digest(LABEL_SUM, data)


def _vector_digest(label: bytes, data: Buffer) -> bytes:
    """Return ``digest(label, data)`` without a copy of the data."""
    view = memoryview(data)
    hashed = _vector_begun(label, view.nbytes)
    hashed.update(view)
    return hashed.digest()


def _vector_begun(label: bytes, size: int) -> hashlib._Hash:
    return hashlib.sha256(framed(label) + length_prefix(size))


def genesis_transcript(plan_hash: bytes) -> bytes:
    """Return transcript_0 of a run: what stands for "previous transcript" in the first round."""
    return digest(LABEL_GENESIS, plan_hash)


def voided_transcript(previous: bytes, round_number: int) -> bytes:
    """Return transcript_r of a round that has no sum and never will: the next round follows from it."""
    return digest(LABEL_VOID, previous, number(round_number))


def share_hash(kind: bytes, round_ctx: bytes, dealer: str, holder: str, share: bytes) -> bytes:
    """Return the hash that names a lying dealer on opening and a lying holder on release.

    ``kind`` is ``b"masking"`` or ``b"seed"``.
    """
    return digest(LABEL_SHARE_HASH, kind, round_ctx, dealer.encode(), holder.encode(), share)


def seed_commitment(round_ctx: bytes, participant: str, seed: bytes) -> bytes:
    """Return the commitment to a self-mask seed: it detects a dealer whose shares rebuild another seed."""
    return digest(LABEL_SEED_COMMITMENT, round_ctx, participant.encode(), seed)


def pair_commitment(round_ctx: bytes, lower: str, higher: str, secret: bytes) -> bytes:
    """Return the commitment to a pair secret: all who derive a mask from it know that it is the same one."""
    return digest(LABEL_PAIR_COMMITMENT, round_ctx, lower.encode(), higher.encode(), secret)
