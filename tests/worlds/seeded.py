"""A random source for tests: the same seed, the same bytes."""

from __future__ import annotations

import hashlib


class SeededRandom:
    """Bytes of SHAKE-256 over a seed and a counter."""

    def __init__(self, seed: str | int = 0) -> None:
        self._seed = str(seed).encode()
        self._calls = 0

    def token_bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        self._calls += 1
        return hashlib.shake_256(self._seed + b"/%d" % self._calls).digest(count)
