"""What a member should do now, derived from a run's state alone.

Guarantees: the same state gives the same tasks with the same ids, also after a restart; a task's content is committed
before the task exists, and made only when somebody is told it.
Leaves to others: what the state is, and keeping what many members are told alike (``coordinator.runs.run``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from coordinator.database.run_rows import RunState
from coordinator.protocol.round import CoordinatorRound
from privacy.errors import Phase
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


@dataclass(frozen=True, slots=True)
class DueTask:
    """A task that a member should do, by its id."""

    id: bytes
    make: Callable[[], Task | None]  # None: a thread has just ended its phase, which is not to be told yet
    alike: bytes  # whoever has a task with the same mark is told the same; empty where it is one member's own
    history: bool = False  # whether it brings how the rounds before ended, so that nothing else has to

    def numbered(self) -> NumberedTask | None:
        """Return the task as it is told, if it still is one."""
        task = self.make()
        return None if task is None else NumberedTask(self.id, task)


def roster_tasks(view: RunView, member: str, *, answered_plan: bool, knows: int) -> Iterator[DueTask]:
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
    asked = _attempt_task(view, view.machine, member, knows) if view.machine is not None else None
    if asked is None or not asked.history:
        # While the run goes on, the next offer carries the history, so the last round's certificate is enough here.
        first = knows if view.state.ended else max(knows, len(view.closed) - 1)
        for closed, total in list(zip(view.closed, view.sums, strict=True))[first:]:
            yield _closing(run_id, closed, total if view.plan.recipe.measured else None)
    if view.aborted is not None:
        at, code = view.aborted
        yield _due(AttemptAborted(run_id, at, code), *at.fields)
    if member in view.excluded and not view.state.ended:
        yield _due(MemberExcluded(run_id), number(view.excluded[member]))
    if asked is not None:
        yield asked
    if view.state.ended:
        yield _run_ended(view)


def _closing(run_id: str, closed: RoundCertificate | VoidedRound, total: ContentRef | None) -> DueTask:
    if isinstance(closed, VoidedRound):
        return _due(RoundVoided(run_id, closed), number(closed.round))
    return _due(RoundCompleted(run_id, closed, total), *closed.position.fields, closed.sum_hash)


def _attempt_task(view: RunView, machine: CoordinatorRound, member: str, knows: int) -> DueTask | None:
    """Return what this phase asks of a member, unless it has answered."""
    if member not in machine.awaited():
        return None
    kind = _ASKED[machine.phase]

    def make() -> Task | None:
        task = _asked(view, machine, member, knows)
        return task if isinstance(task, kind) else None

    task_id = _task_id(kind, view.plan.run_id, *machine.offer.position.fields)
    history = kind is AttemptOpened
    alike = task_id + number(knows) if history else task_id
    return DueTask(task_id, make, b"" if kind is SharesDealt else alike, history)


_ASKED: Final[Mapping[Phase, type[Task]]] = {
    Phase.ADVERTISE_KEYS: AttemptOpened,
    Phase.SHARE_KEYS: KeysAdvertised,
    Phase.COLLECT_MASKED: SharesDealt,
    Phase.AGREE_SURVIVORS: SurvivorsProposed,
    Phase.UNMASK: UnmaskRequested,
}


def _asked(view: RunView, machine: CoordinatorRound, member: str, knows: int) -> Task | None:
    run_id, at = view.plan.run_id, machine.offer.position
    match machine.outbox(member):
        case AttemptOffer() as offer:
            history = tuple(closed for closed in view.closed[knows:] if isinstance(closed, RoundCertificate))
            voided = tuple(closed for closed in view.closed[knows:] if isinstance(closed, VoidedRound))
            sums = tuple(content for content in view.sums[knows:] if content is not None)
            return AttemptOpened(run_id, offer, sums, history, voided, view.adapter)
        case AdvertisementSet(advertisements):
            heads = _heads(view, Moment.ADVERTISE, (keys.sender for keys in advertisements))
            return KeysAdvertised(run_id, advertisements, heads)
        case HolderShares(shares, u2):
            return SharesDealt(run_id, at, shares, u2)
        case SurvivorProposal() as proposal:
            heads = _heads(view, Moment.UPLOAD, (receipt.sender for receipt in proposal.receipts))
            return SurvivorsProposed(run_id, proposal, heads)
        case UnmaskRequest() as request:
            return UnmaskRequested(run_id, request)
        case None | RoundCertificate():
            return None
        case _ as never:
            assert_never(never)


def _heads(view: RunView, moment: Moment, members: Iterable[str]) -> tuple[HeadsShown, ...]:
    """Return what the members of a set have shown; no message of theirs was taken without it."""
    return tuple(view.heads[member, moment] for member in members if (member, moment) in view.heads)


def evaluator_tasks(view: RunView, *, answered_plan: bool, due: Sequence[tuple[int, ContentRef]]) -> Iterator[DueTask]:
    """Yield an evaluator's current tasks: the plan, then every released adapter that it has not measured yet."""
    if not answered_plan and not (view.state.ended and not due):
        yield _plan_proposed(view)
    for round_number, adapter in due:
        asked = EvaluationAsked(view.plan.run_id, round_number, adapter)
        yield _due(asked, number(round_number), adapter.sha256)
    if view.state.ended:
        yield _run_ended(view)


def _plan_proposed(view: RunView) -> DueTask:
    proposed = PlanProposed(view.plan.run_id, view.plan_bytes, view.signature, view.initial_adapter)
    return _due(proposed, hashlib.sha256(view.plan_bytes).digest())


def _run_ended(view: RunView) -> DueTask:
    return _due(RunEnded(view.plan.run_id, view.state.value, view.code), view.state.value.encode())


def _due(task: Task, *identity: bytes) -> DueTask:
    task_id = _task_id(type(task), task.run_id, *identity)
    return DueTask(task_id, lambda: task, task_id)


def _task_id(kind: type[Task], run_id: str, *identity: bytes) -> bytes:
    """Return a task's id, made of its kind, its run and what tells it from others of its kind."""
    digest = hashlib.sha256(framed(LABEL_TASK, kind.__name__.encode(), run_id.encode(), *identity)).digest()
    return digest[:TASK_ID_BYTES]
