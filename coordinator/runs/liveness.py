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

MAX_EXTENSION = 4  # uploads that still come extend a phase to at most this multiple of its duration


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
class UploadPace:
    """How far a member's upload has come in a phase, in the clock's monotonic seconds."""

    begun: float
    moved: float
    share: float  # of its bytes, 0 to 1

    def open_until(self, end: float, stall: float) -> float:
        """Return until when it is worth waiting: while it moves, at a rate that brings all of it by the end.

        The first ``stall`` seconds are free; after them the share that has come must keep up with the time to the end.
        Whoever sends a byte now and then gains these seconds and no more.
        """
        return min(self.moved + stall, self.begun + stall + self.share * max(0.0, end - self.begun - stall))


@dataclass(slots=True)
class PhaseTimer:
    """The deadline of the current phase of an attempt, in the clock's monotonic seconds."""

    clock: Clock
    durations: Durations
    phase: Phase
    started: float = field(init=False)
    uploads: dict[str, UploadPace] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock.monotonic()

    def bytes_moved(self, member: str, done: int, length: int) -> None:
        """Note that a chunk of a member's upload arrived, and how much of all of it has come."""
        now = self.clock.monotonic()
        begun = self.uploads[member].begun if member in self.uploads else now
        self.uploads[member] = UploadPace(begun, now, done / length)

    @property
    def deadline(self) -> float:
        """When the phase closes or aborts at the latest, as far as is known now."""
        allowed = patience(self.phase, self.durations)
        end = self.started + MAX_EXTENSION * allowed
        waits = (pace.open_until(end, self.durations.stall_seconds) for pace in self.uploads.values())
        return min(end, max([self.started + allowed, *waits]))

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.clock.monotonic() >= self.deadline

    @property
    def overdue(self) -> bool:
        """Whether the phase has taken longer than it does without an upload that is still coming."""
        return self.clock.monotonic() >= self.started + patience(self.phase, self.durations)


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
