"""The phase that an attempt is in: who is expected, who has answered or abstained, and until when it waits.

Guarantees: read from the database and the configuration alone; names, phases and times only.
Leaves to others: the rest of a run (``overview``). An upload that moves may extend the deadline shown
(``coordinator.runs.liveness``).
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.config import Durations
from coordinator.database.attempt_rows import AttemptRecord, EventRecord
from coordinator.runs.attempt import ABSTAINED, CLOSED, HEADS
from coordinator.runs.liveness import patience
from host.rendering import Json, moment
from privacy import canonical
from privacy.errors import Phase
from privacy.plan import Plan
from protos import codec
from protos.envelope import Abstained


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a phase's deadline follows from: the durations, and when the daemon began to count."""

    durations: Durations
    daemon_since: int | None = None  # None: the daemon does not run


@dataclass(frozen=True, slots=True)
class OpenPhase:
    """The phase of the open attempt."""

    round: int
    attempt: int
    phase: str
    expected: tuple[str, ...]
    answered: tuple[str, ...]
    abstained: dict[str, str]  # who said that it cannot take part -> the code of why
    since: int
    deadline: int  # at the latest, if no upload is on its way then

    @property
    def missing(self) -> tuple[str, ...]:
        """Who has not answered and may still."""
        return tuple(name for name in self.expected if name not in self.answered and name not in self.abstained)

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "round": self.round,
            "attempt": self.attempt,
            "phase": self.phase,
            "answered": list(self.answered),
            "missing": list(self.missing),
            "abstained": dict(self.abstained),
            "since": self.since,
            "deadline": self.deadline,
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        times = f"since {moment(self.since)} UTC, until {moment(self.deadline)} UTC at the latest"
        waits = f"waits for {', '.join(self.missing)} {times}" if self.missing else "all have answered"
        cannot = [f"cannot take part in this attempt: {name} ({code})" for name, code in self.abstained.items()]
        return [f"round {self.round}, attempt {self.attempt}, {self.phase}: {waits}", *cannot]


def abstention_code(event: EventRecord) -> str:
    """Return the code with which a member said that it cannot take part."""
    said = codec.decode_submission(event.body, sender=event.sender)
    return said.code if isinstance(said, Abstained) else ""


def open_phase(plan: Plan, attempt: AttemptRecord, events: tuple[EventRecord, ...], waiting: Waiting) -> OpenPhase:
    """Return who is expected and who has answered, from an attempt's events."""
    expected, answered, since = tuple(member.id for member in plan.roster), set[str](), attempt.opened_at
    abstained: dict[str, str] = {}
    for event in events:
        if event.kind in HEADS.values():  # announces an answer, and is none
            continue
        if event.kind == ABSTAINED:
            abstained[event.sender] = abstention_code(event)
        elif event.kind != CLOSED:
            answered.add(event.sender)
        else:
            closed = canonical.decode(event.body)
            if isinstance(closed, dict) and closed["phase"] != "AGREE_SURVIVORS":  # S stays expected after it signed
                expected = tuple(str(name) for name in closed["answered"])
            answered, since = set(), event.at
    begun = max(since, waiting.daemon_since or 0)  # a daemon that starts gives the phase all its time again
    return OpenPhase(
        round=attempt.round,
        attempt=attempt.attempt,
        phase=attempt.phase,
        expected=expected,
        answered=tuple(name for name in expected if name in answered),
        abstained={name: code for name, code in sorted(abstained.items()) if name in expected},
        since=since,
        deadline=begun + int(patience(Phase[attempt.phase], waiting.durations)),
    )
