"""The machine's clock and randomness, which other packages take through ``privacy.interfaces``."""

from __future__ import annotations

import secrets
import time


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""
        return time.monotonic()


class SystemRandom:
    """The operating system's randomness, as a ``RandomSource``."""

    def token_bytes(self, count: int) -> bytes:
        """Return ``count`` fresh bytes."""
        return secrets.token_bytes(count)
