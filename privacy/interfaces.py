"""The two seams through which time and randomness enter the pure code.

Guarantees: nothing in ``privacy``, ``methods`` or a ``round`` module asks the operating system for either.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Where time comes from: the machine's in daemons, a virtual one in tests."""

    def now(self) -> float:
        """Return seconds since the Unix epoch (for deadlines of documents: expiry, audit entries)."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go backwards (for durations)."""
        ...


class RandomSource(Protocol):
    """Where secret bytes come from: the operating system in daemons, a seeded stream in simulations."""

    def token_bytes(self, count: int) -> bytes:
        """Return ``count`` fresh uniformly random bytes, fit for keys."""
        ...
