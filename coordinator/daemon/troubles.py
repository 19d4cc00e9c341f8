"""What keeps the coordinator from working, for its operator: a round that waits for members may wait for this machine.

Guarantees: what went wrong here in a call or in a run's own steps is known for :data:`RECENT_SECONDS` after it last
happened, by its code; a bounded number of them is kept.
Leaves to others: what members see, which is nothing (``protos.status``), showing it (``coordinator.views``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from host.durable import disk_error
from privacy.errors import LocalError, OnlysumError
from privacy.interfaces import Clock

RECENT_SECONDS: Final = 90.0  # members try again within 30 s, runs within 2 s
MAX_TROUBLES: Final = 16
MAX_DETAIL: Final = 400  # characters that are shown of one


class Trouble(NamedTuple):
    """One thing that is wrong."""

    code: str
    detail: str


class Troubles:
    """What went wrong lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[Trouble, float] = {}

    def note(self, error: Exception) -> None:
        """Remember an error of this machine; a peer's fault is none."""
        raised = as_local(error)
        if raised is not None:
            self.add(Trouble(raised.code, raised.detail[:MAX_DETAIL]))

    def add(self, trouble: Trouble) -> None:
        """Remember a trouble."""
        self._last[trouble] = self._clock.monotonic()
        while len(self._last) > MAX_TROUBLES:
            del self._last[min(self._last, key=lambda trouble: self._last[trouble])]

    def recent(self) -> tuple[Trouble, ...]:
        """Return what went wrong lately, in the order of codes."""
        limit = self._clock.monotonic() - RECENT_SECONDS
        self._last = {trouble: at for trouble, at in self._last.items() if at >= limit}
        return tuple(sorted(self._last))


def as_local(error: Exception) -> LocalError | None:
    """Return what an error means to the operator of this machine, or ``None`` if it is not this machine's."""
    match error:
        case LocalError():
            return error
        case OnlysumError():
            return None
        case OSError():
            return disk_error(error, error.filename or "a file of this coordinator")
        case _:
            return LocalError("E-BUG", f"{type(error).__name__}; the log has where")
