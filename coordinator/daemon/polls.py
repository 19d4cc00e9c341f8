"""Polls that wait for a task.

Guarantees: a poll is woken only when there is a task that its member has not seen; while it waits it costs nothing.
Leaves to others: what tasks there are (``coordinator.runs.run``), which are told (``coordinator.daemon.runner``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coordinator.runs.run import Run


@dataclass(frozen=True, slots=True, eq=False)
class _Poll:
    seen: frozenset[bytes]
    woken: asyncio.Event


class Polls:
    """The polls in flight, by member."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[_Poll]] = {}

    @contextmanager
    def waiting(self, member: str, seen: frozenset[bytes]) -> Iterator[asyncio.Event]:
        """Give out what is set when there is a task that is not among the seen ones."""
        poll = _Poll(seen, asyncio.Event())
        self._waiting.setdefault(member, set()).add(poll)
        try:
            yield poll.woken
        finally:
            polls = self._waiting[member]
            polls.discard(poll)
            if not polls:
                del self._waiting[member]

    def wake(self, members: Collection[str]) -> None:
        """Wake all polls of some members, since they may have to ask elsewhere."""
        for member in members:
            for poll in self._waiting.get(member, ()):
                poll.woken.set()

    def look(self, run: Run, members: Collection[str]) -> None:
        """Wake those of some members for whom a run has a task that they have not seen."""
        for member in members:
            for poll in self._waiting.get(member, ()):
                if not poll.woken.is_set() and any(due.id not in poll.seen for due in run.tasks(member)):
                    poll.woken.set()
