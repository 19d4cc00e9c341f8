"""What an operator wants to know of a run: is it going well, who is missing, what next.

Guarantees: read from the database alone, so it works whether or not the daemon runs; names, counts and phases only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.daemon.status import read_status
from coordinator.daemon.troubles import Trouble
from coordinator.database import attempt_rows, label_rows, run_rows, standing_rows, turn_rows
from coordinator.database.attempt_rows import AttemptRecord
from coordinator.database.run_rows import ApprovalRecord, EvaluationRecord, RoundRecord, RunRecord, RunState
from coordinator.database.standing_rows import Lateness
from coordinator.labels import label_words
from coordinator.opened import OpenHome
from coordinator.views.attendance import Turnout, turnout
from coordinator.views.leaders import leaders
from coordinator.views.phase import OpenPhase, Waiting, open_phase
from coordinator.views.troubles import current_troubles, trouble_lines, troubles_json
from host.rendering import Json, moment, timestamp
from host.system import SystemClock
from privacy.claims import graph_words, suite_words
from privacy.evaluation import metrics_words
from privacy.measurement import Figure, figure_words, figures
from privacy.plan import Plan
from privacy.secagg.messages import Position

SHOWN_ROUNDS = 10  # of the completed ones, the last


@dataclass(frozen=True, slots=True)
class Overview:
    """A run as its operator sees it."""

    run: RunRecord
    plan: Plan
    approvals: tuple[ApprovalRecord, ...]
    attempts: tuple[AttemptRecord, ...]
    rounds: tuple[RoundRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]
    uploaded: Mapping[int, int]  # bytes of masked updates by round, all attempts together
    phase: OpenPhase | None
    late: tuple[Lateness, ...]  # and not heard of since
    excluded: tuple[str, ...]  # by the operator
    live: tuple[str, ...] | None  # None: the daemon does not run, and no other one leads the run
    leader: str  # where members dial the coordinator that leads it; empty without replicas, or while nobody does
    troubles: tuple[Trouble, ...]  # what keeps the coordinator itself from working
    turnout: Turnout
    figures: tuple[Figure, ...]  # of a measurement whose round is completed
    waits_for: str = ""  # the run whose turn it is, where they share participants
    labels: Mapping[str, str] = field(default_factory=dict)  # the operator's notes

    @property
    def undecided(self) -> tuple[str, ...]:
        """Participants who have not answered the plan."""
        answered = {approval.member for approval in self.approvals}
        return tuple(member.id for member in self.plan.roster if member.id not in answered)

    @property
    def away(self) -> tuple[str, ...]:
        """Participants whose daemon is not connected."""
        return tuple(member.id for member in self.plan.roster if member.id not in (self.live or ()))

    @property
    def there(self) -> int:
        """How many participants an attempt could begin with now."""
        absent = {*self.away, *self.excluded, *(late.member for late in self.late)}
        return len(self.plan.roster) - len(absent)

    @property
    def enough_there(self) -> bool:
        """Whether they are enough for a sum."""
        return self.there >= self.plan.min_survivors

    def evaluation_values(self) -> list[Json]:
        """Return the measurements as JSON."""
        return [
            {
                "round": evaluation.round,
                "evaluator": evaluation.evaluator,
                "examples": evaluation.examples,
                "metrics": metric_values(evaluation),
                "adapter_sha256": evaluation.adapter_sha256.hex(),
                "data_sha256": evaluation.data_sha256.hex(),
            }
            for evaluation in self.evaluations
        ]

    def to_json(self) -> Json:
        """Return it for programs."""
        run, phase = self.run, self.phase
        return {
            "run": run.run_id,
            "title": self.plan.recipe.title,
            "labels": dict(self.labels),
            "state": run.state.value,
            "code": run.code,
            "reason": run.reason,
            "paused": run.paused,
            "created_at": timestamp(run.created_at),
            "ended_at": timestamp(run.ended_at),
            "undecided": list(self.undecided),
            "suite": self.plan.suite,
            "graph": self.plan.graph.model_dump(mode="json"),
            "roster": "unverified",  # a coordinator cannot vouch for it; owners compare fingerprints
            "rounds": self.plan.recipe.rounds,
            "completed": [
                {
                    "round": completed.round,
                    "attempt": completed.attempt,
                    "survivors": completed.survivors,
                    "dropouts": list(completed.dropouts),
                    "voided": completed.voided,
                    "uploaded_bytes": self.uploaded.get(completed.round, 0),
                    "transcript": completed.transcript.hex(),
                    "completed_at": timestamp(completed.completed_at),
                }
                for completed in self.rounds
            ],
            "aborted": [
                {
                    "round": attempt.round,
                    "attempt": attempt.attempt,
                    "phase": attempt.phase,
                    "code": attempt.code,
                    "reason": attempt.reason,
                }
                for attempt in self.attempts
                if attempt.state == "aborted"
            ],
            "phase": None if phase is None else phase.to_json(),
            "late": [{"member": late.member, "phase": late.phase, "since": late.since} for late in self.late],
            "excluded": list(self.excluded),
            "turnout": self.turnout.to_json(),
            "waits_for": self.waits_for or None,
            "evaluations": self.evaluation_values(),
            "measured": [figure.to_json() for figure in self.figures],
            "daemon_running": self.live is not None,
            "leader": self.leader,
            "troubles": troubles_json(self.troubles),
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        run, plan = self.run, self.plan
        state = run.state.value + (", paused" if run.paused and not run.state.ended else "")
        voided = sum(done.voided for done in self.rounds)
        done = f"{len(self.rounds) - voided} of {plan.recipe.rounds} rounds" + (f", {voided} voided" if voided else "")
        lines = [f"{run.run_id}  {plan.recipe.title}", f"{state}, {done}"]
        if run.reason:
            lines.append(f"{run.code} {run.reason}".strip())
        lines += [f"created {moment(run.created_at)} UTC, to be over by {moment(plan.expires_at)} UTC"]
        lines.append(f"suite {suite_words(plan)}; graph {graph_words(plan)}; roster: unverified, owners compare it")
        lines += [f"labelled {', '.join(label_words(self.labels))}"] if self.labels else []
        lines += [f"led at {self.leader}"] if self.leader else []
        if not run.state.ended:
            lines += trouble_lines(self.troubles)
        lines += self._next()
        for completed in self.rounds[-SHOWN_ROUNDS:]:
            if completed.voided:
                lines.append(f"  round {completed.round}: voided, charged and without a sum")
                continue
            dropouts = f", without {', '.join(completed.dropouts)}" if completed.dropouts else ""
            tries = f", attempt {completed.attempt}" if completed.attempt > 1 else ""
            lines.append(f"  round {completed.round}: {completed.survivors} participants{dropouts}{tries}")
        aborted = [attempt for attempt in self.attempts if attempt.state == "aborted"]
        lines += [
            f"  round {attempt.round}, attempt {attempt.attempt} was aborted: {attempt.code} {attempt.reason}"
            for attempt in aborted[-SHOWN_ROUNDS:]
        ]
        lines += [f"  {words}" for words in figure_words(self.figures)]
        lines += [f"  {measured(evaluation)}" for evaluation in self.evaluations[-SHOWN_ROUNDS:]]
        return lines

    def _next(self) -> list[str]:
        run, phase = self.run, self.phase
        if run.state.ended:
            how = "" if run.state is RunState.COMPLETED else " --released"
            return [f"Next: onlysum coordinator run export {run.run_id[:8]} -o DIR{how}"] if self.rounds else []
        if run.held:
            restore = "restore a newer backup into a directory of its own and start that"
            return [f"Next: {restore}, or end the run: onlysum coordinator run abort {run.run_id[:8]}"]
        if self.live is None:
            return ["The daemon does not run. Next: onlysum coordinator start"]
        if run.state is RunState.CREATED:
            return [f"waits for the approval of {', '.join(self.undecided)}"]
        lines = [] if phase is None else phase.to_lines()
        lines += [f"away: {', '.join(self.away)}"] if self.away else []
        lines += [
            f"{late.member} is connected, late since {moment(late.since)} UTC ({late.phase}) and has sent nothing since"
            for late in self.late
            if late.member not in self.away
        ]
        lines += [f"excluded: {', '.join(self.excluded)}"] if self.excluded else []
        lines += self.turnout.to_lines()
        if self.waits_for:
            lines.append(f"waits for run {self.waits_for[:8]}, which has some of its participants")
        if phase is None and not self.enough_there:
            lines.append(f"a round opens when {self.plan.min_survivors} participants are there")
        return lines


def measured(evaluation: EvaluationRecord) -> str:
    """Return a measurement in words."""
    figures = metrics_words(evaluation.metrics)
    return f"after round {evaluation.round}: {figures} ({evaluation.examples} examples, {evaluation.evaluator})"


def metric_values(evaluation: EvaluationRecord) -> dict[str, Json]:
    """Return a measurement's figures by name, for programs."""
    return {metric.name: float(metric.value) for metric in evaluation.metrics}


def _figures(opened: OpenHome, plan: Plan, rounds: tuple[RoundRecord, ...]) -> tuple[Figure, ...]:
    total = opened.files(plan.run_id).measured(plan)
    return figures(plan, total, rounds[0].survivors) if total and rounds else ()


def overview(opened: OpenHome, name: str) -> Overview:
    """Read a run by its id or the beginning of one.

    Raises:
        OnlysumError: ``E-NOT-FOUND``.
    """
    status = read_status(opened.home)
    with opened.store.read() as connection:
        run = run_rows.find_run(connection, name)
        plan = run.parsed()
        attempts = attempt_rows.list_attempts(connection, run.run_id)
        last = attempts[-1] if attempts else None
        phase = None
        if last is not None and last.state == "open":
            events = attempt_rows.list_events(connection, run.run_id, Position(plan.hash, last.round, last.attempt))
            waiting = Waiting(opened.settings.durations, status.started_at if status else None)
            phase = open_phase(plan, last, events, waiting)
        rounds = run_rows.list_rounds(connection, run.run_id)
        leader = None if run.state.ended else leaders(connection).get(run.run_id)
        running = status is not None or leader is not None
        here = status.live if status else ()
        waits_for = ""
        if run.state is RunState.RUNNING and not run.paused and phase is None and len(rounds) < plan.recipe.rounds:
            stalled = turn_rows.stalled_after(opened.settings.durations.gather_seconds)
            now = int(SystemClock().now())
            waits_for = turn_rows.ahead(connection, run, now=now, stalled=stalled, rosters={})
        return Overview(
            run=run,
            plan=plan,
            approvals=run_rows.list_approvals(connection, run.run_id),
            attempts=attempts,
            rounds=rounds,
            evaluations=run_rows.list_evaluations(connection, run.run_id),
            uploaded=attempt_rows.uploaded_bytes(connection, run.run_id),
            phase=phase,
            late=standing_rows.late_now(connection, run.run_id),
            excluded=tuple(sorted(standing_rows.excluded_members(connection, run.run_id))),
            live=tuple(sorted({*here, *(leader.live if leader else ())})) if running else None,
            leader=leader.address if leader else "",
            troubles=current_troubles(opened, status),
            turnout=turnout(connection, run.run_id, plan, rounds),
            figures=_figures(opened, plan, rounds),
            waits_for=waits_for,
            labels=label_rows.labels_of(connection, run.run_id),
        )
