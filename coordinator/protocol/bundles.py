"""Dealers' bundles as an attempt keeps them: a few byte strings a dealer in place of several objects a share.

Guarantees: what is dealt out, and what released shares are compared with, is what the dealer signed, byte for byte.
Leaves to others: whether a bundle may be taken in (``checks``).
Source: docs/protocol.md sections 4 and 8; bench/round.py for the memory that a cohort takes.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Self

from privacy.secagg.hashes import HASH_BYTES
from privacy.secagg.merkle import MerkleTree
from privacy.secagg.messages import DealtShare, Position, SealedPair, ShareBundle, ShareLeaf


@dataclass(frozen=True, slots=True)
class DealerCommitments:
    """What stays of a bundle to the end of an attempt: what rebuilt secrets and released shares are compared with."""

    recipients: tuple[str, ...]  # sorted; all else is in their order
    masking_share_hashes: bytes
    seed_share_hashes: bytes
    seed_commitment: bytes
    pair_commitments: tuple[bytes, ...]  # suite 2; empty ones in suite 1
    sealed_pairs: tuple[bytes, ...]  # suite 2; none in suite 1

    def place(self, recipient: str) -> int:
        """Return where a recipient stands."""
        return bisect_left(self.recipients, recipient)

    def masking_share_hash(self, place: int) -> bytes:
        """Return the hash of a recipient's share of the masking secret."""
        return _at(self.masking_share_hashes, place)

    def seed_share_hash(self, place: int) -> bytes:
        """Return the hash of a recipient's share of the self-mask seed."""
        return _at(self.seed_share_hashes, place)

    def pair_at(self, place: int) -> SealedPair:
        """Return what goes with a leaf in suite 2."""
        return SealedPair(self.sealed_pairs[place] if self.sealed_pairs else b"", self.pair_commitments[place])


@dataclass(frozen=True, slots=True)
class KeptBundle:
    """A dealer's bundle, from which each of its recipients is given its part."""

    position: Position
    dealer: str
    signature: bytes
    commitments: DealerCommitments
    tree: MerkleTree
    ciphertext_hashes: bytes
    sealed: bytes  # all of one length, but the dealer's own is empty

    @classmethod
    def of(cls, message: ShareBundle) -> Self:
        """Return what is kept of a bundle."""
        leaves = message.leaves
        commitments = DealerCommitments(
            recipients=tuple(leaf.recipient for leaf in leaves),
            masking_share_hashes=b"".join([leaf.masking_share_hash for leaf in leaves]),
            seed_share_hashes=b"".join([leaf.seed_share_hash for leaf in leaves]),
            seed_commitment=message.seed_commitment,
            pair_commitments=tuple(leaf.pair_commitment for leaf in leaves),
            sealed_pairs=message.sealed_pairs,
        )
        return cls(
            position=message.position,
            dealer=message.sender,
            signature=message.signature,
            commitments=commitments,
            tree=message.tree,
            ciphertext_hashes=b"".join([leaf.ciphertext_hash for leaf in leaves]),
            sealed=b"".join(message.sealed),
        )

    def dealt_to(self, recipient: str) -> DealtShare:
        """Return what a recipient other than the dealer is given."""
        kept = self.commitments
        place = kept.place(recipient)
        here = slice(place * HASH_BYTES, (place + 1) * HASH_BYTES)
        return DealtShare(
            position=self.position,
            dealer=self.dealer,
            leaf=ShareLeaf(
                recipient=recipient,
                ciphertext_hash=self.ciphertext_hashes[here],
                masking_share_hash=kept.masking_share_hashes[here],
                seed_share_hash=kept.seed_share_hashes[here],
                pair_commitment=kept.pair_commitments[place],
            ),
            proof=self.tree.proof(place),
            sealed=self._sealed_at(place),
            root=self.tree.root,
            seed_commitment=kept.seed_commitment,
            signature=self.signature,
            sealed_pair=kept.sealed_pairs[place] if kept.sealed_pairs else b"",
        )

    def _sealed_at(self, place: int) -> bytes:
        length = len(self.sealed) // (len(self.commitments.recipients) - 1)
        start = (place - (self.commitments.place(self.dealer) < place)) * length
        return self.sealed[start : start + length]


def _at(hashes: bytes, place: int) -> bytes:
    return hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]
