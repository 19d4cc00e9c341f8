"""The Merkle tree with which a dealer commits to all its shares by one signature.

Guarantees: a proof shows one leaf at one place of a tree of one size, and nothing else.
Leaves to others: what a leaf commits to (``privacy.secagg.messages``). Source: docs/protocol.md section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privacy.secagg.hashes import HASH_BYTES, LABEL_NODE, digest


@dataclass(frozen=True, slots=True)
class MerkleTree:
    """A binary hash tree, level by level from the leaves to the root; an odd node moves up unchanged."""

    levels: tuple[bytes, ...]  # the hashes of a level one behind the other: a coordinator keeps a tree a dealer

    @classmethod
    def over(cls, leaves: Sequence[bytes]) -> MerkleTree:
        """Build the tree over at least one leaf hash."""
        levels, below = [b"".join(leaves)], list(leaves)
        while len(below) > 1:
            paired = [digest(LABEL_NODE, below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            below = [*paired, below[-1]] if len(below) % 2 else paired
            levels.append(b"".join(below))
        return cls(tuple(levels))

    @property
    def root(self) -> bytes:
        """The root."""
        return self.levels[-1]

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Return the siblings from leaf to root; an empty byte string where a node moves up unchanged."""
        proof: list[bytes] = []
        for level in self.levels[:-1]:
            start = (index ^ 1) * HASH_BYTES
            proof.append(level[start : start + HASH_BYTES])
            index //= 2
        return tuple(proof)


def merkle_verify(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether ``leaf`` stands at ``index`` of a tree over ``size`` leaves with this root.

    The shape of the proof follows from index and size, so that a dealer cannot show one place two ways.
    """
    node, width = leaf, size
    for sibling in proof:
        if width == 1 or bool(sibling) != (index ^ 1 < width):
            return False
        if sibling:
            node = digest(LABEL_NODE, sibling, node) if index % 2 else digest(LABEL_NODE, node, sibling)
        index, width = index // 2, (width + 1) // 2
    return width == 1 and index == 0 and node == root
