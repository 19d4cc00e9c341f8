"""What each population has spent, run by run, and what is left of its budget.

Guarantees: every epsilon is computed here from the ledger's events and rounded up; what is left is rounded down.
Source: docs/privacy-accounting.md sections 5 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from host.fingerprints import fingerprint
from host.rendering import Json
from participant.opened import OpenHome
from participant.owner.cost import left_of, lifetime_budget, promised_epsilon
from participant.owner.ledger_directory import LedgerMember
from participant.owner.policy import Policy, load_policy
from participant.owner.reservations import Reservation
from privacy.dp.accountants import epsilon
from privacy.dp.events import Composed, format_epsilon_up
from privacy.errors import LocalError, VerificationError
from privacy.ledger import LifetimeBudget, RunSpend, Spent
from privacy.ledger_entries import Reanchored

SHOWN_ID: Final = 8  # characters of a run's id


@dataclass(frozen=True, slots=True)
class RunCharge:
    """What one run has cost its population."""

    run_id: str
    rounds: int
    epsilon: float | None  # of this run alone; None: no differential privacy, or nothing charged
    delta: str

    def to_json(self) -> Json:
        """Return it for programs."""
        return {"run": self.run_id, "rounds": self.rounds, "epsilon": self.epsilon, "delta": self.delta}

    def to_line(self) -> str:
        """Return it for people."""
        cost = "no differential privacy"
        if self.epsilon is not None:
            cost = f"epsilon {format_epsilon_up(self.epsilon, 3)} at delta {self.delta}, this run alone"
        return f"  run {self.run_id[:SHOWN_ID]}: {self.rounds} rounds charged, {cost}"


@dataclass(frozen=True, slots=True)
class LifetimeSpend:
    """A population's lifetime budget and what all runs together have used of it."""

    budget: LifetimeBudget
    used: float
    reserving: tuple[str, ...]  # approved runs that have not charged all of their price
    promised: float  # what will be used once they have

    @property
    def left(self) -> float:
        """What may still be spent."""
        return max(0.0, self.budget.epsilon - self.used)


@dataclass(frozen=True, slots=True)
class PopulationSpend:
    """What a population has spent; without a section in the policy nothing more may be spent."""

    population: str
    unit: str
    runs: tuple[RunCharge, ...]
    lifetime: LifetimeSpend | None  # None: the policy has no section for it

    def to_json(self) -> Json:
        """Return it for programs."""
        fields: dict[str, Json] = {
            "population": self.population,
            "unit": self.unit,
            "runs": [run.to_json() for run in self.runs],
        }
        if self.lifetime is None:
            return fields
        budget = self.lifetime.budget
        spend: dict[str, Json] = {
            "lifetime_epsilon": self.lifetime.used,
            "allowed": budget.epsilon,
            "left": self.lifetime.left,
            "reserved_by": list(self.lifetime.reserving),
            "left_after_reservations": max(0.0, budget.epsilon - self.lifetime.promised),
            "delta": budget.delta,
        }
        return {**fields, **spend}

    def to_lines(self) -> list[str]:
        """Return it for people."""
        runs = [run.to_line() for run in self.runs]
        if self.lifetime is None:
            return [f"{self.population}: no section in the policy, nothing more may be spent", *runs]
        budget, used = self.lifetime.budget, self.lifetime.used
        spent = f"epsilon {format_epsilon_up(used, 3)} of {budget.epsilon:g} spent for ever"
        left = f"{left_of(budget.epsilon, used)} left (delta {budget.delta:g}, per {budget.unit})"
        lines = [f"{self.population}: {spent}, {left}", *runs]
        if self.lifetime.reserving:
            promised, by = self.lifetime.promised, ", ".join(run_id[:SHOWN_ID] for run_id in self.lifetime.reserving)
            after = f"{format_epsilon_up(promised, 3)} spent and {left_of(budget.epsilon, promised)} left after them"
            lines.append(f"  reserved by approved runs ({by}): {after}")
        if used:
            why = f"holds across all runs; {format_epsilon_up(budget.fixed)} of it is for delta, paid once"
            lines.append(f"  counted by a Renyi filter of order {budget.order}, which {why}")
        return lines


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The spend of populations, and the record that the ledger ends with."""

    populations: tuple[PopulationSpend, ...]
    sequence: int
    head: bytes
    key: str  # fingerprint of the ledger's key
    file: str
    members: tuple[LedgerMember, ...]  # that charge to it, the one that asks among them
    lost: tuple[Reanchored, ...] = ()
    unknown: str = ""  # why it is not known what other members reserve

    def to_json(self) -> Json:
        """Return it for programs."""
        populations: list[Json] = [population.to_json() for population in self.populations]
        lost: list[Json] = [
            {"lost_sequence": loss.lost_sequence, "who": loss.who, "exhausted": [*loss.exhausted]} for loss in self.lost
        ]
        members: list[Json] = [
            {"name": member.name, "federation": member.federation, "directory": member.home} for member in self.members
        ]
        return {
            "populations": populations,
            "sequence": self.sequence,
            "head": self.head.hex(),
            "key": self.key,
            "file": self.file,
            "members": members,
            "unknown": self.unknown,
            "reanchored": lost,
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        lines = [line for population in self.populations for line in population.to_lines()]
        for loss in self.lost:
            lines.append(
                f"records up to {loss.lost_sequence} were lost; charged at their worst, as {loss.who} confirmed"
            )
            if loss.exhausted:
                lines.append(f"  the whole budget counts as spent: {', '.join(loss.exhausted)}")
        if len(self.members) > 1:
            lines.append(
                "charged to by " + ", ".join(f"{member.name} of {member.federation}" for member in self.members)
            )
        if self.unknown:
            lines.append(f"NOT KNOWN what other members of this machine reserve: {self.unknown}")
        return [*lines, f"ledger head: record {self.sequence}, {self.head.hex()}", f"ledger key: {self.key}"]


def ledger_view(opened: OpenHome, population: str | None = None) -> LedgerView:
    """Read the spend of one population, or of all that the ledger or the policy knows.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-CONFIG-*`` of the policy.
    """
    policy = load_policy(opened.home)
    known = {*opened.ledger.populations(), *policy.population}
    if population is not None and population not in known:
        raise LocalError("E-NOT-FOUND", f"no population {population} in the ledger or the policy")
    names = sorted(known) if population is None else [population]
    head = opened.ledger.head()
    reserved = {name: opened.review.reserved(name, policy) for name in names}
    spends = tuple(_population_spend(opened.ledger.spent(name), policy, reserved[name][0]) for name in names)
    unknown = next((why for _, why in reserved.values() if why), "")
    try:
        beside = opened.ledgers.beside(opened.member)
    except VerificationError as error:
        beside, unknown = (), error.detail
    lost = tuple(record.entry for record in opened.ledger.rows() if isinstance(record.entry, Reanchored))
    members = (opened.member, *(other for other in beside if other.ledger == opened.member.ledger))
    file = str(opened.ledgers.file(opened.member.ledger))
    return LedgerView(spends, head.sequence, head.hash, fingerprint(opened.ledger.key), file, members, lost, unknown)


def _population_spend(spent: Spent, policy: Policy, reserved: tuple[Reservation, ...]) -> PopulationSpend:
    section, lifetime = policy.population.get(spent.population), None
    if section is not None:
        budget = spent.fixed(lifetime_budget(section))
        reserving = tuple(reservation.run_id for reservation in reserved)
        promised = promised_epsilon(spent, budget, reserved)
        lifetime = LifetimeSpend(budget, spent.lifetime_epsilon(budget), reserving, promised)
    return PopulationSpend(spent.population, spent.unit, tuple(_run_charge(run) for run in spent.runs), lifetime)


def _run_charge(run: RunSpend) -> RunCharge:
    alone = epsilon(Composed(run.event, run.rounds), float(run.delta)) if run.event and run.rounds else None
    return RunCharge(run.run_id, run.rounds, alone, run.delta)
