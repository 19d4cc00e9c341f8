"""What a data owner wants to know first: does the daemon run, is it connected, which plans are pending.

Guarantees: read from the participant's directory, so it works whether or not the daemon runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from audit.training_record import read_record
from host.rendering import Json, moment, timestamp
from participant.daemon.status import read_status
from participant.opened import OpenHome
from participant.owner.policy import load_policy
from participant.owner.rules import is_verified_roster
from participant.views.identity import IdentityView, identity_view
from privacy.claims import graph_words, suite_words
from privacy.errors import OnlysumError
from privacy.plan import Plan

SHOWN_ID: Final = 8  # characters of a run's id


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """A plan whose run has not ended, and what must be known of it without reading it again."""

    plan: Plan
    pending: bool  # it waits for the owner's decision
    roster: str  # verified or unverified
    training: str = ""  # in how many rounds training failed
    closed: bool = False  # its journal was set back: no part is taken
    refused: str = ""  # why the last task of the run was refused, where it was

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.plan.run_id

    def to_lines(self) -> list[str]:
        """Return it for people."""
        short = self.run_id[:SHOWN_ID]
        expiry = moment(self.plan.expires_at)
        state = f"waits for you: plan show {short}" if self.pending else f"takes part in run {short} until {expiry} UTC"
        if self.closed:
            state = f"takes NO part in run {short}: its journal here is older than what was shown (E-LEDGER-ROLLBACK)"
        masks = f"suite {suite_words(self.plan)}; graph {graph_words(self.plan)}"
        failed = (
            [f"  {self.training}: see the log, and `onlysum participant plan dry-run {short}`"] if self.training else []
        )
        refused = [f"  {self.refused}"] if self.refused else []
        return [state, f"  roster: {self.roster}; {masks}", *failed, *refused]


@dataclass(frozen=True, slots=True)
class ParticipantStatus:
    """The daemon, its connection and the plans that are open."""

    name: str
    federation: str
    running: bool
    since: int | None  # when the daemon was started, if it is running
    connected: bool
    paused: bool
    code: str  # of the last problem of the daemon
    detail: str
    plans: tuple[OpenPlan, ...]  # pending ones first
    ledger_sequence: int
    gone: bool = False  # it has left for good
    abstains: str = ""  # why it takes part in no run
    identity: IdentityView | None = None

    @property
    def pending(self) -> tuple[str, ...]:
        """Runs whose plans wait for the owner's decision."""
        return tuple(open_plan.run_id for open_plan in self.plans if open_plan.pending)

    @property
    def decided(self) -> tuple[str, ...]:
        """Runs whose plans were decided."""
        return tuple(open_plan.run_id for open_plan in self.plans if not open_plan.pending)

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "name": self.name,
            "federation": self.federation,
            "running": self.running,
            "since": timestamp(self.since),
            "connected": self.connected,
            "paused": self.paused,
            "code": self.code,
            "left": self.gone,
            "abstains": self.abstains,
            "waiting": list(self.pending),
            "runs": list(self.decided),
            "plans": {
                open_plan.run_id: {
                    "roster": open_plan.roster,
                    "suite": open_plan.plan.suite,
                    "graph": open_plan.plan.graph.kind,
                    "training": open_plan.training,
                    "closed": open_plan.closed,
                    "refused": open_plan.refused,
                }
                for open_plan in self.plans
            },
            "ledger_sequence": self.ledger_sequence,
            "identity": self.identity.to_json() if self.identity else None,
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        start = "it has left" if self.gone else "not running; start it: `onlysum participant start`"
        state = "running" if self.running else start
        if self.running:
            state += f"{', connected' if self.connected else ', NOT connected'}, since {moment(self.since)} UTC"
        lines = [f"{self.name} in {self.federation}: {state}{', paused' if self.paused else ''}"]
        if self.running and self.abstains:
            lines.append("  takes part in NO run: records of its ledger or journals are missing")
            lines.append(f"  {self.abstains}")
            lines.append("  next: stop the daemon, then onlysum participant ledger reanchor")
        if self.running and self.code:
            lines.append(f"  {self.code}: {self.detail}")
        if self.identity:
            lines += self.identity.to_lines()
        return lines + [line for open_plan in self.plans for line in open_plan.to_lines()]


def participant_status(opened: OpenHome) -> ParticipantStatus:
    """Read the status."""
    daemon, plans = read_status(opened.home), opened.review.plans
    running = daemon is not None and daemon.running
    refused = daemon.runs if daemon is not None else {}
    open_plans = [
        _open_plan(
            opened,
            plans.get(run_id).plan,
            pending=plans.decision(run_id) is None,
            closed=daemon is not None and run_id in daemon.closed,
        )
        for run_id in plans.run_ids()
        if plans.ended(run_id) is None
    ]
    return ParticipantStatus(
        name=opened.owner.name,
        federation=opened.owner.federation,
        running=running,
        since=daemon.since if daemon and running else None,
        connected=daemon is not None and running and daemon.connected,
        paused=opened.home.pause_mark.exists(),
        code=daemon.code if daemon else "",
        detail=daemon.detail if daemon else "",
        plans=tuple(
            sorted(
                (replace(plan, refused=refused.get(plan.run_id, "")) for plan in open_plans),
                key=lambda open_plan: not open_plan.pending,
            )
        ),
        ledger_sequence=opened.ledger.head().sequence,
        abstains=daemon.abstains if daemon else "",
        gone=opened.home.left_mark.exists(),
        identity=identity_view(opened),
    )


def _open_plan(opened: OpenHome, plan: Plan, *, pending: bool, closed: bool) -> OpenPlan:
    try:
        verified = is_verified_roster(plan, load_policy(opened.home), opened.owner.name)
    except OnlysumError:  # a policy that does not parse pins nobody
        verified = False
    failed = read_record(opened.home.runs / plan.run_id).summary(plan.recipe.rounds)
    return OpenPlan(plan, pending, "verified" if verified else "unverified", failed, closed)
