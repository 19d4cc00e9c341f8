"""Who is habitually late or lost in a run, and how close its rounds come to too few.

Guarantees: the last :data:`ROUNDS` rounds count; names and counts of rounds alone, never what anybody sent.
Leaves to others: who is there now (``members``), the phase that waits (``phase``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.database import run_rows, standing_rows
from coordinator.database.run_rows import RoundRecord
from host.rendering import Json
from privacy.plan import Plan

ROUNDS: Final = 30
HABITUAL: Final = 5  # of them late or lost: more than an evening's outage
IN, LATE, LOST, VOID = "i", "l", "x", "v"  # signs of a history, one per round


@dataclass(frozen=True, slots=True)
class Attendance:
    """A participant over a run's last rounds."""

    member: str
    history: str  # a sign per round, oldest first

    @property
    def late(self) -> int:
        """In how many rounds it let a phase go by while it was connected."""
        return self.history.count(LATE)

    @property
    def lost(self) -> int:
        """How many sums it is not in."""
        return self.history.count(LOST)

    @property
    def habitual(self) -> bool:
        """Whether its operator should talk to it."""
        return self.late + self.lost >= HABITUAL

    def to_json(self) -> Json:
        """Return it for programs."""
        return {"member": self.member, "rounds": len(self.history), "late": self.late, "lost": self.lost}

    def words(self) -> str:
        """Return it for people; empty if it was in every sum in time."""
        parts = [f"lost {self.lost}"] * (self.lost > 0) + [f"late {self.late}"] * (self.late > 0)
        return f"{', '.join(parts)} of {len(self.history)}" if parts else ""


@dataclass(frozen=True, slots=True)
class Turnout:
    """A run's last rounds: who was missing, and how many were left."""

    attendances: tuple[Attendance, ...]  # worst first
    lowest: int | None  # of the survivors of a round; None before the first
    least: int  # that a sum needs
    roster: int

    @property
    def margin(self) -> int | None:
        """How many more could have been missing in the worst round."""
        return None if self.lowest is None else self.lowest - self.least

    @property
    def habitual(self) -> tuple[Attendance, ...]:
        """Who is late or lost again and again."""
        return tuple(attendance for attendance in self.attendances if attendance.habitual)

    def of(self, member: str) -> Attendance | None:
        """Return a member's."""
        return next((found for found in self.attendances if found.member == member), None)

    def to_json(self) -> Json:
        """Return it for programs."""
        missing: list[Json] = [found.to_json() for found in self.attendances if found.words()]
        return {"lowest": self.lowest, "min_survivors": self.least, "margin": self.margin, "missing": missing}

    def to_lines(self) -> list[str]:
        """Return it for people; nothing before the first round."""
        if self.lowest is None:
            return []
        rounds = len(self.attendances[0].history) if self.attendances else 0
        worst = f"fewest in the last {rounds} rounds: {self.lowest} of {self.roster}, {self.margin} above the least"
        names = ", ".join(f"{found.member} ({found.words()})" for found in self.habitual)
        return [worst, *([f"habitually late or lost: {names}"] if names else [])]


def turnout(connection: Connection, run_id: str, plan: Plan, rounds: Sequence[RoundRecord]) -> Turnout:
    """Read who was late or lost in a run's last rounds."""
    last = rounds[-ROUNDS:]
    late = _late_rounds(connection, run_id, rounds)
    histories = {
        member.id: "".join(_sign(member.id, done, late[done.round]) for done in last) for member in plan.roster
    }
    found = [Attendance(name, history) for name, history in histories.items()]
    completed = [done.survivors for done in last if not done.voided]
    return Turnout(
        attendances=tuple(sorted(found, key=lambda each: (-each.lost - each.late, -each.lost, each.member))),
        lowest=min(completed, default=None),
        least=plan.min_survivors,
        roster=plan.n,
    )


def _sign(member: str, done: RoundRecord, late: set[str]) -> str:
    if done.voided:
        return VOID
    if member in done.dropouts:
        return LOST
    return LATE if member in late else IN


def _late_rounds(connection: Connection, run_id: str, rounds: Sequence[RoundRecord]) -> dict[int, set[str]]:
    """Return who was late in each of the last rounds: a lateness belongs to the first round that ended after it."""
    found: dict[int, set[str]] = defaultdict(set)
    if not rounds:
        return found
    since = rounds[-ROUNDS - 1].completed_at if len(rounds) > ROUNDS else 0
    for lateness in standing_rows.late_since(connection, run_id, since):
        done = next((done for done in rounds[-ROUNDS:] if done.completed_at >= lateness.since), None)
        if done is not None:
            found[done.round].add(lateness.member)
    return found


def read_turnout(connection: Connection, run_id: str, plan: Plan) -> Turnout:
    """Read a run's rounds, and who was missing in the last ones."""
    return turnout(connection, run_id, plan, run_rows.list_rounds(connection, run_id))
