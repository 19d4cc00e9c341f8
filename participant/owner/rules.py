"""Does a plan fit the owner's policy? Rule by rule, before any data is read.

Guarantees: pure; every rule of the policy is looked at, so that the owner sees all that is met and all that is broken;
a plan is approved by policy only if every rule is met.
Leaves to others: computing what a plan costs and what is left (``cost``), asking a person (``approval``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

import methods
from host.fingerprints import matches
from host.rendering import moment
from participant.owner.policy import DatasetPolicy, Policy, Population
from privacy.adapter_options import BottleneckOptions
from privacy.claims import suite_words
from privacy.dp.events import format_epsilon_up
from privacy.errors import LocalError, RefusedError
from privacy.plan import Plan

RESERVED: Final = "population.reserved"
SHOWN_ID: Final = 8  # characters of a run's id


class Outcome(Enum):
    """What a rule says about a plan."""

    MET = "met"
    NEEDS_APPROVAL = "needs a person"
    BROKEN = "broken"
    OVERRULED = "overruled"  # broken, and a person whom the policy names has taken it upon itself


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule by its name in documentation and refusals, and why it came out so."""

    name: str
    outcome: Outcome
    says: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run would spend, computed here from the plan's integers, and what its population has left.

    Epsilons of the run are at the plan's delta, lifetime epsilons at the policy's lifetime delta.
    """

    outsiders: float
    charged: float
    all_others: float
    lifetime_before: float
    lifetime_after: float
    order: int = 0  # of the lifetime filter; 0: not counted
    order_is_fixed: bool = False  # by the population's first charge
    reserving: tuple[str, ...] = ()  # approved runs that reserve the rest of their price
    lifetime_promised: float = 0.0  # once they and this run have charged all of it


@dataclass(frozen=True, slots=True)
class LocalDataset:
    """What the policy needs to know of the dataset that would be used."""

    name: str
    units: int  # users where there is a user column, rows otherwise
    rows: int
    user_column: str | None
    population: str | None
    another_population: bool = False  # its owner has said that it is also the data of other people


@dataclass(frozen=True, slots=True)
class LocalContext:
    """This participant's side of the comparison."""

    me: str
    identity_key: bytes
    federation: str
    ca_fingerprint: str
    now: float  # seconds since the Unix epoch
    dataset: LocalDataset | None
    base_registered: bool
    cost: Cost | None  # None in mode none, or if no population is named
    charged_to: tuple[str, ...] = ()  # the populations that the ledger has for this run; more than one is a split run
    data_charged_to: tuple[str, ...] = ()  # the populations that the ledger has for the same data
    data_charged_apart: tuple[str, ...] = ()  # those that other ledgers of this machine have, in words
    followed: tuple[str, ...] = ()  # authorities (as ca_fingerprint) from which the present one follows, newest first
    neighbours_unknown: str = ""  # why it is not known what others on this machine reserve or have charged


@dataclass(frozen=True, slots=True)
class Assessment:
    """All rules, in the order of the policy file."""

    rules: tuple[Rule, ...]
    roster_verified: bool

    @property
    def roster(self) -> Literal["verified", "unverified"]:
        """The word for it in status, plan screen and report."""
        return "verified" if self.roster_verified else "unverified"

    @property
    def broken(self) -> tuple[Rule, ...]:
        """The rules that refuse the plan."""
        return tuple(rule for rule in self.rules if rule.outcome is Outcome.BROKEN)

    @property
    def waits_for_runs(self) -> bool:
        """Whether nothing but other runs' reservations refuses the plan: when they end, it may fit."""
        return {rule.name for rule in self.broken} == {RESERVED}

    @property
    def by_policy(self) -> bool:
        """Whether the plan may be approved without a person."""
        return all(rule.outcome is Outcome.MET for rule in self.rules)

    def refusal(self) -> RefusedError | None:
        """Return ``E-PLAN-EXPIRED``, ``E-POLICY-BUDGET`` or ``E-POLICY-RULE`` with the names of the broken rules."""
        if not self.broken:
            return None
        first = self.broken[0].name
        code = {
            "plan.expiry": "E-PLAN-EXPIRED",
            "population.lifetime-epsilon": "E-POLICY-BUDGET",
            RESERVED: "E-POLICY-BUDGET",
        }.get(first, "E-POLICY-RULE")
        return RefusedError(code, "; ".join(f"{rule.name}: {rule.says}" for rule in self.broken))


@dataclass(frozen=True, slots=True)
class Overrule:
    """A broken rule that a person has taken upon itself, as it stood then."""

    rule: str
    says: str  # what the rule said: another violation of the same rule is not covered
    who: str


def assess(plan: Plan, policy: Policy, local: LocalContext, overruled: Iterable[Overrule] = ()) -> Assessment:
    """Compare a plan with the policy, rule by rule; what was overruled counts as long as the policy names who did."""
    rules = [
        *_place(plan, policy, local),
        *_sound(plan),
        *_roster(plan, policy, local),
        *_floors(plan, policy, local),
        *_dataset(plan, policy, local),
        *_budget(plan, policy, local),
        *_approval(policy),
    ]
    valid = {(taken.rule, taken.says) for taken in overruled if may_overrule(policy, taken.rule, taken.who)}
    judged = tuple(
        replace(rule, outcome=Outcome.OVERRULED)
        if rule.outcome is Outcome.BROKEN and (rule.name, rule.says) in valid
        else rule
        for rule in rules
    )
    return Assessment(judged, roster_verified=is_verified_roster(plan, policy, local.me))


def may_overrule(policy: Policy, rule: str, who: str) -> bool:
    """Return whether the policy lets a person approve what a rule refuses."""
    return who in policy.approval.may_overrule.get(rule, ())


def is_verified_roster(plan: Plan, policy: Policy, me: str) -> bool:
    """Return whether the policy pins every other member's identity, and the plan has these very keys."""
    return not unpinned_members(plan, policy, me) and not mismatched_pins(plan, policy)


def mismatched_pins(plan: Plan, policy: Policy) -> tuple[str, ...]:
    """Return the members whose identity key is not the one that the policy pins."""
    pins = policy.coordinator.roster
    return tuple(
        member.id
        for member in plan.roster
        if member.id in pins and not matches(bytes.fromhex(member.identity_key), pins[member.id])
    )


def unpinned_members(plan: Plan, policy: Policy, me: str) -> tuple[str, ...]:
    """Return the other members whose identity the policy does not pin."""
    return tuple(member.id for member in plan.roster if member.id != me and member.id not in policy.coordinator.roster)


def expired(plan: Plan, now: float) -> str:
    """Return that a plan has expired, with the clock that says so: it may be the clock that is wrong."""
    return f"the plan expired at {moment(plan.expires_at)} UTC; this machine's clock says {moment(int(now))} UTC"


def _rule(name: str, met: bool, says: str) -> Rule:
    return Rule(name, Outcome.MET if met else Outcome.BROKEN, says)


def _place(plan: Plan, policy: Policy, at: LocalContext) -> Iterator[Rule]:
    yield _rule("plan.federation", plan.federation == at.federation, f"the plan is of federation {plan.federation}")
    yield _rule("plan.expiry", at.now < plan.expires_at, "open" if at.now < plan.expires_at else expired(plan, at.now))
    pinned = policy.coordinator.ca_fingerprint
    says = "no authority is pinned in the policy" if pinned is None else f"the policy pins authority {pinned[:16]}..."
    if followed := policy.coordinator.pins_predecessor(at.ca_fingerprint, at.followed):
        says += f", which named the present one as its successor; now it is {at.ca_fingerprint[:32]}"
    present = pinned is not None and at.ca_fingerprint.startswith(pinned)
    yield _rule("coordinator.fingerprint", present or followed, says)


def _sound(plan: Plan) -> Iterator[Rule]:
    """Whether the method, its mode and all that is summed can be accounted for at all, whatever the policy allows."""
    try:
        methods.require_sound(plan.recipe, plan.privacy.mode, plan.privacy.bands)
    except LocalError as refusal:
        yield Rule("plan.method", Outcome.BROKEN, refusal.detail)
    else:
        yield Rule("plan.method", Outcome.MET, "nothing is summed beside the method's own streams")


def _roster(plan: Plan, policy: Policy, at: LocalContext) -> Iterator[Rule]:
    own = [member for member in plan.roster if member.id == at.me and member.identity_key == at.identity_key.hex()]
    yield _rule("roster.own-key", bool(own), f"the roster must name {at.me} with this directory's identity key")
    changed = mismatched_pins(plan, policy)
    says = f"the plan has another key for {', '.join(changed)}" if changed else "no pinned key differs"
    yield _rule("roster.pinned", not changed, says)
    if unknown := unpinned_members(plan, policy, at.me):
        outcome = Outcome.MET if policy.approval.unverified_roster else Outcome.NEEDS_APPROVAL
        yield Rule("roster.known", outcome, f"not pinned, so unverified: {', '.join(unknown)}")
    else:
        yield Rule("roster.known", Outcome.MET, "every member's identity is pinned")


def _floors(plan: Plan, policy: Policy, at: LocalContext) -> Iterator[Rule]:
    floors = policy.floors
    yield _rule("floors.f", plan.f >= floors.f, f"f is {plan.f}, the policy asks for at least {floors.f}")
    yield _rule(
        "floors.min-survivors",
        plan.min_survivors >= floors.min_survivors,
        f"a sum is over at least {plan.min_survivors}, the policy asks for {floors.min_survivors}",
    )
    yield _graph(plan, policy)
    yield _rule(
        "floors.suites",
        plan.suite in floors.suites,
        f"the plan has suite {suite_words(plan)}; allowed: {_listed(map(str, floors.suites))}",
    )
    if at.cost is not None:
        cap = floors.max_epsilon_if_all_collude
        yield _rule(
            "floors.epsilon-if-all-collude",
            at.cost.all_others <= cap,
            f"epsilon {format_epsilon_up(at.cost.all_others)} if everybody else colludes, at most {cap:g}",
        )


def _graph(plan: Plan, policy: Policy) -> Rule:
    """The weaker claim of a k-regular graph is accepted by a person or in so many words, never by silence."""
    allowed, kind = policy.floors.graphs, plan.graph.kind
    if allowed is not None:
        return _rule("floors.graphs", kind in allowed, f"the graph is {kind}; allowed: {_listed(allowed)}")
    if kind == "complete":
        return Rule("floors.graphs", Outcome.MET, "the graph is complete")
    if policy.approval.mode == "by-hand":
        return Rule("floors.graphs", Outcome.NEEDS_APPROVAL, "the graph is k-regular, whose claim is weaker")
    says = "the graph is k-regular, whose claim is weaker; to approve it by policy, name it in floors.graphs"
    return Rule("floors.graphs", Outcome.BROKEN, says)


def _dataset(plan: Plan, policy: Policy, at: LocalContext) -> Iterator[Rule]:
    dataset = at.dataset
    if dataset is None:
        says = f"no dataset {plan.recipe.task.data} is registered; name one with --dataset"
        yield Rule("dataset.registered", Outcome.BROKEN, says)
        return
    allowed = policy.dataset.get(dataset.name)
    if allowed is None:
        yield Rule("dataset.section", Outcome.BROKEN, f"the policy has no section [dataset.{dataset.name}]")
        return
    recipe, mode = plan.recipe, plan.privacy.mode
    yield _rule("dataset.modes", mode in allowed.modes, f"mode {mode}; allowed: {_listed(allowed.modes)}")
    base_ok = any(recipe.base.hash.startswith(base) for base in allowed.bases)
    yield _rule("dataset.bases", base_ok, f"base {recipe.base.name} has hash {recipe.base.hash[:16]}...")
    yield _rule(
        "model.registered",
        at.base_registered,
        f"base {recipe.base.name} must be added: `onlysum participant model add`",
    )
    yield _method(plan, allowed.methods)
    yield from _measures(plan, allowed)
    yield _rule(
        "dataset.rounds", recipe.rounds <= allowed.max_rounds, f"{recipe.rounds} rounds <= {allowed.max_rounds}"
    )
    yield _rule(
        "dataset.min-units", dataset.units >= allowed.min_units, f"{dataset.units} >= {allowed.min_units} units"
    )
    announced = next((member.units for member in plan.roster if member.id == at.me), 0)
    counts_rows = allowed.example_level_despite_users and plan.privacy.unit != "user"
    here = dataset.rows if counts_rows else dataset.units
    yield _rule("dataset.units", announced == here, f"the plan counts {announced}, here are {here}")
    if dataset.user_column and plan.privacy.unit == "example":
        says = f"the dataset has users ({dataset.user_column}), the plan protects single examples"
        yield _rule("dataset.user-unit", allowed.example_level_despite_users, says)
    if plan.privacy.unit == "user" and not dataset.user_column:
        yield Rule("dataset.user-unit", Outcome.BROKEN, "the plan protects users, the dataset names no user column")
    if dataset.population is not None:
        same = dataset.population == allowed.population
        yield _rule("dataset.population", same, f"added for {dataset.population}, policy says {allowed.population}")
    yield from _population_of_run(allowed, at)
    if at.data_charged_apart and not dataset.another_population:
        says = f"this data was charged to {'; '.join(at.data_charged_apart)}, which is not added to this ledger"
        yield Rule("population.of-data", Outcome.BROKEN, says)
    elif at.data_charged_to and not dataset.another_population:
        same = allowed.population in at.data_charged_to
        says = f"this data was charged to {', '.join(at.data_charged_to)}, policy says {allowed.population}"
        yield _rule("population.of-data", same, says)
    if at.neighbours_unknown:
        yield Rule("population.of-machine", Outcome.BROKEN, f"unknown what others spend: {at.neighbours_unknown}")


def _population_of_run(allowed: DatasetPolicy, at: LocalContext) -> Iterator[Rule]:
    """A run keeps the population of its first charge, whatever the policy is made to call it later."""
    if at.charged_to:
        same = at.charged_to == (allowed.population,)
        says = f"this run is charged to {', '.join(at.charged_to)}, policy says {allowed.population}"
        yield _rule("population.of-run", same, says)


def _method(plan: Plan, methods: object) -> Rule:
    adapter = plan.recipe.adapter
    bounds = methods.get(adapter.method) if isinstance(methods, dict) else None
    if bounds is None:
        return Rule("dataset.methods", Outcome.BROKEN, f"method {adapter.method} is not allowed for this dataset")
    if bounds.max_rank is not None and adapter.rank > bounds.max_rank:
        size = "width" if isinstance(adapter.options, BottleneckOptions) else "rank"
        return Rule("dataset.methods", Outcome.BROKEN, f"{size} {adapter.rank} is above {bounds.max_rank}")
    if bounds.max_entries is not None and plan.recipe.entries > bounds.max_entries:
        return Rule("dataset.methods", Outcome.BROKEN, f"{plan.recipe.entries} entries > {bounds.max_entries}")
    return Rule("dataset.methods", Outcome.MET, f"method {adapter.method} is allowed")


def _measures(plan: Plan, allowed: DatasetPolicy) -> Iterator[Rule]:
    """A measurement is allowed in so many words alone: to allow training says nothing of it."""
    if plan.recipe.measured is not None:
        wanted = plan.recipe.measured.metrics
        says = f"the plan measures {_listed(wanted)}; allowed: {_listed(allowed.measures)}"
        yield _rule("dataset.measures", set(wanted) <= set(allowed.measures), says)


def _budget(plan: Plan, policy: Policy, at: LocalContext) -> Iterator[Rule]:
    allowed = policy.dataset.get(at.dataset.name) if at.dataset else None
    if not plan.privacy.noised or allowed is None:
        return
    budget, cost, privacy = policy.population[allowed.population], at.cost, plan.privacy
    name = allowed.population
    yield _rule(
        "population.unit", privacy.unit == budget.unit, f"{name} counts {budget.unit}s, the plan {privacy.unit}s"
    )
    if cost is None:
        yield Rule("population.per-run-epsilon", Outcome.BROKEN, "the cost could not be computed")
        return
    yield _rule(
        "privacy.claim",
        cost.charged <= float(privacy.epsilon) * (1 + CLAIM_TOLERANCE),
        f"the plan claims epsilon {privacy.epsilon}, its integers give {format_epsilon_up(cost.charged, 3)}",
    )
    yield _rule(
        "population.per-run-epsilon",
        cost.charged <= budget.per_run_epsilon,
        f"this run costs epsilon {format_epsilon_up(cost.charged, 3)}, at most {budget.per_run_epsilon:g} is allowed",
    )
    delta = float(privacy.delta)
    yield _rule("population.per-run-delta", delta <= budget.per_run_delta, f"{delta:g} <= {budget.per_run_delta:g}")
    yield from _deltas(plan, budget, at)
    if cost.order_is_fixed:
        same = budget.order in {None, cost.order}
        says = f"the first charge fixed order {cost.order} of {name}'s lifetime filter"
        yield _rule("population.order", same, says if same else f"{says}, the policy says {budget.order}")
    yield _rule(
        "population.lifetime-epsilon",
        cost.lifetime_after <= budget.lifetime_epsilon,
        f"{name} has spent {format_epsilon_up(cost.lifetime_before)} and would have spent "
        f"{format_epsilon_up(cost.lifetime_after)} "
        f"of {budget.lifetime_epsilon:g} at delta {budget.lifetime_delta:g}",
    )
    if cost.reserving:
        runs = ", ".join(run_id[:SHOWN_ID] for run_id in cost.reserving)
        yield _rule(
            RESERVED,
            cost.lifetime_promised <= budget.lifetime_epsilon,
            f"with what approved runs reserve ({runs}), {name} would have spent "
            f"{format_epsilon_up(cost.lifetime_promised)} of {budget.lifetime_epsilon:g}",
        )


def _deltas(plan: Plan, budget: Population, at: LocalContext) -> Iterator[Rule]:
    """A delta of 1/N would allow a mechanism that publishes one of N people whole: at most a tenth of it will do."""
    known = plan.n if plan.privacy.unit == "participant" else (at.dataset.units if at.dataset else 0)
    people = max(known, budget.size or 0)
    most, delta = 1 / (DELTA_SHARE * people), float(plan.privacy.delta)
    yield _rule("population.delta", delta <= most, f"delta {delta:g}, at most a tenth of one in {people:,}: {most:.3g}")
    yield _rule(
        "population.lifetime-delta",
        budget.lifetime_delta <= most,
        f"lifetime delta {budget.lifetime_delta:g}, at most a tenth of one in {people:,}: {most:.3g}",
    )


DELTA_SHARE = 10  # delta is at most 1 / (10 * population)
CLAIM_TOLERANCE = 1e-6  # of two machines' double rounding in the same accountant


def _approval(policy: Policy) -> Iterator[Rule]:
    if policy.approval.mode == "by-policy":
        yield Rule("approval.mode", Outcome.MET, "the policy approves by itself")
    else:
        yield Rule("approval.mode", Outcome.NEEDS_APPROVAL, "the policy asks for a person")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
