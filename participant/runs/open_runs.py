"""The runs that this participant takes part in, found again from disk after a restart.

Guarantees: a run is taken part in only if its plan, byte for byte, is the one that was approved, its base model and
dataset are registered, and no more was signed for it than its journal knows.
Leaves to others: the part itself (``participation``), decisions (``decisions``).
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from audit.training_record import read_record
from host import durable
from host.logs import get_logger
from participant.owner.approval import notify
from participant.owner.plan_store import Decision, Ended
from participant.owner.policy import load_policy
from participant.runs.context import DaemonContext, TrainingJob
from participant.runs.erasure import sweep, sweep_run
from participant.runs.journal import Journal
from participant.runs.participation import Participation
from participant.runs.rollback import lost_head, own_heads
from privacy.errors import LocalError, OnlysumError, RefusedError
from protos.envelope import HeadsShown, LedgerHead, MemberExcluded, Role, RunEnded, Welcome

_log = get_logger("onlysum.participant")


class NotApproved(RefusedError):
    """A task of a run that is not approved here: nobody waits for an answer."""


class Runs:
    """All parts of a daemon."""

    def __init__(self, work: DaemonContext, role: Role) -> None:
        self._work = work
        self._role = role
        self._parts: dict[str, Participation] = {}
        self.rolled_back: RefusedError | None = None  # why this participant takes part in no run
        self._lost_plans: set[bytes] = set()
        self._hashes: dict[str, bytes] = {}  # of plans, by run
        self.unerased = False  # whether the disk has refused to erase something since all was erased
        self._excluded: set[str] = set()  # runs of which the owner was told: once, as often as the coordinator says it

    def going_on(self) -> list[str]:
        """Return the runs that are approved and have not ended."""
        return [run_id for run_id in self._work.review.plans.open_runs() if self._verdict(run_id) == "approved"]

    def refused(self) -> list[str]:
        """Return the runs that are refused, also after an approval, and have not ended."""
        return [run_id for run_id in self._work.review.plans.open_runs() if self._verdict(run_id) == "refused"]

    def _verdict(self, run_id: str) -> str:
        """Return what was decided about a run; nothing where that cannot be read.

        Whoever takes part in such a run meets the error, and says so; other runs are not kept from going on.
        """
        with suppress(OnlysumError):
            decision = self._work.review.plans.decision(run_id)
            return decision.verdict if decision is not None else ""
        return ""

    def closed(self) -> list[str]:
        """Return the runs in which no part is taken because what was shown of them is missing here."""
        return [run_id for run_id in self.going_on() if self._hashes.get(run_id) in self._lost_plans]

    def leave(self, run_id: str) -> None:
        """Take no further part in a run, because it has ended or its owner does not want it any more."""
        if (part := self._parts.pop(run_id, None)) is not None:
            part.close()
        try:
            sweep_run(self._work.home, self._work.review.plans, run_id, now=self._work.clock.now())
        except OnlysumError as error:
            self._not_erased(error)

    def sweep(self) -> None:
        """Erase what is of no use any more of any run: at the start, and now and then."""
        try:
            erased = sweep(self._work.home, self._work.review.plans, now=self._work.clock.now())
        except OnlysumError as error:
            self._not_erased(error)
        else:
            self.unerased = False
            if erased:
                _log.info("erased updates and shares that are of no use any more", files=erased)

    def _not_erased(self, error: OnlysumError) -> None:
        """The disk refuses: another sweep tries again, soon."""
        self.unerased = True
        _log.error("updates could not be erased", code=error.code, detail=error.detail)

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
        if self.rolled_back is not None:
            raise self.rolled_back
        part = self._parts.get(run_id) or Participation(self._work, self.job(run_id))
        if part.plan_hash in self._lost_plans:
            self._parts.pop(run_id, None)
            part.refuse_for_good("E-LEDGER-ROLLBACK")  # so that a restart knows
            raise RefusedError("E-LEDGER-ROLLBACK", f"the journal of run {run_id} is older than what was signed")
        return self._parts.setdefault(run_id, part)

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
            memory=settings.memory,
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

    def excluded(self, task: MemberExcluded) -> None:
        """Tell the owner that the operator leaves this participant out of the next rounds."""
        if task.run_id in self._excluded or task.run_id not in self.going_on():
            return
        self._excluded.add(task.run_id)
        self._tell_owner(task.run_id, "the operator leaves this participant out of the next rounds of the run")

    def _tell_owner(self, run_id: str, message: str) -> None:
        _log.warning(message, run=run_id)
        if trouble := notify(self._work.settings.notify, run_id, message=message):
            _log.warning("the notify command failed", kind=trouble)

    def _tell_of_failures(self, run_id: str) -> None:
        """Tell the owner, and nobody else, in how many rounds training failed."""
        rounds = self._work.review.plans.get(run_id).plan.recipe.rounds
        try:
            failed = read_record(self._work.home.runs / run_id).summary(rounds)
        except OnlysumError as error:
            failed = f"{error.code}: {error.detail}"
        if failed:
            self._tell_owner(run_id, failed)

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
        """Compare what this member has shown of ledger and journals with those here; older ones abstain."""
        shown = own_heads(self._work.owner, welcome)
        self._compare_ledger(lost_head(self._work.ledger, welcome, shown))
        for heads in shown:
            try:
                self._compare(heads)
            except Exception as error:  # noqa: BLE001  # each run by itself, whatever keeps another from being read
                self._lost_plans.add(heads.position.plan_hash)
                detail = str(error) if isinstance(error, OnlysumError) else type(error).__name__
                plan = heads.position.plan_hash.hex()
                _log.error("a run cannot be compared", plan=plan, code="E-LEDGER-ROLLBACK", detail=detail)

    def _compare_ledger(self, lost: LedgerHead | None) -> None:
        """Abstain from every run while the ledger lacks a record that was shown."""
        self.rolled_back = None
        self._work.ledger.losses.note(lost)
        if lost is not None:
            detail = f"record {lost.sequence} of the ledger was shown and is missing here"
            self.rolled_back = RefusedError("E-LEDGER-ROLLBACK", detail)
        else:
            try:
                self._work.ledger.losses.require_none()
            except RefusedError as error:  # another member's that charges here
                self.rolled_back = error
        if (known := self.rolled_back) is not None:
            next_step = known.explanation.next_step
            _log.error("abstaining from every run", code=known.code, detail=known.detail, next=next_step)

    def _compare(self, shown: HeadsShown) -> None:
        """Refuse a run for good if its journal lacks what was shown of it, also if its plan comes only later."""
        plan_hash, plans = shown.position.plan_hash, self._work.review.plans
        run_id = self._with_hash(plan_hash)
        if run_id is None:
            self._lost_plans.add(plan_hash)
            return
        if plans.ended(run_id) is not None:
            return
        part = self._parts.get(run_id)
        journal = Journal.open(self._work.home.runs / run_id, plan_hash) if part is None else part.journal
        if journal.contains(shown.journal):
            return
        self._lost_plans.add(plan_hash)
        if part is None:
            journal.refuse("E-LEDGER-ROLLBACK")
        else:
            part.refuse_for_good("E-LEDGER-ROLLBACK")
        at = shown.position
        detail = f"round {at.round}, attempt {at.attempt}: record {shown.journal.length} of the journal was shown"
        _log.error("the run is refused for good", run=run_id, code="E-LEDGER-ROLLBACK", detail=detail)

    def _with_hash(self, plan_hash: bytes) -> str | None:
        """Return the run whose plan has a hash; plans that cannot be read are none."""
        plans = self._work.review.plans
        for run_id in plans.run_ids():
            if run_id not in self._hashes:
                with suppress(OnlysumError):
                    self._hashes[run_id] = plans.get(run_id).hash
            if self._hashes.get(run_id) == plan_hash:
                return run_id
        return None

    def _decision(self, run_id: str) -> Decision | None:
        decision = self._work.review.plans.decision(run_id)
        return decision if decision is not None and decision.verdict == "approved" else None
