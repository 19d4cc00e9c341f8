"""Runs in the database: plans, approvals, completed rounds, evaluations.

Guarantees: a run that has ended never changes its state again; a member's first answer to a plan stands.
Leaves to others: attempts (``coordinator.database.attempt_rows``), the bytes in the rows (``protos.codec``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.member_rows import log_security
from coordinator.database.tables import approvals, evaluations, events, rounds, runs
from privacy import canonical
from privacy.errors import OnlysumError
from privacy.evaluation import Metric
from privacy.plan import Plan
from protos.envelope import Evaluation, PlanApproved, PlanRefused

LEAST_PREFIX: Final = 4  # characters of a run id that commands accept in place of the whole


class RunState(StrEnum):
    """Where a run stands; the last three are terminal."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"
    ABORTED = "aborted"
    REFUSED = "refused"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self in (RunState.COMPLETED, RunState.ABORTED, RunState.REFUSED)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run; ``code`` and ``reason`` say why it ended before its last round."""

    run_id: str
    plan: bytes
    signature: bytes
    state: RunState
    code: str
    reason: str
    paused: bool
    abort_requested: bool
    created_at: int
    ended_at: int | None

    @property
    def held(self) -> bool:
        """Whether it goes on only when its operator has seen to what ``code`` and ``reason`` say."""
        return self.paused and bool(self.code) and not self.state.ended

    def parsed(self) -> Plan:
        """Return the plan."""
        return Plan.from_bytes(self.plan)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, without its plan."""

    run_id: str
    state: RunState
    code: str
    paused: bool
    ended_at: int | None

    @property
    def held(self) -> bool:
        """As :attr:`RunRecord.held`."""
        return self.paused and bool(self.code) and not self.state.ended


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """A member's answer to a plan."""

    member: str
    approved: bool
    code: str
    because: str
    at: int


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round that is over: completed, or voided."""

    round: int
    attempt: int  # that completed it, or the last one
    certificate: bytes  # empty if the round was voided
    transcript: bytes
    survivors: int
    dropouts: tuple[str, ...]
    adapter_hash: bytes
    sum_sha256: bytes
    sum_length: int
    released_sha256: bytes
    length: int
    completed_at: int

    @property
    def voided(self) -> bool:
        """Whether the round has no sum."""
        return not self.certificate


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """An evaluator's verified measurement."""

    round: int
    evaluator: str
    metrics: tuple[Metric, ...]
    examples: int
    adapter_sha256: bytes
    data_sha256: bytes
    signature: bytes
    at: int


# --- runs ---


def add_run(connection: Connection, run: RunRecord) -> None:
    """Register a run that waits for approvals."""
    connection.execute(
        sa.insert(runs).values(
            run_id=run.run_id,
            plan=run.plan,
            signature=run.signature,
            state=run.state.value,
            code=run.code,
            reason=run.reason,
            paused=run.paused,
            abort_requested=run.abort_requested,
            created_at=run.created_at,
        )
    )
    log_security(connection, run.created_at, "run-created", run.run_id, f"{run.parsed().n} participants")


def list_runs(connection: Connection) -> tuple[RunRecord, ...]:
    """Return all runs, oldest first."""
    return tuple(_run(row) for row in connection.execute(sa.select(runs).order_by(runs.c.created_at, runs.c.run_id)))


def list_standings(connection: Connection) -> tuple[Standing, ...]:
    """Return where all runs stand, oldest first; their plans, which are long, are not read."""
    columns = (runs.c.run_id, runs.c.state, runs.c.code, runs.c.paused, runs.c.ended_at)
    rows = connection.execute(sa.select(*columns).order_by(runs.c.created_at, runs.c.run_id))
    return tuple(Standing(row.run_id, RunState(row.state), row.code, row.paused, row.ended_at) for row in rows)


def run_ids(connection: Connection, *, ended_after: int) -> tuple[str, ...]:
    """Return the ids of runs that go on, or ended after a time."""
    query = sa.select(runs.c.run_id).where(sa.or_(runs.c.ended_at.is_(None), runs.c.ended_at > ended_after))
    return tuple(connection.execute(query).scalars())


def going_on(connection: Connection) -> tuple[str, ...]:
    """Return the ids of runs that have not ended, oldest first."""
    open_states = [state.value for state in RunState if not state.ended]
    query = sa.select(runs.c.run_id).where(runs.c.state.in_(open_states)).order_by(runs.c.created_at, runs.c.run_id)
    return tuple(connection.execute(query).scalars())


def find_run(connection: Connection, name: str) -> RunRecord:
    """Return a run by its id or the unique beginning of one.

    Raises:
        OnlysumError: ``E-NOT-FOUND``.
    """
    query = sa.select(runs).where(runs.c.run_id.startswith(name, autoescape=True))
    found = [_run(row) for row in connection.execute(query)] if len(name) >= LEAST_PREFIX else []
    if len(found) != 1:
        raise OnlysumError("E-NOT-FOUND", f"{len(found)} runs begin with {name!r}" if found else f"no run {name!r}")
    return found[0]


def refreshed(connection: Connection, run: RunRecord) -> RunRecord:
    """Return a run's row as it is now; its plan, which is long and never changes, is not read again."""
    changing = (runs.c.state, runs.c.code, runs.c.reason, runs.c.paused, runs.c.abort_requested, runs.c.ended_at)
    row = connection.execute(sa.select(*changing).where(runs.c.run_id == run.run_id)).one()
    return replace(
        run,
        state=RunState(row.state),
        code=row.code,
        reason=row.reason,
        paused=row.paused,
        abort_requested=row.abort_requested,
        ended_at=row.ended_at,
    )


def plan_with_hash(connection: Connection, plan_hash: bytes, *, member: str) -> bytes | None:
    """Return a plan by its hash, also of a run that ended long ago, if this member has sent anything in its rounds."""
    sent = sa.select(events.c.run_id).where(events.c.sender == member)
    plans = connection.execute(sa.select(runs.c.plan).where(runs.c.run_id.in_(sent))).scalars()
    return next((bytes(plan) for plan in plans if hashlib.sha256(plan).digest() == plan_hash), None)


def set_run_state(
    connection: Connection, run_id: str, state: RunState, *, now: int, code: str = "", reason: str = ""
) -> bool:
    """Move a run on; return ``False`` if it had ended already."""
    values = {"state": state.value, "code": code, "reason": reason, "ended_at": now if state.ended else None}
    open_states = [one.value for one in RunState if not one.ended]
    query = sa.update(runs).where(runs.c.run_id == run_id, runs.c.state.in_(open_states)).values(**values)
    changed = connection.execute(query).rowcount == 1
    if changed and state.ended:
        log_security(connection, now, f"run-{state.value}", run_id, code)
    return changed


def set_paused(connection: Connection, run_id: str, *, paused: bool) -> None:
    """Ask the daemon to open no further attempt, or to go on, also with a run that it holds."""
    values = {"paused": True} if paused else {"paused": False, "code": "", "reason": ""}
    connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(**values))


def hold(connection: Connection, run_id: str, *, code: str, reason: str, now: int) -> None:
    """Open no further attempt of a run that goes on until its operator has seen to the reason."""
    values = {"paused": True, "code": code, "reason": reason}
    connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(**values))
    log_security(connection, now, "run-held", run_id, f"{code} {reason}")


def request_abort(connection: Connection, run_id: str) -> None:
    """Ask the daemon to end a run."""
    connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(abort_requested=True))


def _run(row: sa.Row[tuple[object, ...]]) -> RunRecord:
    return RunRecord(
        run_id=row.run_id,
        plan=bytes(row.plan),
        signature=bytes(row.signature),
        state=RunState(row.state),
        code=row.code,
        reason=row.reason,
        paused=row.paused,
        abort_requested=row.abort_requested,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


# --- approvals ---


def add_approval(connection: Connection, member: str, answer: PlanApproved | PlanRefused, now: int) -> None:
    """Record a member's answer; an approval may be taken back, and nothing else is changed later."""
    here = (approvals.c.run_id == answer.run_id, approvals.c.member == member)
    approved = connection.execute(sa.select(approvals.c.approved).where(*here)).scalar()
    if approved is False or (approved and isinstance(answer, PlanApproved)):
        return
    connection.execute(sa.delete(approvals).where(*here))
    match answer:
        case PlanApproved():
            values = {"approved": True, "code": "", "because": "", "signature": answer.signature}
        case PlanRefused():
            values = {"approved": False, "code": answer.code, "because": answer.because, "signature": b""}
    connection.execute(sa.insert(approvals).values(run_id=answer.run_id, member=member, at=now, **values))


def approval_record(member: str, answer: PlanApproved | PlanRefused, now: int) -> ApprovalRecord:
    """Return the record that :func:`add_approval` makes."""
    if isinstance(answer, PlanApproved):
        return ApprovalRecord(member, True, "", "", now)
    return ApprovalRecord(member, False, answer.code, answer.because, now)


def list_approvals(connection: Connection, run_id: str) -> tuple[ApprovalRecord, ...]:
    """Return the answers to a plan, in the order in which they came."""
    rows = connection.execute(sa.select(approvals).where(approvals.c.run_id == run_id))
    answers = (ApprovalRecord(r.member, r.approved, r.code, r.because, r.at) for r in rows)
    return tuple(sorted(answers, key=lambda answer: (answer.at, answer.member)))


# --- completed rounds and evaluations ---


def add_round(connection: Connection, run_id: str, done: RoundRecord) -> None:
    """Record a round that is over."""
    connection.execute(
        sa.insert(rounds).values(
            run_id=run_id,
            round=done.round,
            attempt=done.attempt,
            certificate=done.certificate,
            transcript=done.transcript,
            survivors=done.survivors,
            dropouts=",".join(done.dropouts),
            adapter_hash=done.adapter_hash,
            sum_sha256=done.sum_sha256,
            sum_length=done.sum_length,
            released_sha256=done.released_sha256,
            length=done.length,
            completed_at=done.completed_at,
        )
    )


def list_rounds(connection: Connection, run_id: str, *, after: int = 0) -> tuple[RoundRecord, ...]:
    """Return a run's completed and voided rounds in order, those above ``after``."""
    query = sa.select(rounds).where(rounds.c.run_id == run_id, rounds.c.round > after).order_by(rounds.c.round)
    return tuple(_round(row) for row in connection.execute(query))


def add_evaluation(connection: Connection, evaluator: str, measured: Evaluation, now: int) -> bool:
    """Record a measurement; return ``False`` if the evaluator had measured this round already."""
    key = {"run_id": measured.run_id, "round": measured.round, "evaluator": evaluator}
    here = [evaluations.c[name] == value for name, value in key.items()]
    if connection.execute(sa.select(evaluations.c.round).where(*here)).scalar() is not None:
        return False
    connection.execute(
        sa.insert(evaluations).values(
            **key,
            metrics=canonical.encode([[metric.name, metric.value] for metric in measured.metrics]).decode(),
            examples=measured.examples,
            adapter_sha256=measured.adapter_sha256,
            data_sha256=measured.data_sha256,
            signature=measured.signature,
            at=now,
        )
    )
    return True


def list_evaluations(connection: Connection, run_id: str) -> tuple[EvaluationRecord, ...]:
    """Return a run's measurements by round and evaluator."""
    measured = (
        EvaluationRecord(
            r.round,
            r.evaluator,
            tuple(Metric(name, value) for name, value in json.loads(r.metrics)),
            r.examples,
            bytes(r.adapter_sha256),
            bytes(r.data_sha256),
            bytes(r.signature),
            r.at,
        )
        for r in connection.execute(sa.select(evaluations).where(evaluations.c.run_id == run_id))
    )
    return tuple(sorted(measured, key=lambda one: (one.round, one.evaluator)))


def _round(row: sa.Row[tuple[object, ...]]) -> RoundRecord:
    return RoundRecord(
        round=row.round,
        attempt=row.attempt,
        certificate=bytes(row.certificate),
        transcript=bytes(row.transcript),
        survivors=row.survivors,
        dropouts=tuple(name for name in row.dropouts.split(",") if name),
        adapter_hash=bytes(row.adapter_hash),
        sum_sha256=bytes(row.sum_sha256),
        sum_length=row.sum_length,
        released_sha256=bytes(row.released_sha256),
        length=row.length,
        completed_at=row.completed_at,
    )
