"""Whose turn it is, where several runs share participants: a machine trains one run at a time.

Guarantees: read from committed rows alone, so that it holds after a restart; of the runs that share a participant the
oldest that gets on comes first, and one that does not get on keeps nobody waiting for long.
Leaves to others: opening attempts (``coordinator.runs.lifecycle``), who is on whose roster (a plan says).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database import run_rows
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.database.tables import approvals, attempts, runs

STALLED_SECONDS: Final = 30  # an older run that has no attempt for so long is not waited for, at least


def stalled_after(gather_seconds: float) -> int:
    """Return after how many seconds without an attempt an older run is not waited for.

    Args:
        gather_seconds: how long a first attempt waits for the whole roster.
    """
    return max(STALLED_SECONDS, int(2 * gather_seconds))


@dataclass(frozen=True, slots=True)
class Contender:
    """Another run that goes on."""

    run_id: str
    order: tuple[int, str]  # by age
    paused: bool
    open: bool  # it has an open attempt
    active_at: int  # when its last attempt ended, or it was approved

    def has_turn(self, order: tuple[int, str], now: int, *, stalled: int) -> bool:
        """Return whether a run of this age waits for this one.

        Args:
            order: of the run that would open an attempt.
            now: seconds since the Unix epoch.
            stalled: seconds without an attempt after which an older run is not waited for.
        """
        return self.open or (self.order < order and not self.paused and now - self.active_at <= stalled)


def contenders(connection: Connection, run_id: str) -> tuple[Contender, ...]:
    """Return the other runs that were approved and go on, oldest first."""
    is_open = sa.func.max(sa.case((attempts.c.state == "open", 1), else_=0))
    last = sa.select(attempts.c.run_id, is_open.label("open"), sa.func.max(attempts.c.ended_at).label("ended_at"))
    last = last.group_by(attempts.c.run_id)
    approved = sa.select(approvals.c.run_id, sa.func.max(approvals.c.at).label("at")).group_by(approvals.c.run_id)
    tried, said = last.subquery(), approved.subquery()
    query = (
        sa.select(runs.c.run_id, runs.c.created_at, runs.c.paused, tried.c.open, tried.c.ended_at, said.c.at)
        .outerjoin(tried, tried.c.run_id == runs.c.run_id)
        .outerjoin(said, said.c.run_id == runs.c.run_id)
        .where(runs.c.state == RunState.RUNNING.value, runs.c.run_id != run_id)
        .order_by(runs.c.created_at, runs.c.run_id)
    )
    return tuple(
        Contender(
            row.run_id,
            (row.created_at, row.run_id),
            bool(row.paused),
            bool(row.open),
            max(row.ended_at or 0, row.at or 0, row.created_at),
        )
        for row in connection.execute(query)
    )


def ahead(connection: Connection, run: RunRecord, *, now: int, stalled: int, rosters: dict[str, frozenset[str]]) -> str:
    """Return the id of the run that another one waits for before it opens an attempt.

    Args:
        connection: to read with.
        run: that would open one.
        now: seconds since the Unix epoch.
        stalled: as for :meth:`Contender.has_turn`.
        rosters: of runs by id, kept from call to call, since a plan is long and never changes.

    Returns:
        The run that has some of its participants; empty if it is its own turn.
    """
    order = run.created_at, run.run_id
    others = [other for other in contenders(connection, run.run_id) if other.has_turn(order, now, stalled=stalled)]
    for run_id in (*(other.run_id for other in others), run.run_id) if others else ():
        if run_id not in rosters:
            plan = run_rows.find_run(connection, run_id).parsed()
            rosters[run_id] = frozenset(member.id for member in plan.roster)
    return next((other.run_id for other in others if rosters[other.run_id] & rosters[run.run_id]), "")
