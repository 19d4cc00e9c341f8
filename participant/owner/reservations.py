"""What approved runs reserve of a population's budget: the rounds that they have not charged yet.

Guarantees: computed from decisions, ends and ledger as they are on disk, so that a reservation begins with the approval
and ends with the run, its refusal or its plan's expiry, and what a run has charged is never counted twice.
Leaves to others: what a round is charged, which no reservation changes (``ledger``); that two approvals do not count on
the same budget (``PlanStore.deciding``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from participant.owner.ledger import Ledger
from participant.owner.plan_store import PlanStore
from participant.owner.policy import Policy
from privacy.dp.events import Composed, Event, round_event
from privacy.plan import VerifiedPlan


@dataclass(frozen=True, slots=True)
class Reservation:
    """The rest of an approved run's price."""

    run_id: str
    event: Event


class Neighbours(Protocol):
    """The other members on this machine, as far as they bear on a plan; an ``OnlysumError`` where that is not known."""

    def reserved(self, population: str, *, now: float) -> tuple[Reservation, ...]:
        """Return what approved runs of those that charge to the same ledger reserve of a population's budget."""

    def charged_apart(self, sha256: str) -> tuple[str, ...]:
        """Return which populations were charged for the data of a hash on this machine's other ledgers, in words."""


class NoNeighbours:
    """Nobody else on this machine."""

    def reserved(self, population: str, *, now: float) -> tuple[Reservation, ...]:
        """Return nothing."""
        return ()

    def charged_apart(self, sha256: str) -> tuple[str, ...]:
        """Return nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Reservations:
    """Where reservations are read from."""

    plans: PlanStore
    ledger: Ledger
    me: str
    strict: bool = False  # a plan that cannot be read is an error: of another member, nobody else would notice it

    def of(self, population: str, policy: Policy, *, now: float, apart_from: bytes = b"") -> tuple[Reservation, ...]:
        """Return what a population's approved runs reserve.

        Args:
            population: whose budget.
            policy: names the populations of datasets.
            now: seconds since the Unix epoch; an expired plan reserves nothing.
            apart_from: hash of a plan that is not counted, since it is the one that asks.

        Raises:
            VerificationError, LocalError: ``E-STATE-DAMAGED``, of a strict one.
        """
        return tuple(
            reservation
            for verified in self.plans.going_on(strictly=self.strict)
            if verified.hash != apart_from and now < verified.plan.expires_at
            for reservation in self._of_run(verified, population, policy)
        )

    def _of_run(self, verified: VerifiedPlan, population: str, policy: Policy) -> Iterator[Reservation]:
        plan, event = verified.plan, round_event(verified.plan)
        takes_part = any(member.id == self.me for member in plan.roster)  # an evaluator charges nothing
        if event is None or not takes_part or population not in self._populations(verified, policy):
            return
        runs = self.ledger.spent(population).runs
        ahead = plan.charges - sum(run.rounds for run in runs if run.plan_hash == verified.hash)
        if ahead > 0:
            yield Reservation(plan.run_id, Composed(event, ahead))

    def _populations(self, verified: VerifiedPlan, policy: Policy) -> tuple[str, ...]:
        """Return whom a run is charged to; before its first charge, as the policy has the dataset that was decided."""
        decision = self.plans.decision(verified.plan.run_id)
        section = policy.dataset.get(decision.dataset) if decision is not None and decision.dataset else None
        return self.ledger.populations_of_run(verified.hash) or ((section.population,) if section else ())
