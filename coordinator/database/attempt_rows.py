"""Attempts in the database: their events, which replay to the round's state, and the uploads that counted.

Guarantees: an attempt's events come back in the order in which they were committed; nothing here holds one
participant's update. Leaves to others: what the events mean (``coordinator.runs.attempt``), the uploads' bytes
(``spool``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.tables import attempts, events, uploads
from privacy.secagg.messages import Position

COORDINATOR: Final = "coordinator"  # the sender of the events that close a phase


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt at a round; ``state`` is open, completed or aborted."""

    round: int
    attempt: int
    state: str
    phase: str
    code: str
    reason: str
    opened_at: int
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that an attempt's state depends on: an accepted message, or the close of a phase."""

    id: int
    kind: str
    sender: str
    body: bytes
    at: int


def open_attempt(connection: Connection, run_id: str, at: Position, now: int) -> None:
    """Record a new attempt."""
    connection.execute(
        sa.insert(attempts).values(
            run_id=run_id,
            round=at.round,
            attempt=at.attempt,
            state="open",
            phase="ADVERTISE_KEYS",
            code="",
            reason="",
            opened_at=now,
        )
    )


def end_attempt(
    connection: Connection, run_id: str, at: Position, state: str, *, now: int, code: str = "", reason: str = ""
) -> None:
    """Record how an attempt ended: ``completed`` or ``aborted``."""
    connection.execute(_this_attempt(run_id, at).values(state=state, code=code, reason=reason, ended_at=now))


RESTORED: Final = "restored from a backup"  # the reason of attempts that a restored coordinator gave up


def abort_open_attempts(connection: Connection, now: int, reason: str) -> int:
    """Give up every open attempt, as a restored coordinator must; return how many there were."""
    query = sa.update(attempts).where(attempts.c.state == "open")
    return connection.execute(query.values(state="aborted", code="E-RUN-FAILED", reason=reason, ended_at=now)).rowcount


def list_attempts(connection: Connection, run_id: str, *, after: int = 0) -> tuple[AttemptRecord, ...]:
    """Return a run's attempts in order, those at rounds above ``after``."""
    here = (attempts.c.run_id == run_id, attempts.c.round > after)
    query = sa.select(attempts).where(*here).order_by(attempts.c.round, attempts.c.attempt)
    return tuple(
        AttemptRecord(r.round, r.attempt, r.state, r.phase, r.code, r.reason, r.opened_at, r.ended_at)
        for r in connection.execute(query)
    )


@dataclass(slots=True)
class Rows:
    """Rows of attempts that are written together, in the order in which they were added."""

    events: list[dict[str, object]] = field(default_factory=list)
    latest: dict[tuple[str, str, str], dict[str, object]] = field(default_factory=dict)
    uploads: list[dict[str, object]] = field(default_factory=list)
    phases: list[tuple[str, Position, str]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not (self.events or self.latest or self.uploads or self.phases)

    def add_event(self, run_id: str, at: Position, *, kind: str, sender: str, body: bytes, now: int) -> None:
        """Append an event to an attempt."""
        self.events.append(_event(run_id, at, kind=kind, sender=sender, body=body, now=now))

    def replace_event(self, run_id: str, at: Position, *, kind: str, sender: str, body: bytes, now: int) -> None:
        """Append an event of which a run keeps each sender's last alone, whatever the attempt."""
        self.latest.pop((run_id, sender, kind), None)  # so that the last one added is the last one written
        self.latest[run_id, sender, kind] = _event(run_id, at, kind=kind, sender=sender, body=body, now=now)

    def add_upload(self, run_id: str, at: Position, *, member: str, sha256: bytes, length: int) -> None:
        """Count a complete upload."""
        here = {"run_id": run_id, "round": at.round, "attempt": at.attempt, "member": member}
        self.uploads.append({**here, "sha256": sha256, "length": length})

    def set_phase(self, run_id: str, at: Position, phase: str) -> None:
        """Record which phase an attempt is in."""
        self.phases.append((run_id, at, phase))

    def write(self, connection: Connection) -> None:
        """Write all of them."""
        if self.latest:
            stale = sa.delete(events).where(
                events.c.run_id == sa.bindparam("of_run"),
                events.c.sender == sa.bindparam("of_sender"),
                events.c.kind == sa.bindparam("of_kind"),
            )
            keys = [{"of_run": run, "of_sender": sender, "of_kind": kind} for run, sender, kind in self.latest]
            connection.execute(stale, keys)
        if rows := [*self.latest.values(), *self.events]:  # heads before the messages that they go with
            connection.execute(sa.insert(events), rows)
        if self.uploads:
            connection.execute(sa.insert(uploads), self.uploads)
        for run_id, at, phase in self.phases:
            connection.execute(_this_attempt(run_id, at).values(phase=phase))


def _event(run_id: str, at: Position, *, kind: str, sender: str, body: bytes, now: int) -> dict[str, object]:
    where = {"run_id": run_id, "round": at.round, "attempt": at.attempt}
    return {**where, "kind": kind, "sender": sender, "body": body, "at": now}


def list_events(connection: Connection, run_id: str, at: Position) -> tuple[EventRecord, ...]:
    """Return an attempt's events in the order in which they were committed."""
    here = (events.c.run_id == run_id, events.c.round == at.round, events.c.attempt == at.attempt)
    query = sa.select(events).where(*here).order_by(events.c.id)
    return tuple(EventRecord(r.id, r.kind, r.sender, bytes(r.body), r.at) for r in connection.execute(query))


def list_round_events(connection: Connection, run_id: str, round_number: int, *, kind: str) -> tuple[EventRecord, ...]:
    """Return the events of a kind in all attempts at a round, in the order in which they were committed."""
    here = (events.c.run_id == run_id, events.c.round == round_number, events.c.kind == kind)
    query = sa.select(events).where(*here).order_by(events.c.id)
    return tuple(EventRecord(r.id, r.kind, r.sender, bytes(r.body), r.at) for r in connection.execute(query))


def closings_after(
    connection: Connection, run_id: str, after: int, *, kind: str
) -> tuple[tuple[int, int, EventRecord], ...]:
    """Return a run's events of a kind with an id above ``after``, each behind its round and attempt."""
    here = (events.c.run_id == run_id, events.c.id > after, events.c.kind == kind)
    query = sa.select(events).where(*here).order_by(events.c.id)
    return tuple(
        (r.round, r.attempt, EventRecord(r.id, r.kind, r.sender, bytes(r.body), r.at))
        for r in connection.execute(query)
    )


def last_of_each(connection: Connection, run_id: str, kind: str) -> tuple[tuple[int, int, EventRecord], ...]:
    """Return each sender's last event of a kind in a run, behind its round and attempt."""
    here = (events.c.run_id == run_id, events.c.kind == kind)
    newest = sa.select(sa.func.max(events.c.id)).where(*here).group_by(events.c.sender)
    query = sa.select(events).where(events.c.id.in_(newest)).order_by(events.c.id)
    return tuple(
        (r.round, r.attempt, EventRecord(r.id, r.kind, r.sender, bytes(r.body), r.at))
        for r in connection.execute(query)
    )


def last_by_sender(connection: Connection, run_id: str, kinds: Collection[str]) -> dict[str, EventRecord]:
    """Return each member's last event of some kinds in a run, whatever the attempt."""
    query = sa.select(events).where(events.c.run_id == run_id, events.c.kind.in_(kinds)).order_by(events.c.id)
    return {r.sender: EventRecord(r.id, r.kind, r.sender, bytes(r.body), r.at) for r in connection.execute(query)}


def last_events_of(
    connection: Connection, sender: str, kinds: Collection[str], *, most: int
) -> tuple[EventRecord, ...]:
    """Return a member's last event of some kinds in each run, of the newest runs, oldest first."""
    here = (events.c.sender == sender, events.c.kind.in_(kinds))
    newest = sa.select(sa.func.max(events.c.id)).where(*here).group_by(events.c.run_id)
    query = sa.select(events).where(events.c.id.in_(newest)).order_by(events.c.id.desc()).limit(most)
    rows = connection.execute(query).all()
    return tuple(EventRecord(row.id, row.kind, row.sender, bytes(row.body), row.at) for row in reversed(rows))


def last_rounds_of(connection: Connection, run_id: str, kind: str) -> dict[str, int]:
    """Return the highest round in which each member has an event of a kind."""
    here = (events.c.run_id == run_id, events.c.kind == kind)
    query = sa.select(events.c.sender, sa.func.max(events.c.round)).where(*here).group_by(events.c.sender)
    return {sender: int(number) for sender, number in connection.execute(query)}


def uploaded_bytes(connection: Connection, run_id: str) -> dict[int, int]:
    """Return how many bytes of masked updates each round has taken, all attempts together."""
    query = sa.select(uploads.c.round, sa.func.sum(uploads.c.length)).where(uploads.c.run_id == run_id)
    return {number: int(total) for number, total in connection.execute(query.group_by(uploads.c.round))}


def _this_attempt(run_id: str, at: Position) -> sa.Update:
    return sa.update(attempts).where(
        attempts.c.run_id == run_id, attempts.c.round == at.round, attempts.c.attempt == at.attempt
    )
