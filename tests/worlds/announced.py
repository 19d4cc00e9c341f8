"""Events that are kept in place of being told."""

from __future__ import annotations

from host.events.announcer import Announcer, Told
from host.events.event import Event, Events


class Heard(Announcer):
    """An announcer that keeps what it is to tell, and tells nobody."""

    def __init__(self, told: Told) -> None:
        super().__init__(Events(command=("true",)), told)
        self.events: list[Event] = []
        self._known = told

    def announce(self, key: str, event: Event) -> None:
        """Keep an event that is news."""
        if self._known.begin(key):
            self.events.append(event)
