"""The runs that this participant takes part in, found again from disk after a restart.

Guarantees: a run is taken part in only if its plan, byte for byte, is the one that was approved, its base model and
dataset are registered, and no more was signed for it than its journal knows.
Leaves to others: the part itself (``participation``), decisions (``decisions``).
"""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from host import durable
from participant.owner.approval import notify
from participant.owner.plan_store import Decision, Ended
from participant.owner.policy import load_policy
from participant.runs.context import DaemonContext, TrainingJob
from participant.runs.erasure import sweep, sweep_run
from participant.runs.participation import Participation
from participant.runs.training_record import read_record
from privacy.errors import LocalError, OnlysumError, RefusedError
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import keys
from privacy.secagg.messages import Advertisement
from protos.envelope import Role, RunEnded, Welcome

_log = structlog.get_logger("onlysum.participant")


class NotApproved(RefusedError):
    """A task of a run that is not approved here: nobody waits for an answer."""


class Runs:
    """All parts of a daemon."""

    def __init__(self, work: DaemonContext, role: Role) -> None:
        self._work = work
        self._role = role
        self._parts: dict[str, Participation] = {}
        self._rolled_back: OnlysumError | None = None
        self._lost_plans: set[bytes] = set()

    def going_on(self) -> list[str]:
        """Return the runs that are approved and have not ended."""
        plans = self._work.review.plans
        return [
            run_id for run_id in plans.run_ids() if self._decision(run_id) is not None and plans.ended(run_id) is None
        ]

    def refused(self) -> list[str]:
        """Return the runs that are refused, also after an approval, and have not ended."""
        plans = self._work.review.plans
        decisions = [(run_id, plans.decision(run_id)) for run_id in plans.run_ids() if plans.ended(run_id) is None]
        return [one for one, decision in decisions if decision is not None and decision.verdict == "refused"]

    def leave(self, run_id: str) -> None:
        """Take no further part in a run, because it has ended or its owner does not want it any more."""
        if (part := self._parts.pop(run_id, None)) is not None:
            part.close()
        sweep_run(self._work.home, self._work.review.plans, run_id, now=self._work.clock.now())

    def sweep(self) -> None:
        """Erase what is of no use any more of any run: at the start, and now and then."""
        try:
            erased = sweep(self._work.home, self._work.review.plans, now=self._work.clock.now())
        except OnlysumError as error:  # the disk refuses: the next sweep tries again
            _log.error("updates could not be erased", code=error.code, detail=error.detail)
        else:
            if erased:
                _log.info("erased updates and shares that are of no use any more", files=erased)

    def is_idle(self) -> bool:
        """Return whether the owner wants nothing begun now and nothing is under way.

        A participant that rests does not poll: the coordinator then counts it as absent and waits for enough others,
        rather than using up attempts. Called from the polling thread.
        """
        if any(part.round_in_progress for part in list(self._parts.values())):
            return False
        if self._work.home.pause_mark.exists():
            return True
        if self._role is Role.EVALUATOR:
            return False
        try:
            policy = load_policy(self._work.home)
        except OnlysumError:
            return False
        now = datetime.fromtimestamp(self._work.clock.now(), UTC).astimezone().time()
        decisions = [self._decision(run_id) for run_id in self.going_on()]
        sections = [
            policy.dataset.get(decision.dataset) for decision in decisions if decision is not None and decision.dataset
        ]
        return bool(sections) and all(section is not None and not section.allows_time(now) for section in sections)

    def part(self, run_id: str) -> Participation:
        """Return this participant's part in a run.

        Raises:
            OnlysumError: the owner has not approved it, something it needs is missing, or state was rolled back.
        """
        if self._rolled_back is not None:
            raise self._rolled_back
        if run_id not in self._parts:
            job = self.job(run_id)
            if job.verified.hash in self._lost_plans:
                Participation(self._work, job).refuse_for_good("E-LEDGER-ROLLBACK")  # so that a restart knows
                raise RefusedError("E-LEDGER-ROLLBACK", f"the journal of run {run_id} is older than what was signed")
            self._parts[run_id] = Participation(self._work, job)
        return self._parts[run_id]

    def present(self, run_id: str) -> Participation | None:
        """Return a part that was begun in this process."""
        return self._parts.get(run_id)

    def problem(self, run_id: str) -> OnlysumError | None:
        """Prepare a run and return why it cannot be trained here, if so; nothing is charged."""
        if self._role is Role.EVALUATOR:
            return None
        try:
            self.part(run_id).prepare()
        except OnlysumError as error:
            return error
        except Exception as error:  # noqa: BLE001  # a bug must not end the daemon, nor show data in a traceback
            return LocalError("E-BUG", type(error).__name__)
        return None

    def prepare_all(self) -> None:
        """Load what runs that go on need, before the coordinator counts this participant as there."""
        for run_id in self.going_on():
            if (error := self.problem(run_id)) is not None:
                _log.error("a run cannot go on here", run=run_id, code=error.code, detail=error.detail)

    def job(self, run_id: str) -> TrainingJob:
        """Return what a run's trainer, or an evaluator's measurement, is made from; raises as :meth:`part`."""
        review, settings = self._work.review, self._work.settings
        decision = self._decision(run_id)
        if decision is None or decision.dataset is None:
            raise NotApproved("E-POLICY-WAITING", f"run {run_id} is not approved here")
        verified = review.plans.get(run_id)
        if verified.hash.hex() != decision.plan_hash:
            raise RefusedError("E-PLAN-CHANGED", f"the plan of run {run_id} is not the one that was approved")
        base = verified.plan.recipe.base
        model = review.registry.model_with_hash(base.hash)
        if model is None:
            raise LocalError("E-MODEL-HASH", f"base {base.name} with hash {base.hash[:16]}... is not registered")
        return TrainingJob(
            verified=verified,
            me=self._work.owner.name,
            dataset=review.registry.dataset(decision.dataset),
            model=model,
            initial_adapter=review.plans.initial_adapter(run_id),
            device=settings.device,
            threads=settings.threads,
            engine=settings.engine,
            precision=settings.precision,
        )

    def end(self, task: RunEnded) -> None:
        """Close a run: write down how it ended, and erase its updates; the record comes first, a sweep goes by it."""
        plans, run_id = self._work.review.plans, task.run_id
        if run_id not in plans.run_ids() or plans.ended(run_id) is not None:
            return
        decision = self._decision(run_id)
        if self._role is Role.PARTICIPANT and decision is not None:
            self._report(run_id, decision)
        plans.end(run_id, Ended(state=task.state, code=task.code, at=int(self._work.clock.now())))
        self.leave(run_id)
        _log.info("run ended", run=run_id, state=task.state, code=task.code)
        self._tell_of_failures(run_id)

    def _tell_of_failures(self, run_id: str) -> None:
        """Tell the owner, and nobody else, in how many rounds training failed."""
        rounds = self._work.review.plans.get(run_id).plan.recipe.rounds
        try:
            failed = read_record(self._work.home.runs / run_id).summary(rounds)
        except OnlysumError as error:
            failed = f"{error.code}: {error.detail}"
        if failed:
            _log.warning(failed, run=run_id)
            if trouble := notify(self._work.settings.notify, run_id, message=failed):
                _log.warning("the notify command failed", kind=trouble)

    def _report(self, run_id: str, decision: Decision) -> None:
        """Write this participant's own report; a run ends without it rather than not at all."""
        from participant.runs.reporting import (  # SciPy is slow to import, and needed here alone
            REPORT_FILE,
            make_report,
        )

        plans = self._work.review.plans
        try:
            report = make_report(self._work, plans.get(run_id), decision, plans.signature(run_id))
            durable.write(self._work.home.runs / run_id / REPORT_FILE, report)
        except OnlysumError as error:
            _log.error("no report", run=run_id, code=error.code, detail=error.detail)

    def compare(self, welcome: Welcome) -> None:
        """Compare what the coordinator last saw of this member with ledger and journals here; older ones abstain."""
        try:
            self._work.ledger.require_at_least(welcome.ledger_head)
            self._rolled_back = None
        except OnlysumError as error:
            self._rolled_back = error
            _log.error("abstaining from every run", code=error.code, detail=error.detail)
            return
        for advertisement in welcome.last_advertisements:
            self._compare(advertisement)

    def _compare(self, last: Advertisement) -> None:
        owner, at = self._work.owner, last.position
        signed = keys.verify(owner.identity.public, last.signature, last.signed_bytes(PROTOCOL_VERSION))
        if not signed or last.sender != owner.name:
            _log.warning(
                "an advertisement that the coordinator returned is not this member's", code="E-ROUND-SIGNATURE"
            )
            return
        known = [one for one in self.going_on() if self._work.review.plans.get(one).hash == at.plan_hash]
        if not known:
            self._lost_plans.add(at.plan_hash)
            return
        part = self.part(known[0])
        if at.order > part.highest:
            part.refuse_for_good("E-LEDGER-ROLLBACK")
            detail = f"round {at.round}, attempt {at.attempt} was signed, the journal ends at {part.highest}"
            _log.error("the run is refused for good", run=known[0], code="E-LEDGER-ROLLBACK", detail=detail)

    def _decision(self, run_id: str) -> Decision | None:
        decision = self._work.review.plans.decision(run_id)
        return decision if decision is not None and decision.verdict == "approved" else None
