"""The lines that policy.toml would need for a plan to be approved: what an owner would otherwise write by hand.

Guarantees: the lines allow this plan and no more, with the least budget that it needs; they are judged with the policy
as it is before they are shown, and whatever they cannot mend is named; nothing in a section that is there is changed.
Leaves to others: whether the owner wants them (``participant.commands.policy``, ``participant.page``), the rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from host import configuration, durable
from participant.home import Home
from participant.owner.approval import Judged, PlanReview
from participant.owner.cost import best_order, cost_of
from participant.owner.policy import BudgetUnit, Population, parse_policy
from participant.owner.rules import Rule
from participant.page.pins import with_pins
from privacy.errors import LocalError
from privacy.ledger import Spent
from privacy.plan import Plan, VerifiedPlan

STEP: Final = 0.1  # by which a proposed lifetime grows until the run fits
MOST_STEPS: Final = 400
SHARE: Final = 10  # a delta is at most one in ten times as many as there are people


@dataclass(frozen=True, slots=True)
class Proposal:
    """Sections to append, and what would still refuse the plan then."""

    lines: tuple[str, ...]
    judged: Judged  # with these lines in the policy
    changes: tuple[str, ...]  # lines that belong into sections that are there already

    @property
    def remaining(self) -> tuple[Rule, ...]:
        """The rules that would refuse the plan all the same."""
        return self.judged.assessment.broken

    @property
    def text(self) -> str:
        """The lines as they stand in a file."""
        return "".join(f"{line}\n" for line in self.lines)


def propose(review: PlanReview, home: Home, verified: VerifiedPlan, dataset_name: str | None = None) -> Proposal:
    """Return what a plan needs that the policy does not say yet.

    Raises:
        LocalError: ``E-NOT-FOUND``: no dataset is registered that the plan could use; ``E-CONFIG-*`` of the policy.
    """
    before = configuration.read_text(home.policy)
    judged = review.judge(verified, dataset_name)
    dataset, plan = judged.dataset, verified.plan
    if dataset is None:
        raise LocalError("E-NOT-FOUND", f"no dataset {plan.recipe.task.data} is registered; name one with --dataset")
    name = dataset.population or dataset.name
    section, lines, changes = judged.policy.dataset.get(dataset.name), [], []
    population = section.population if section else name
    if population not in judged.policy.population:
        budget = _least_budget(verified, dataset.units)
        lines += ["", f"[population.{population}]", *_budget_lines(budget)]
    if section is None:
        lines += ["", f"[dataset.{dataset.name}]", *_dataset_lines(plan, population)]
    else:
        changes += _dataset_changes(judged, dataset.name)
    after = parse_policy(before + "".join(f"{line}\n" for line in lines))
    return Proposal(tuple(lines), review.judge(verified, dataset_name, policy=after), tuple(changes))


def append(home: Home, proposal: Proposal, *, pins: Mapping[str, bytes] | None = None) -> None:
    """Append a proposal to policy.toml, and pin members with it, in one write.

    Args:
        home: the participant's directory.
        proposal: what to append.
        pins: identity keys that their owners have confirmed, by name.

    Raises:
        LocalError: ``E-USAGE``: there is nothing to append; ``E-CONFIG-*``: the whole would not parse.
    """
    if not proposal.lines and not pins:
        raise LocalError("E-USAGE", "no section is missing; what differs stands in sections that are there already")
    text = with_pins(configuration.read_text(home.policy), pins or {})
    if proposal.lines:
        text = f"{text.rstrip()}\n{proposal.text}"
    parse_policy(text)
    durable.write(home.policy, text.encode())


def _dataset_lines(plan: Plan, population: str) -> list[str]:
    return [
        f'population = "{population}"',
        f'modes = ["{plan.privacy.mode}"]',
        f'bases = ["{plan.recipe.base.hash}"]',
        f'methods = ["{plan.recipe.adapter.method}"]',
        f"max_rounds = {plan.recipe.rounds}",
        *([f"measures = {json.dumps(_metrics(plan))}"] if plan.recipe.measured else []),
    ]


def _dataset_changes(judged: Judged, name: str) -> list[str]:
    """Return what a section that is there would have to say, a line per key that refuses the plan."""
    plan, section = judged.verified.plan, judged.policy.dataset[name]
    broken = {rule.name for rule in judged.assessment.broken}
    wanted = {
        "dataset.modes": ("modes", [*section.modes, plan.privacy.mode]),
        "dataset.bases": ("bases", [*section.bases, plan.recipe.base.hash]),
        "dataset.methods": ("methods", [*section.methods, plan.recipe.adapter.method]),
        "dataset.measures": ("measures", sorted({*section.measures, *_metrics(plan)})),
        "dataset.rounds": ("max_rounds", plan.recipe.rounds),
    }
    return [f"[dataset.{name}]  {key} = {json.dumps(value)}" for rule, (key, value) in wanted.items() if rule in broken]


def _metrics(plan: Plan) -> tuple[str, ...]:
    return plan.recipe.measured.metrics if plan.recipe.measured else ()


def _budget_lines(budget: Population) -> list[str]:
    return [
        f'unit = "{budget.unit}"',
        f"lifetime_epsilon = {budget.lifetime_epsilon:g}  # the least that this run needs; later runs need more",
        f"lifetime_delta = {budget.lifetime_delta:g}",
        f"per_run_epsilon = {budget.per_run_epsilon:g}",
        f"per_run_delta = {budget.per_run_delta:g}",
    ]


def _least_budget(verified: VerifiedPlan, people: int) -> Population:
    """Return the smallest budget under which a plan fits a population that has spent nothing."""
    plan = verified.plan
    most = float(f"{1 / (SHARE * max(1, people)):.0e}")
    most = most if most <= 1 / (SHARE * max(1, people)) else most / 2
    if not plan.privacy.noised:
        return _population("example", lifetime=1.0, lifetime_delta=most, run=1.0, run_delta=most)
    unit: BudgetUnit = plan.privacy.unit if plan.privacy.unit != "none" else "example"
    delta, nothing = min(float(plan.privacy.delta), most), Spent(population="", unit=unit, relation="zero-out", runs=())
    draft = _population(unit, lifetime=1.0, lifetime_delta=delta, run=1.0, run_delta=float(plan.privacy.delta))
    alone = cost_of(verified, draft, nothing)
    per_run = math.ceil((alone.charged if alone else 1.0) * 100) / 100
    lifetime = math.ceil(best_order(verified, draft)[1] / STEP) * STEP
    for _ in range(MOST_STEPS):
        budget = _population(
            unit, lifetime=round(lifetime, 2), lifetime_delta=delta, run=per_run, run_delta=float(plan.privacy.delta)
        )
        cost = cost_of(verified, budget, nothing)
        if cost is None or cost.lifetime_after <= budget.lifetime_epsilon:
            break
        lifetime += STEP
    return budget


def _population(
    unit: BudgetUnit, *, lifetime: float, lifetime_delta: float, run: float, run_delta: float
) -> Population:
    return Population(
        unit=unit,
        lifetime_epsilon=lifetime,
        lifetime_delta=lifetime_delta,
        per_run_epsilon=run,
        per_run_delta=run_delta,
    )


def proposal_for(review: PlanReview, home: Home, run_id: str, dataset_name: str | None = None) -> Proposal:
    """Return the proposal for a kept plan; errors as of :func:`propose`."""
    return propose(review, home, review.plans.get(run_id), dataset_name)
