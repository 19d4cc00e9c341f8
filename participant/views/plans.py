"""The plans that were proposed to this participant, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit.training_record import read_record
from host.rendering import Json, Line, broken, table, timestamp
from participant.opened import OpenHome
from participant.owner.plan_store import Decision, Ended

SHOWN_ID: Final = 8  # characters of a run's id


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan, the owner's decision, and how its run ended."""

    run_id: str
    title: str
    mode: str
    decision: str  # approved, refused or waits
    ended: str | None  # how, if it has
    expires_at: int
    training: str = ""  # in how many rounds training failed
    reason: str = ""  # of a refusal, or of an end before the last round

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "run": self.run_id,
            "title": self.title,
            "mode": self.mode,
            "decision": self.decision,
            "ended": self.ended,
            "reason": self.reason,
            "expires_at": timestamp(self.expires_at),
            "training": self.training,
        }


@dataclass(frozen=True, slots=True)
class PlanList:
    """Plans, in the order of the store."""

    plans: tuple[PlanRow, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [plan.to_json() for plan in self.plans]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        rows = [
            (plan.run_id[:SHOWN_ID], broken(plan.title), plan.mode, plan.decision, plan.ended or "-")
            for plan in self.plans
        ]
        why = [f"{plan.run_id[:SHOWN_ID]}: {broken(plan.reason)}" for plan in self.plans if plan.reason]
        failed = [f"{plan.run_id[:SHOWN_ID]}: {plan.training}" for plan in self.plans if plan.training]
        return [*table(("RUN", "TITLE", "MODE", "DECISION", "ENDED"), rows), *why, *failed]


def plan_list(opened: OpenHome, *, pending: bool = False) -> PlanList:
    """Read all plans, or only those that wait for a person."""
    plans, rows = opened.review.plans, []
    for run_id in plans.run_ids():
        decision, ended, plan = plans.decision(run_id), plans.ended(run_id), plans.get(run_id).plan
        if pending and (decision is not None or ended is not None):
            continue
        rows.append(
            PlanRow(
                run_id=run_id,
                title=plan.recipe.title,
                mode=plan.privacy.mode,
                decision=decision.verdict if decision else "waits",
                ended=ended.state if ended else None,
                expires_at=plan.expires_at,
                reason=_reason(decision, ended),
                training=read_record(opened.home.runs / run_id).summary(plan.recipe.rounds),
            )
        )
    return PlanList(tuple(rows))


def _reason(decision: Decision | None, ended: Ended | None) -> str:
    """Return why a plan was refused here, or its run ended early."""
    if decision is not None and decision.verdict == "refused":
        return f"refused by {decision.who}: {decision.because or decision.code}"
    return ended.words if ended is not None and ended.code else ""
