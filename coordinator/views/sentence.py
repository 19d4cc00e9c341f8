"""A run in one sentence: how far it is, how it goes, for whom it waits and until when, what comes then, its end.

Guarantees: whatever the sentence says of the future follows from committed rows, the plan and the configured durations;
where nothing can be said nothing is.
Leaves to others: the rows (``overview``), the rules it foretells (``coordinator.runs.lifecycle``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import median
from typing import Final

from coordinator.database.run_rows import RoundRecord, RunState
from coordinator.runs.attempt import RESTARTED
from coordinator.runs.lifecycle import FAILURES
from coordinator.views.overview import Overview
from coordinator.views.phase import OpenPhase
from host.rendering import Json, clock_time
from privacy.errors import Phase
from privacy.plan import Plan

PACE_ROUNDS: Final = 30  # whose median duration the end is guessed from
MOST_NAMED: Final = 2  # members that a sentence names; more are counted
FREE_PHASES: Final = frozenset({"ADVERTISE_KEYS", "SHARE_KEYS", "COLLECT_MASKED"})  # an attempt in them can be repeated


class Health(StrEnum):
    """How a run does, in a word that the sentence uses; what an operator must see to comes first."""

    TROUBLE = "in trouble"
    SLOW = "slow"
    WELL = "well"
    PAUSED = "paused"
    WAITING = "waiting"
    COMPLETED = "completed"
    ENDED = "ended early"


@dataclass(frozen=True, slots=True)
class RunSentence:
    """The sentence, and the word that its colour goes with."""

    run_id: str
    title: str
    health: Health
    text: str
    completed: int
    rounds: int

    def to_json(self) -> dict[str, Json]:
        """Return it for programs."""
        return {"run": self.run_id, "title": self.title, "health": self.health.value, "sentence": self.text}


def run_sentence(current: Overview, now: float) -> RunSentence:
    """Return the sentence about a run at a time, in seconds since the Unix epoch."""
    health = _health(current, now)
    number, total = _round_number(current), current.plan.recipe.rounds
    subject = "Waits for approvals" if current.run.state is RunState.CREATED else f"Round {number} of {total}"
    if current.run.state.ended:
        subject = f"{sum(not done.voided for done in current.rounds)} of {total} rounds"
    said = "; ".join(part for part in _parts(current, health, now) if part)
    text = f"{subject}, {said}" if said else subject
    return RunSentence(current.run.run_id, current.plan.recipe.title, health, text, len(current.rounds), total)


def _round_number(current: Overview) -> int:
    return min(len(current.rounds) + 1, current.plan.recipe.rounds)


def _health(current: Overview, now: float) -> Health:
    run, phase = current.run, current.phase
    if run.state.ended:
        return Health.COMPLETED if run.state is RunState.COMPLETED else Health.ENDED
    if run.held or current.troubles or current.live is None or _refused(current):
        return Health.TROUBLE
    if run.paused:
        return Health.PAUSED
    if run.state is RunState.CREATED:
        return Health.WAITING
    if phase is None:
        return Health.WELL if current.enough_there else Health.TROUBLE
    if len(phase.expected) - len(phase.abstained) < current.plan.min_survivors:
        return Health.TROUBLE
    return Health.SLOW if phase.attempt > 1 or now > phase.deadline else Health.WELL


def _refused(current: Overview) -> bool:
    roster = {member.id for member in current.plan.roster}
    return any(not answer.approved and answer.member in roster for answer in current.approvals)


def _parts(current: Overview, health: Health, now: float) -> Iterator[str]:
    run, phase = current.run, current.phase
    if run.state.ended:
        yield f"{run.state.value} {clock_time(run.ended_at or now, now)}" + (f" ({run.code})" if run.code else "")
        return
    if run.state is RunState.CREATED:
        yield f"{_some(current.undecided)} of {current.plan.n}, since {clock_time(run.created_at, now)}"
        return
    yield health.value + (f" ({run.code})" if run.held else "")
    if current.live is None:
        yield "the service does not run"
        return
    if phase is not None:
        yield from _waiting(current, phase, now)
    elif current.waits_for:
        yield f"waits for run {current.waits_for[:8]}, which has some of its participants"
    elif not current.enough_there:
        yield f"opens when {current.plan.min_survivors} of {current.plan.n} are there, {current.there} are"
    if not run.paused and (end := expected_end(current.rounds, current.plan.recipe.rounds, now)):
        yield f"ends about {clock_time(end, now)}"


def _waiting(current: Overview, phase: OpenPhase, now: float) -> Iterator[str]:
    if phase.abstained:
        yield f"{_some(tuple(phase.abstained))} cannot take part ({', '.join(sorted(set(phase.abstained.values())))})"
    if not phase.missing:
        yield "all have answered"
        return
    until = clock_time(phase.deadline, now)
    if len(phase.answered) >= _least(current.plan, phase):
        yield f"waits for {_some(phase.missing)}, goes on without at {until}"
    else:
        yield f"waits for {_some(phase.missing)}, gives up {until}, then {_afterwards(current, phase)}"


def _least(plan: Plan, phase: OpenPhase) -> int:
    """Return with how many answers a phase goes on at its deadline.

    On a k-regular graph each neighbourhood unmasks for itself, so that no number of answers alone is enough.
    """
    if phase.phase == Phase.AGREE_SURVIVORS.value:
        return plan.quorum
    if phase.phase == Phase.UNMASK.value:
        return plan.shamir_threshold if plan.graph.kind == "complete" else len(phase.expected)
    return plan.min_survivors


def _afterwards(current: Overview, phase: OpenPhase) -> str:
    """Return what follows an attempt that fails in this phase."""
    failed = sum(
        attempt.round == phase.round and attempt.state == "aborted" and attempt.code != RESTARTED
        for attempt in current.attempts
    )
    if phase.phase in FREE_PHASES and failed + 1 < FAILURES:
        return f"attempt {failed + 2} of {FAILURES}"
    last = phase.round == current.plan.recipe.rounds
    voided = bool(current.rounds) and current.rounds[-1].voided
    if current.plan.privacy.noised and not last and not voided and phase.phase not in FREE_PHASES:
        return "the round is voided"
    return "the run ends"


def expected_end(rounds: tuple[RoundRecord, ...], total: int, now: float) -> float | None:
    """Return when a run ends if its rounds go on taking what the last ones took; ``None`` before the second round."""
    times = [done.completed_at for done in rounds[-PACE_ROUNDS - 1 :]]
    if len(times) < 2 or len(rounds) >= total:
        return None
    each = median(later - earlier for earlier, later in pairwise(times))
    return max(now, times[-1] + each * (total - len(rounds)))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else str(len(names))
