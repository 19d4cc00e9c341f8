"""Refusals that an operator should hear of, in the security log: of newcomers, of handshakes, of certificates.

Guarantees: a stranger who is refused again and again fills no disk: one row per minute, name and code, and a bounded
number of rows per minute altogether; a row holds a name and a code, nothing that was sent.
Leaves to others: the log and its chain (``coordinator.database.member_rows``). A TLS handshake that fails ends below
gRPC, which tells nobody: it is in no log.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, Protocol, TypeVar, cast

from coordinator.database import member_rows
from coordinator.database.store import Store
from privacy.errors import OnlysumError
from privacy.interfaces import Clock

MINUTE: Final = 60.0  # seconds
MAX_ROWS: Final = 30  # per minute, whoever is refused

CallT = TypeVar("CallT", bound=Callable[..., Coroutine[Any, Any, Any]])


class RefusalLog:
    """Notes refusals, and which ones it has noted lately."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._since = 0.0
        self._noted: set[tuple[str, str, str]] = set()

    def note(self, kind: str, subject: str, code: str) -> None:
        """Append a row, unless the same was noted in this minute, or many others were."""
        now = self._clock.monotonic()
        if now - self._since >= MINUTE:
            self._since, self._noted = now, set()
        refusal = (kind, subject, code)
        if refusal in self._noted or len(self._noted) >= MAX_ROWS:
            return
        self._noted.add(refusal)
        with self._store.begin() as connection:
            member_rows.log_security(connection, int(self._clock.now()), kind, subject, code)


class _Refuses(Protocol):
    @property
    def refusals(self) -> RefusalLog:
        """Where refusals are noted."""
        ...


def noting_refusals(kind: str, subject: Callable[[Any], str] = str) -> Callable[[CallT], CallT]:
    """Return a decorator for a call whose refusals the operator should hear of.

    Args:
        kind: of the row.
        subject: who was refused, from the call's first argument.
    """

    def decorate(call: CallT) -> CallT:
        @wraps(call)
        async def noted(self: _Refuses, first: Any, *others: Any) -> Any:
            try:
                return await call(self, first, *others)
            except OnlysumError as error:
                self.refusals.note(kind, subject(first), error.code)
                raise

        return cast(CallT, noted)

    return decorate
