"""Who is there, who is late though it is there, and when a phase has waited long enough.

Guarantees: a member is live while one of its polls is in flight and for ``grace`` seconds after the last one ended,
however long a poll takes; a daemon that has just started gives everybody time to come back before it counts them lost;
a member that lets phases pass while it is live costs a run few phases in all, however long the run; nothing here reads
a clock by itself.
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

    def settle(self, seconds: float) -> None:
        """Give everybody time to come: a run was taken over whose members polled another process until now."""
        self._settled = self._clock.monotonic() + seconds
        self._ended = {member: at for member, at in self._ended.items() if self.live(member)}

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
class _Lateness:
    """How often a member was late in a phase of some kind, and how often in time it must be to be waited for again."""

    times: int = 0
    owed: int = 0


class Latecomers:
    """Members of one run whose daemon was connected while a phase went by without their answer.

    After a member's k-th lateness in a phase it has been in time there 2^k times before it is waited for again as if
    nothing had been: a member that answers now and then costs a phase's patience log2(rounds) times and no more.
    """

    def __init__(self) -> None:
        self._late: dict[tuple[str, Phase], _Lateness] = {}
        self._silent: set[str] = set()

    def was_late(self, member: str, phase: Phase) -> None:
        """Note that a phase was closed without a member that was there."""
        lateness = self._late.setdefault((member, phase), _Lateness())
        lateness.times += 1
        lateness.owed = 2**lateness.times
        self._silent.add(member)

    def was_in_time(self, member: str, phase: Phase) -> None:
        """Note that a member answered in a phase."""
        lateness = self._late.get((member, phase))
        if lateness is not None and lateness.owed:
            lateness.owed -= 1

    def heard_of(self, member: str) -> None:
        """Note that a member sent anything, too late as it may have been: it is not stuck any more."""
        self._silent.discard(member)

    @property
    def silent(self) -> frozenset[str]:
        """Who was late and has sent nothing since: to be counted as away, whatever its polls say."""
        return frozenset(self._silent)

    def in_phase(self, phase: Phase) -> frozenset[str]:
        """Return who is not waited for in a phase beyond what the others need."""
        return self.silent | {member for (member, of), lateness in self._late.items() if of is phase and lateness.owed}


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
    others_done: float | None = field(init=False, default=None)  # since when latecomers alone are missing

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
        return self.overdue and self.clock.monotonic() >= self.deadline

    @property
    def overdue(self) -> bool:
        """Whether the phase has taken longer than it does without an upload that is still coming."""
        return self.clock.monotonic() >= self.started + patience(self.phase, self.durations)

    def waits_for_others(self) -> None:
        """Note that somebody is missing who is no latecomer."""
        self.others_done = None

    def waited_for_latecomers(self) -> bool:
        """Return whether those who alone are missing have had as long again as the others needed."""
        now = self.clock.monotonic()
        if self.others_done is None:
            self.others_done = now
        return now - self.others_done >= max(self.durations.liveness_seconds, self.others_done - self.started)


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
