"""What the owner allows now: asked before each attempt, and the budget charged before each training.

Guarantees: a policy that was changed is judged again before the next attempt; a round is on the ledger's disk before
anything is trained for it.
Leaves to others: judging (``approval``), the ledger's own rules (``ledger``).
"""

from __future__ import annotations

from datetime import datetime

from audit.training_record import read_record
from participant.owner.cost import lifetime_budget
from participant.owner.policy import DatasetPolicy, Policy
from participant.owner.rules import expired
from participant.runs.context import DaemonContext, TrainingJob
from privacy.dp.events import round_event
from privacy.errors import RefusedError
from privacy.ledger_entries import Charge, Unprotected


class Consent:
    """The owner's standing consent to one approved run."""

    def __init__(self, work: DaemonContext, job: TrainingJob) -> None:
        self._work = work
        self._data = job.dataset
        self._verified = job.verified
        self._judged: Policy | None = None

    def require(self) -> None:
        """Refuse to begin an attempt that the owner would not have now.

        Raises:
            RefusedError: ``E-PLAN-EXPIRED``, ``E-POLICY-REFUSED`` (the approval was taken back), ``E-POLICY-WAITING``
                (paused; training failed in ``max_failed_rounds`` rounds, or no row is usable and that is set),
                ``E-POLICY-RULE`` or ``E-POLICY-BUDGET``.
        """
        plan, now = self._verified.plan, self._work.clock.now()
        if now >= plan.expires_at:
            raise RefusedError("E-PLAN-EXPIRED", f"run {plan.run_id}: {expired(plan, now)}")
        decision = self._work.review.plans.decision(plan.run_id)
        if decision is None or decision.verdict == "refused":
            raise RefusedError("E-POLICY-REFUSED", f"the owner has taken back the approval of run {plan.run_id}")
        if self._work.home.pause_mark.exists():
            raise RefusedError("E-POLICY-WAITING", "the owner has paused this participant")
        policy = self._work.review.policy()
        if policy != self._judged:
            if refusal := self._work.review.judge_run(plan.run_id).assessment.refusal():
                raise refusal
            self._judged = policy
        section = self._section(policy)
        record = read_record(self._work.home.runs / plan.run_id)
        if section.max_failed_rounds is not None and record.too_many(section.max_failed_rounds):
            change = "take out" if record.trains_on_nothing else "raise"
            wait = f"to go on, {change} dataset.max_failed_rounds in policy.toml"
            raise RefusedError("E-POLICY-WAITING", f"{record.summary(plan.recipe.rounds)}; {wait}")
        if not section.allows_time(datetime.fromtimestamp(now).astimezone().time()):
            raise RefusedError("E-POLICY-RULE", f"dataset.hours: training is allowed {section.hours}")

    def charge(self, number: int) -> None:
        """Charge a round at its planned event; without differential privacy, note that once.

        With bands the first round that trains of a charging block charges all of it, under the number of its first.

        Raises:
            RefusedError: ``E-POLICY-BUDGET``, ``E-LEDGER-UNIT``, ``E-LEDGER-POPULATION``, ``E-LEDGER-DATA`` or
                ``E-POLICY-RULE``; nothing is trained.
            LocalError: ``E-DISK-FULL``.
        """
        plan, now = self._verified.plan, int(self._work.clock.now())
        policy = self._work.review.policy()
        population = self._section(policy).population
        event = round_event(plan)
        if event is None:
            note = Unprotected(run_id=plan.run_id, plan_hash=self._verified.hash, population=population)
            self._work.ledger.note_unprotected(note, at=now)
            return
        charge = Charge(
            run_id=plan.run_id,
            plan_hash=self._verified.hash,
            round=plan.privacy.charged_as(number),
            population=population,
            unit=plan.privacy.unit,
            relation=plan.privacy.relation,
            event=event,
            delta=plan.privacy.delta,
            data=self._work.ledger.fingerprint(self._data.sha256),
        )
        budget, others = lifetime_budget(policy.population[population]), self._data.another_population
        self._work.ledger.charge(charge, budget=budget, max_rounds=plan.charges, at=now, others=others)

    def _section(self, policy: Policy) -> DatasetPolicy:
        section = policy.dataset.get(self._data.name)
        if section is None:
            raise RefusedError("E-POLICY-RULE", f"dataset.section: the policy has no [dataset.{self._data.name}]")
        return section
