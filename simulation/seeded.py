"""Bytes and keys that follow from a seed, for simulations: whoever knows the seed knows every coin, mask and noise."""

from __future__ import annotations

import hashlib

from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes


class SeededSource:
    """Bytes that follow from a seed: SHAKE-256 of seed and counter. For simulations and nothing else."""

    def __init__(self, seed: str) -> None:
        self._seed = hashlib.sha256(seed.encode()).digest()
        self._count = 0

    def token_bytes(self, count: int) -> bytes:
        """Return the next bytes."""
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8, "big")).digest(count)


def seeded_key(seed: str) -> SigningKey:
    """Return an identity key that follows from a seed."""
    return SigningKey(SecretBytes(hashlib.sha256(seed.encode()).digest()))
