"""Who is late in a run and whom its operator has excluded: events of the run beside those of its attempts.

Guarantees: an exclusion names the attempt that it came in, or that none was there yet, in one transaction with looking
for it; the same rows give the same members for every later attempt, also after a restart. They stand at round 0, so
that looking for them, which a daemon does all the time, reads no events of an attempt.
Leaves to others: what follows (``coordinator.runs``), the events of a round (``attempt_rows``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.tables import attempts, events
from privacy import canonical

LATE: Final = "late"  # a phase, which the body names, went by without a member that was there
EXCLUDED: Final = "excluded"  # the operator leaves a member out of every attempt after this one
INCLUDED: Final = "included"  # and takes it back
_BESIDE: Final = 0  # the round and attempt that no attempt has


@dataclass(frozen=True, slots=True)
class Lateness:
    """A member that has sent nothing since it was late: in which phase first, and when that phase ended."""

    member: str
    phase: str
    since: int


def add_late(connection: Connection, run_id: str, members: Collection[str], *, phase: str, now: int) -> None:
    """Record that a phase went by without members that were there."""
    for member in members:
        _add(connection, run_id, kind=LATE, member=member, body=phase, now=now)


def list_late(connection: Connection, run_id: str) -> tuple[tuple[str, str], ...]:
    """Return member and phase of every lateness in a run, in order."""
    return tuple((row.sender, str(canonical.decode(row.body))) for row in _rows(connection, run_id, LATE))


def late_since(connection: Connection, run_id: str, since: int) -> tuple[Lateness, ...]:
    """Return every lateness in a run after a time, in order."""
    rows = (row for row in _rows(connection, run_id, LATE) if row.at > since)
    return tuple(Lateness(row.sender, str(canonical.decode(row.body)), row.at) for row in rows)


def late_now(connection: Connection, run_id: str) -> tuple[Lateness, ...]:
    """Return who was late in a run and has sent nothing that counted since, by name."""
    answers = sa.select(events.c.sender, sa.func.max(events.c.id)).where(
        events.c.run_id == run_id, events.c.round > _BESIDE
    )
    last = {row[0]: row[1] for row in connection.execute(answers.group_by(events.c.sender))}
    found: dict[str, Lateness] = {}
    for row in _rows(connection, run_id, LATE):
        if row.id > last.get(row.sender, 0):
            found.setdefault(row.sender, Lateness(row.sender, str(canonical.decode(row.body)), row.at))
    return tuple(found[member] for member in sorted(found))


def set_excluded(connection: Connection, run_id: str, member: str, *, excluded: bool, now: int) -> None:
    """Leave a member out of every attempt after the last one of now, or take it back."""
    newest = sa.select(attempts.c.round, attempts.c.attempt).where(attempts.c.run_id == run_id)
    row = connection.execute(newest.order_by(attempts.c.round.desc(), attempts.c.attempt.desc()).limit(1)).one_or_none()
    after = [0, 0] if row is None else [row.round, row.attempt]
    _add(connection, run_id, kind=EXCLUDED if excluded else INCLUDED, member=member, body=list(after), now=now)


def excluded_members(connection: Connection, run_id: str, *, before: tuple[int, int] | None = None) -> dict[str, int]:
    """Return who is left out now, or of the attempt ``before`` which it must have been said, with the event's id."""
    found: dict[str, int] = {}
    for row in _rows(connection, run_id, EXCLUDED, INCLUDED):
        after = canonical.decode(row.body)
        if before is not None and isinstance(after, list) and tuple(after) >= before:
            continue
        found.pop(row.sender, None)
        if row.kind == EXCLUDED:
            found[row.sender] = row.id
    return found


def _rows(connection: Connection, run_id: str, *kinds: str) -> list[sa.Row[tuple[object, ...]]]:
    here = (events.c.run_id == run_id, events.c.round == _BESIDE, events.c.kind.in_(kinds))
    return list(connection.execute(sa.select(events).where(*here).order_by(events.c.id)))


def _add(connection: Connection, run_id: str, *, kind: str, member: str, body: canonical.Json, now: int) -> None:
    values = {"run_id": run_id, "round": _BESIDE, "attempt": _BESIDE, "kind": kind, "sender": member}
    connection.execute(sa.insert(events).values(**values, body=canonical.encode(body), at=now))
