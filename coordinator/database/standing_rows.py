"""Who is late in a run and whom its operator has excluded: events beside those that an attempt replays.

Guarantees: an exclusion is committed together with the attempt that it came in, or behind none; the same rows give the
same members for every later attempt, also after a restart.
Leaves to others: what follows (``coordinator.runs``), the events of a round (``attempt_rows``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.tables import attempts, events

LATE: Final = "late"  # a phase, which the body names, went by without a member that was there
EXCLUDED: Final = "excluded"  # the operator leaves a member out of every attempt after this one
INCLUDED: Final = "included"  # and takes it back
KINDS: Final = (LATE, EXCLUDED, INCLUDED)


@dataclass(frozen=True, slots=True)
class Lateness:
    """A member that has sent nothing since it was late: in which phase first, and when that phase ended."""

    member: str
    phase: str
    since: int


def add_late(
    connection: Connection, run_id: str, at: tuple[int, int], members: Collection[str], *, phase: str, now: int
) -> None:
    """Record that a phase of an attempt went by without members that were there."""
    for member in members:
        _add(connection, run_id, at, kind=LATE, member=member, body=phase.encode(), now=now)


def list_late(connection: Connection, run_id: str) -> tuple[tuple[str, str], ...]:
    """Return member and phase of every lateness in a run, in order."""
    query = sa.select(events).where(events.c.run_id == run_id, events.c.kind == LATE).order_by(events.c.id)
    return tuple((row.sender, bytes(row.body).decode()) for row in connection.execute(query))


def late_now(connection: Connection, run_id: str) -> tuple[Lateness, ...]:
    """Return who was late in a run and has sent nothing that counted since, by name."""
    here, late = events.c.run_id == run_id, events.c.kind == LATE
    answers = sa.select(events.c.sender, sa.func.max(events.c.id)).where(here, events.c.kind.not_in(KINDS))
    last = {row[0]: row[1] for row in connection.execute(answers.group_by(events.c.sender))}
    found: dict[str, Lateness] = {}
    for row in connection.execute(sa.select(events).where(here, late).order_by(events.c.id)):
        if row.id > last.get(row.sender, 0):
            found.setdefault(row.sender, Lateness(row.sender, bytes(row.body).decode(), row.at))
    return tuple(found[member] for member in sorted(found))


def set_excluded(connection: Connection, run_id: str, member: str, *, excluded: bool, now: int) -> None:
    """Leave a member out of every attempt after the last one of now, or take it back."""
    newest = sa.select(attempts.c.round, attempts.c.attempt).where(attempts.c.run_id == run_id)
    row = connection.execute(newest.order_by(attempts.c.round.desc(), attempts.c.attempt.desc()).limit(1)).one_or_none()
    at = (0, 0) if row is None else (row.round, row.attempt)
    _add(connection, run_id, at, kind=EXCLUDED if excluded else INCLUDED, member=member, body=b"", now=now)


def excluded_members(connection: Connection, run_id: str, *, before: tuple[int, int] | None = None) -> dict[str, int]:
    """Return who is left out now, or of the attempt ``before`` which it must have been said, with the event's id."""
    here = (events.c.run_id == run_id, events.c.kind.in_((EXCLUDED, INCLUDED)))
    found: dict[str, int] = {}
    for row in connection.execute(sa.select(events).where(*here).order_by(events.c.id)):
        if before is not None and (row.round, row.attempt) >= before:
            continue
        found.pop(row.sender, None)
        if row.kind == EXCLUDED:
            found[row.sender] = row.id
    return found


def _add(
    connection: Connection, run_id: str, at: tuple[int, int], *, kind: str, member: str, body: bytes, now: int
) -> None:
    values = {"run_id": run_id, "round": at[0], "attempt": at[1], "kind": kind, "sender": member, "body": body}
    connection.execute(sa.insert(events).values(**values, at=now))
