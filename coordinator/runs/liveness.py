"""Who is there, and when a phase has waited long enough.

Guarantees: a member is live while one of its polls is in flight and for ``grace`` seconds after the last one ended,
however long a poll takes; a daemon that has just started gives everybody time to come back before it counts them lost;
nothing here reads a clock by itself.
Leaves to others: what follows from it (``coordinator.runs.run``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from coordinator.config import Durations
from privacy.errors import Phase
from privacy.interfaces import Clock
from privacy.secagg.messages import Position

MAX_EXTENSION = 4  # uploads that trickle extend a phase to at most this multiple of its duration


class Liveness:
    """Heartbeats of members: their long polls."""

    def __init__(self, clock: Clock, *, grace: float, settling: float) -> None:
        """Start without anybody.

        Args:
            clock: the daemon's.
            grace: seconds after the end of a poll for which a member still counts as there.
            settling: seconds after this start for which nobody counts as lost who has not been heard of.
        """
        self._clock = clock
        self._grace = grace
        self._settled = clock.monotonic() + settling
        self._in_flight: Counter[str] = Counter()
        self._ended: dict[str, float] = {}

    @contextmanager
    def poll(self, member: str) -> Iterator[None]:
        """Count a poll as in flight inside the ``with`` block, however it ends."""
        self._in_flight[member] += 1
        try:
            yield
        finally:
            self._in_flight[member] -= 1
            self._ended[member] = self._clock.monotonic()

    def live(self, member: str) -> bool:
        """Return whether a member is there."""
        if self._in_flight[member] > 0:
            return True
        ended = self._ended.get(member)
        return ended is not None and self._clock.monotonic() - ended < self._grace

    def all_live(self) -> frozenset[str]:
        """Return every member that is there."""
        return frozenset(name for name in {*self._in_flight, *self._ended} if self.live(name))

    def may_answer(self, members: Collection[str]) -> frozenset[str]:
        """Return those of some members for whom it is worth waiting: live, or not back yet after a start."""
        settling = self._clock.monotonic() < self._settled
        return frozenset(name for name in members if self.live(name) or (settling and name not in self._ended))


@dataclass(slots=True)
class PhaseTimer:
    """The deadline of the current phase of an attempt, in the clock's monotonic seconds."""

    clock: Clock
    durations: Durations
    phase: Phase
    started: float = field(init=False)
    moved: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.moved = self.clock.monotonic()

    def bytes_moved(self) -> None:
        """Note that a chunk of an upload arrived."""
        self.moved = self.clock.monotonic()

    @property
    def deadline(self) -> float:
        """When the phase closes or aborts at the latest, as far as is known now."""
        allowed = patience(self.phase, self.durations)
        if self.moved == self.started:
            return self.started + allowed
        extended = max(self.started + allowed, self.moved + self.durations.stall_seconds)
        return min(extended, self.started + MAX_EXTENSION * allowed)

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.clock.monotonic() >= self.deadline


class PhaseTimers:
    """The timers of one attempt's phases; they outlast the attempt in memory: opening it again gains no time."""

    def __init__(self, clock: Clock, durations: Durations) -> None:
        self._clock = clock
        self._durations = durations
        self._attempt: Position | None = None
        self._timers: dict[Phase, PhaseTimer] = {}

    def timer(self, attempt: Position, phase: Phase) -> PhaseTimer:
        """Return the timer of a phase, which starts when it is first asked for; those of other attempts are dropped."""
        if attempt != self._attempt:
            self._attempt, self._timers = attempt, {}
        if phase not in self._timers:
            self._timers[phase] = PhaseTimer(self._clock, self._durations, phase)
        return self._timers[phase]


def patience(phase: Phase, durations: Durations) -> float:
    """Return how long a phase waits for those who are not live or do not answer.

    From COLLECT_MASKED on the longer duration holds: training lies in it, and after a survivor set was signed an
    attempt that is given up cannot be tried again.
    """
    if phase in (Phase.ADVERTISE_KEYS, Phase.SHARE_KEYS):
        return durations.phase_seconds
    return durations.update_seconds
