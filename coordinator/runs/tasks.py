"""What a member should do now, derived from a run's state alone.

Guarantees: the same state gives the same tasks with the same ids, also after a restart; a task's content is committed
before the task exists. Leaves to others: what the state is (``coordinator.runs.run``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from coordinator.database.run_rows import RunState
from coordinator.protocol.round import CoordinatorRound
from privacy.heads import HeadsShown, Moment
from privacy.plan import Plan
from privacy.secagg.keys import framed, number
from privacy.secagg.messages import (
    AdvertisementSet,
    AttemptOffer,
    HolderShares,
    Position,
    RoundCertificate,
    SurvivorProposal,
    UnmaskRequest,
    VoidedRound,
)
from protos.envelope import (
    AttemptAborted,
    AttemptOpened,
    ContentRef,
    EvaluationAsked,
    KeysAdvertised,
    MemberExcluded,
    NumberedTask,
    PlanProposed,
    RoundCompleted,
    RoundVoided,
    RunEnded,
    SharesDealt,
    SurvivorsProposed,
    Task,
    UnmaskRequested,
)

LABEL_TASK: Final = b"onlysum/1/task"
TASK_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class RunView:
    """A run's state as far as tasks follow from it."""

    plan: Plan
    plan_bytes: bytes
    signature: bytes
    initial_adapter: ContentRef
    state: RunState
    code: str
    closed: tuple[RoundCertificate | VoidedRound, ...]  # of all rounds that are over
    machine: CoordinatorRound | None  # the open attempt
    sums: tuple[ContentRef | None, ...]  # of all rounds that are over; a voided one has none
    adapter: ContentRef | None  # that the current round starts from, where participants' own may differ in rounding
    aborted: tuple[Position, str] | None  # the last attempt and its code, if it failed and nothing came after
    excluded: Mapping[str, int]  # by the operator -> the event of it
    heads: Mapping[tuple[str, Moment], HeadsShown] = field(default_factory=dict)  # shown in the open attempt


def roster_tasks(view: RunView, member: str, *, answered_plan: bool, knows: int) -> Iterator[NumberedTask]:
    """Yield a participant's current tasks, oldest first.

    Args:
        view: the run.
        member: a participant on the roster.
        answered_plan: whether it has approved or refused the plan.
        knows: the last round whose completion it has been shown to know.
    """
    run_id = view.plan.run_id
    if view.state is RunState.CREATED:
        if not answered_plan:
            yield _plan_proposed(view)
        return
    # While the run goes on, the next offer carries the history, so the last round's certificate is enough here.
    first = knows if view.state.ended else max(knows, len(view.closed) - 1)
    for closed in view.closed[first:]:
        if isinstance(closed, VoidedRound):
            yield numbered(RoundVoided(run_id, closed), number(closed.round))
        else:
            yield numbered(RoundCompleted(run_id, closed), *closed.position.fields, closed.sum_hash)
    if view.aborted is not None:
        at, code = view.aborted
        yield numbered(AttemptAborted(run_id, at, code), *at.fields)
    if member in view.excluded and not view.state.ended:
        yield numbered(MemberExcluded(run_id), number(view.excluded[member]))
    if view.machine is not None:
        yield from _attempt_task(view, view.machine, member, knows)
    if view.state.ended:
        yield _run_ended(view)


def _attempt_task(view: RunView, machine: CoordinatorRound, member: str, knows: int) -> Iterator[NumberedTask]:
    """Yield what this phase asks of a member that has not answered it yet."""
    if member not in machine.awaited():
        return
    run_id, at = view.plan.run_id, machine.offer.position
    match machine.outbox(member):
        case None | RoundCertificate():
            return
        case AttemptOffer() as offer:
            history = tuple(closed for closed in view.closed[knows:] if isinstance(closed, RoundCertificate))
            voided = tuple(closed for closed in view.closed[knows:] if isinstance(closed, VoidedRound))
            sums = tuple(content for content in view.sums[knows:] if content is not None)
            yield numbered(AttemptOpened(run_id, offer, sums, history, voided, view.adapter), *at.fields)
        case AdvertisementSet(advertisements):
            heads = _heads(view, Moment.ADVERTISE, (keys.sender for keys in advertisements))
            yield numbered(KeysAdvertised(run_id, advertisements, heads), *at.fields)
        case HolderShares(shares, u2):
            yield numbered(SharesDealt(run_id, at, shares, u2), *at.fields)
        case SurvivorProposal() as proposal:
            heads = _heads(view, Moment.UPLOAD, (receipt.sender for receipt in proposal.receipts))
            yield numbered(SurvivorsProposed(run_id, proposal, heads), *at.fields)
        case UnmaskRequest() as request:
            yield numbered(UnmaskRequested(run_id, request), *at.fields)
        case _ as never:
            assert_never(never)


def _heads(view: RunView, moment: Moment, members: Iterable[str]) -> tuple[HeadsShown, ...]:
    """Return what the members of a set have shown; no message of theirs was taken without it."""
    return tuple(view.heads[member, moment] for member in members if (member, moment) in view.heads)


def evaluator_tasks(
    view: RunView, *, answered_plan: bool, due: Sequence[tuple[int, ContentRef]]
) -> Iterator[NumberedTask]:
    """Yield an evaluator's current tasks: the plan, then every released adapter that it has not measured yet."""
    if not answered_plan and not (view.state.ended and not due):
        yield _plan_proposed(view)
    for round_number, adapter in due:
        asked = EvaluationAsked(view.plan.run_id, round_number, adapter)
        yield numbered(asked, number(round_number), adapter.sha256)
    if view.state.ended:
        yield _run_ended(view)


def _plan_proposed(view: RunView) -> NumberedTask:
    proposed = PlanProposed(view.plan.run_id, view.plan_bytes, view.signature, view.initial_adapter)
    return numbered(proposed, hashlib.sha256(view.plan_bytes).digest())


def _run_ended(view: RunView) -> NumberedTask:
    return numbered(RunEnded(view.plan.run_id, view.state.value, view.code), view.state.value.encode())


def numbered(task: Task, *identity: bytes) -> NumberedTask:
    """Return a task with its id, made of its kind, its run and what tells it from others of its kind."""
    kind = type(task).__name__.encode()
    digest = hashlib.sha256(framed(LABEL_TASK, kind, task.run_id.encode(), *identity)).digest()
    return NumberedTask(id=digest[:TASK_ID_BYTES], task=task)
