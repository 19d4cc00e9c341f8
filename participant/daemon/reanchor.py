"""``ledger reanchor``: how a participant whose ledger was set back goes on.

Guarantees: what may have been charged in the records that are lost is charged again, never less than this member's own
signed heads name; what cannot be named exhausts the budget; the runs that were lost or set back stay closed. Nothing is
written before a person has confirmed it by name, and the runs are closed before the ledger goes on.
Leaves to others: finding out that records are lost (``participant.runs.open_runs``), the ledger's own rules.
Source: ADR 0026.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from audit import wording
from host import configuration
from host.rendering import Json
from participant.home import erase_updates
from participant.opened import OpenHome
from participant.owner.policy import Policy, load_policy
from participant.runs.journal import Journal
from participant.runs.rollback import holds, lost_head, own_heads
from privacy.dp.events import round_event
from privacy.errors import LocalError, NetworkError, OnlysumError, RefusedError, VerificationError
from privacy.heads import HeadsShown, LedgerHead, Moment
from privacy.ledger import nothing_spent
from privacy.ledger_entries import Charge, PolicyChange, Reanchored, Unprotected
from privacy.plan import Plan
from protos.envelope import Welcome

SHOWN_ID: Final = 8  # characters of a run's id
FetchPlan = Callable[[bytes], bytes]  # returns the plan of a hash, or raises an OnlysumError


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that may have gone on since, and what this member signed about it."""

    plan: Plan
    plan_hash: bytes
    shown: int  # the last such round; 0: none
    charged: frozenset[int]  # rounds that are on the ledger still
    populations: tuple[str, ...]  # that it may have been charged to

    def rounds(self, named: int | None) -> tuple[int, ...]:
        """Return the rounds to charge: all that are not charged yet, or those up to the one that a person names.

        With bands a block is charged as its first round is.

        Raises:
            LocalError: ``E-USAGE``, this member's own heads say that more were charged.
        """
        last = self.plan.recipe.rounds if named is None else named
        if not self.shown <= last <= self.plan.recipe.rounds:
            detail = f"run {self.plan.run_id[:SHOWN_ID]}: {self.shown} to {self.plan.recipe.rounds} rounds were charged"
            raise LocalError("E-USAGE", detail)
        charged_as = {self.plan.privacy.charged_as(number) for number in range(1, last + 1)}
        return tuple(sorted(charged_as - self.charged))


@dataclass(frozen=True, slots=True)
class Loss:
    """What is missing, and what going on would charge."""

    lost: LedgerHead
    records: int  # that are missing at least
    runs: tuple[tuple[OpenRun, tuple[int, ...]], ...]  # with the rounds to charge
    charges: tuple[Charge | Unprotected, ...]
    unnamed_runs: int  # runs of which this member showed heads, and whose plan nobody has
    unexplained: int  # missing records beyond all rounds to charge
    exhausted: tuple[str, ...]  # populations whose whole budget is charged

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "lost_sequence": self.lost.sequence,
            "records_missing": self.records,
            "runs": [
                {"run": run.plan.run_id, "rounds": [*rounds], "populations": [*run.populations], "shown": run.shown}
                for run, rounds in self.runs
            ],
            "runs_without_plan": self.unnamed_runs,
            "unexplained_records": self.unexplained,
            "exhausted": [*self.exhausted],
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        lines = [f"At least {self.records} records of the ledger are missing, up to number {self.lost.sequence}."]
        for run, rounds in self.runs:
            known = f"your own signed heads name rounds up to {run.shown}" if run.shown else "no head names a round"
            counted = f"{len(rounds)} of {wording.charges(run.plan, run.plan.charges)}"
            charge = f"{counted} are charged to {', '.join(run.populations)}"
            lines.append(f"  run {run.plan.run_id[:SHOWN_ID]} stays closed here; {charge} ({known})")
        if self.unnamed_runs:
            lines.append(f"  {self.unnamed_runs} runs were taken part in whose plan is neither here nor there")
        if self.unexplained:
            lines.append(f"  {self.unexplained} missing records are explained by none of these runs")
            lines.append("  if a policy changed, or other members account for their own records: --only-policy-changed")
        if self.exhausted:
            lines.append(f"  the whole budget counts as spent: {', '.join(self.exhausted)}")
        return [*lines, "Nothing is refunded, also if it turns out that less was charged."]


def find_loss(
    opened: OpenHome,
    policy: Policy,
    welcome: Welcome,
    fetch: FetchPlan,
    *,
    named: Mapping[str, int] | None = None,
    policy_only: bool = False,
) -> Loss:
    """Compare the ledger with what this member showed, and return what is missing.

    Args:
        opened: the participant's directory.
        policy: names the populations.
        welcome: the coordinator's answer to a handshake.
        fetch: gets a plan that is not here, by its hash.
        named: the last round that was charged, by run, where a person knows better than "all".
        policy_only: a person says that missing records that no run explains are changes of the policy, or of other
            members that charge to this ledger: each of them accounts for its own.

    Raises:
        LocalError: ``E-USAGE``, no record is missing.
    """
    shown = own_heads(opened.owner, welcome)
    lost = lost_head(opened.ledger, welcome, shown)
    if lost is None:
        raise LocalError("E-USAGE", "the ledger holds every record that was shown: there is nothing to re-anchor")
    runs, unnamed = _open_runs(opened, policy, shown, fetch)
    charged = tuple((run, run.rounds(_named(named or {}, run.plan.run_id))) for run in runs)
    records = _missing(opened, lost)
    charges, uncertain = _charges(opened, charged)
    rounds = sum(len(_entries(run, numbers, "")) for run, numbers in charged)
    unexplained = 0 if policy_only else max(0, records - rounds - _policy_rows(opened))
    everybody = {*policy.population, *opened.ledger.populations(), *_populations_beside(opened)}
    exhausted = tuple(sorted(everybody if unnamed or unexplained else uncertain))
    return Loss(lost, records, charged, charges, unnamed, unexplained, exhausted)


def _missing(opened: OpenHome, lost: LedgerHead) -> int:
    """Return how many records up to the lost one are not here, beyond those that were accounted for already.

    At least one is, unless another member, whose records they were as well, has accounted for all of them.
    """
    rows, me = opened.ledger.rows(), opened.owner.identity.public
    entries = [row.entry for row in rows if isinstance(row.entry, Reanchored)]
    covered, here = max((entry.lost_sequence for entry in entries), default=0), {row.sequence for row in rows}
    count = sum(number not in here for number in range(covered + 1, lost.sequence + 1))
    by_another = any(entry.member != me and lost.sequence <= entry.lost_sequence for entry in entries)
    return count if by_another else max(1, count)


def _populations_beside(opened: OpenHome) -> Iterator[str]:
    """Yield the populations of other members that charge to this ledger: the missing records may be theirs."""
    for other in opened.ledgers.beside(opened.member):
        if other.ledger == opened.member.ledger:
            with other.named():
                populations = load_policy(other.directory).population
            yield from populations


def _policy_rows(opened: OpenHome) -> int:
    """Return how many missing records the policy as it is now explains: one, if the ledger does not have it."""
    rows, me = (record.entry for record in opened.ledger.rows()), opened.owner.identity.public
    noted = [entry for entry in rows if isinstance(entry, PolicyChange) and entry.member == me]
    now = hashlib.sha256(configuration.read_text(opened.home.policy).encode()).digest()
    return 0 if noted and noted[-1].policy_sha256 == now else 1


def _named(named: Mapping[str, int], run_id: str) -> int | None:
    """Return the last charged round that a person names for a run, by the beginning of its id."""
    return next((rounds for start, rounds in named.items() if run_id.startswith(start)), None)


def _open_runs(
    opened: OpenHome, policy: Policy, shown: Sequence[HeadsShown], fetch: FetchPlan
) -> tuple[list[OpenRun], int]:
    """Return the runs that may have gone on since, and of how many more nobody has the plan."""
    kept, runs, unnamed = _plans_here(opened), list[OpenRun](), 0
    last = {heads.position.plan_hash: _last_charged(heads) for heads in shown}
    whole = {heads.position.plan_hash for heads in shown if holds(opened.ledger, heads.ledger)}
    approved = [plan_hash for plan_hash, plan in kept.items() if _is_approved(opened, plan.run_id)]
    for plan_hash in dict.fromkeys([*last, *approved]):
        plan = kept.get(plan_hash) or _fetched(plan_hash, fetch)
        if plan is None:
            unnamed += 1
        elif not _has_ended(opened, plan.run_id) or (plan_hash in last and plan_hash not in whole):
            runs.append(_open_run(opened, policy, plan, plan_hash, last.get(plan_hash, 0)))
    return runs, unnamed


def _plans_here(opened: OpenHome) -> dict[bytes, Plan]:
    """Return the plans that are kept here, by hash; what cannot be read is asked for."""
    found = dict[bytes, Plan]()
    for run_id in opened.review.plans.run_ids():
        with suppress(OnlysumError):
            verified = opened.review.plans.get(run_id)
            found[verified.hash] = verified.plan
    return found


def _is_approved(opened: OpenHome, run_id: str) -> bool:
    with suppress(OnlysumError):
        decision = opened.review.plans.decision(run_id)
        return decision is not None and decision.verdict == "approved"
    return True  # nobody can tell: it may have been


def _has_ended(opened: OpenHome, run_id: str) -> bool:
    with suppress(OnlysumError):
        return opened.review.plans.ended(run_id) is not None
    return False


def _last_charged(heads: HeadsShown) -> int:
    """Return the last round that this member may have charged when it showed its heads."""
    return heads.position.round - (heads.moment is Moment.ADVERTISE)


def _fetched(plan_hash: bytes, fetch: FetchPlan) -> Plan | None:
    """Return a plan that is not here: this member signed its hash, so it needs no other signature."""
    try:
        data = fetch(plan_hash)
        return Plan.from_bytes(data) if hashlib.sha256(data).digest() == plan_hash else None
    except NetworkError:
        raise  # no answer is not the answer that nobody has it
    except OnlysumError:
        return None


def _open_run(opened: OpenHome, policy: Policy, plan: Plan, plan_hash: bytes, shown: int) -> OpenRun:
    rows = [record.entry for record in opened.ledger.rows()]
    charged = {row.round for row in rows if isinstance(row, Charge) and row.plan_hash == plan_hash}
    if any(isinstance(row, Unprotected) and row.plan_hash == plan_hash for row in rows):
        charged = set(range(1, plan.recipe.rounds + 1))  # noted once for all of its rounds
    populations = opened.ledger.populations_of_run(plan_hash) or _candidates(opened, policy, plan)
    return OpenRun(plan, plan_hash, shown, frozenset(charged), populations)


def _candidates(opened: OpenHome, policy: Policy, plan: Plan) -> tuple[str, ...]:
    """Return the populations that a run without a record may have been charged to: one where its dataset is known."""
    decision = None
    with suppress(OnlysumError):
        decision = opened.review.plans.decision(plan.run_id)
    name = decision.dataset if decision is not None and decision.dataset else plan.recipe.task.data
    section = policy.dataset.get(name)
    return (section.population,) if section is not None else tuple(sorted(policy.population))


def reanchor(opened: OpenHome, loss: Loss, *, who: str, at: int) -> None:
    """Close the runs, then write the re-anchoring and its charges.

    Args:
        opened: the participant's directory, of which no daemon runs.
        loss: as it was shown to the person.
        who: confirmed it.
        at: seconds since the Unix epoch.

    Raises:
        LocalError: ``E-DISK-FULL``; nothing or only closed runs are written, and it can be done again.
    """
    for run, _ in loss.runs:
        directory = opened.home.runs / run.plan.run_id
        with suppress(VerificationError):  # damaged: nobody takes part by it
            Journal.open(directory, run.plan_hash).refuse("E-LEDGER-ROLLBACK")
        erase_updates(directory)
    lost = Reanchored(
        member=opened.owner.identity.public,
        lost_sequence=loss.lost.sequence,
        lost_hash=loss.lost.hash,
        who=who,
        exhausted=loss.exhausted,
    )
    opened.ledger.reanchor(lost, loss.charges, at=at)
    opened.ledger.losses.note(None)


def _charges(
    opened: OpenHome, charged: Sequence[tuple[OpenRun, tuple[int, ...]]]
) -> tuple[tuple[Charge | Unprotected, ...], set[str]]:
    """Return what is charged, and the populations of runs that cannot be: of several, or kept in another unit."""
    charges, uncertain = list[Charge | Unprotected](), set[str]()
    spent = {name: opened.ledger.spent(name) for name in opened.ledger.populations()}
    for run, rounds in charged:
        if rounds and len(run.populations) != 1:
            uncertain.update(run.populations)
            continue
        name = next(iter(run.populations), "")
        try:
            after = spent.get(name) or nothing_spent(name)
            for charge in (entries := _entries(run, rounds, name)):
                after = after.with_charge(charge) if isinstance(charge, Charge) else after
        except RefusedError:
            uncertain.add(name)
            continue
        spent[name] = after
        charges += entries
    return tuple(charges), uncertain


def _entries(run: OpenRun, rounds: Sequence[int], population: str) -> list[Charge | Unprotected]:
    plan, event = run.plan, round_event(run.plan)
    if event is None:
        return [Unprotected(run_id=plan.run_id, plan_hash=run.plan_hash, population=population)] if rounds else []
    return [
        Charge(
            run_id=plan.run_id,
            plan_hash=run.plan_hash,
            round=number,
            population=population,
            unit=plan.privacy.unit,
            relation=plan.privacy.relation,
            event=event,
            delta=plan.privacy.delta,
        )
        for number in rounds
    ]
