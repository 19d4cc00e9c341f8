"""The owner's policy against plans: which rule is met, which refuses, which asks for a person."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from participant.owner.cost import cost_of
from participant.owner.policy import parse_policy
from participant.owner.rules import Assessment, LocalContext, Outcome, assess
from privacy.adapter_options import BottleneckOptions
from privacy.dp.events import round_event
from privacy.errors import LocalError
from privacy.ledger import RunSpend, Spent, nothing_spent
from privacy.plan_parts import Mode
from tests.worlds.assessed import ALICE, COST, DATASET
from tests.worlds.measuring import measuring_plan
from tests.worlds.owner import pins, policy_text
from tests.worlds.plans import EXPIRES_AT, make_plan, names, signing_key, travelling, verified

TENSORS = make_plan()[0].recipe.adapter.model_dump(mode="json")["tensors"]
METRICS = {
    "adapter": {"tensors": [*TENSORS, {"key": "loss", "shape": [1], "stream": "metrics", "part": "adapter"}]},
    **travelling(("adapter", 9), ("head", 3), ("metrics", 1)),
}


def sized(people: int) -> str:
    """Return the policy with a public bound on the population's size."""
    return policy_text().replace('unit = "example"', f'unit = "example"\nsize = {people}')


def judged(
    text: str | None = None, *, local: LocalContext = ALICE, mode: Mode = "distributed", **plan: Any
) -> Assessment:
    return assess(make_plan(mode=mode, **plan)[0], parse_policy(text or policy_text()), local)


def test_a_plan_within_every_rule_is_approved_by_policy() -> None:
    found = judged()
    assert found.refusal() is None
    assert found.by_policy
    assert found.roster_verified


def measures(*metrics: str, wards: str = "") -> Assessment:
    plan = measuring_plan(metrics, n=5)
    policy = parse_policy(policy_text(wards=wards))
    return assess(plan, policy, ALICE)


def test_a_policy_that_allows_training_does_not_allow_measuring() -> None:
    broken = measures("accuracy").broken
    assert [rule.name for rule in broken] == ["dataset.measures"]
    assert broken[0].says == "the plan measures accuracy; allowed: none"


def test_a_policy_allows_the_metrics_that_it_names_and_no_other() -> None:
    allowed = 'measures = ["accuracy", "histogram"]'
    assert measures("accuracy", "histogram", wards=allowed).by_policy
    assert [rule.name for rule in measures("accuracy", "confusion", wards=allowed).broken] == ["dataset.measures"]


def test_a_policy_that_allows_measuring_says_nothing_more_of_a_plan_that_trains() -> None:
    found = judged(policy_text(wards='measures = ["accuracy"]'))
    assert found.by_policy
    assert "dataset.measures" not in {rule.name for rule in found.rules}


def test_nobody_can_be_named_to_overrule_what_may_be_measured() -> None:
    with pytest.raises(LocalError, match="cannot be overruled"):
        parse_policy('[approval.may_overrule]\n"dataset.measures" = ["Dr. Weber"]\n')


def test_an_unknown_metric_in_a_policy_is_refused() -> None:
    with pytest.raises(LocalError, match="measures"):
        parse_policy(policy_text(wards='measures = ["f1"]'))


def test_an_empty_policy_refuses_every_plan() -> None:
    assert judged("[approval]\n").broken


@pytest.mark.parametrize(("n", "f"), [(3, 1), (5, 1), (10, 3)])
def test_the_normal_sizes_of_a_federation_are_workable_with_default_floors(n: int, f: int) -> None:
    assert judged(policy_text(roster=names(n)[1:]), n=n, f=f).by_policy


BROKEN = {
    "another authority than the pinned one": (
        "coordinator.fingerprint", {"local": replace(ALICE, ca_fingerprint="cd" * 32)}
    ),
    "no authority pinned": ("coordinator.fingerprint", {"text": policy_text().replace("ca_fingerprint", "# ca_")}),
    "a plan of another federation": ("plan.federation", {"local": replace(ALICE, federation="another")}),
    "an expired plan": ("plan.expiry", {"local": replace(ALICE, now=EXPIRES_AT)}),
    "a roster with another key of mine": (
        "roster.own-key", {"local": replace(ALICE, identity_key=signing_key("mallory").public)}
    ),
    "a peer whose key is not the pinned one": (
        "roster.pinned", {"text": policy_text().replace(pins(["bob"]), 'bob = "' + "00" * 16 + '"')}
    ),
    "too few colluders withstood": ("floors.f", {"text": policy_text() + "[floors]\nf = 2\n"}),
    "nobody withstood": ("floors.f", {"f": 0}),
    "too small a sum": ("floors.min-survivors", {"text": policy_text() + "[floors]\nmin_survivors = 5\n"}),
    "too much lost if all collude": (
        "floors.epsilon-if-all-collude", {"text": policy_text() + "[floors]\nmax_epsilon_if_all_collude = 8\n"}
    ),
    "a dataset that is not registered": ("dataset.registered", {"local": replace(ALICE, dataset=None)}),
    "a dataset without a section": (
        "dataset.section", {"local": replace(ALICE, dataset=replace(DATASET, name="other"))}
    ),
    "a mode that is not allowed": ("dataset.modes", {"mode": "local"}),
    "another base model": ("dataset.bases", {"text": policy_text(base="ee" * 32)}),
    "a base that is not here": ("model.registered", {"local": replace(ALICE, base_registered=False)}),
    "a method that is not allowed": ("dataset.methods", {"text": policy_text().replace("ffa-lora", "fedit")}),
    "a method that trains other tensors than the plan": (
        "plan.method", {"text": policy_text().replace("ffa-lora", "fedit"), "recipe": {"adapter": {"method": "fedit"}}}
    ),
    "a stream of metrics beside the method's own": ("plan.method", {"recipe": METRICS}),
    "a rank above the bound": (
        "dataset.methods",
        {"text": policy_text().replace('methods = ["ffa-lora"]', "methods.ffa-lora = {max_rank = 1}")},
    ),
    "more entries than the bound": (
        "dataset.methods",
        {"text": policy_text().replace('methods = ["ffa-lora"]', "methods.ffa-lora = {max_entries = 11}")},
    ),
    "too many rounds": ("dataset.rounds", {"text": policy_text(wards="max_rounds = 2")}),
    "too few units": ("dataset.min-units", {"text": policy_text(wards="min_units = 101")}),
    "another size than announced": (
        "dataset.units", {"local": replace(ALICE, dataset=replace(DATASET, units=99, rows=99))}
    ),
    "single examples where the data has users": (
        "dataset.user-unit", {"local": replace(ALICE, dataset=replace(DATASET, user_column="patient"))}
    ),
    "a dataset added for another population": (
        "dataset.population", {"local": replace(ALICE, dataset=replace(DATASET, population="staff"))}
    ),
    "a budget in another unit": ("population.unit", {"text": policy_text().replace('"example"', '"user"')}),
    "a plan that understates its epsilon": ("privacy.claim", {"privacy": {"epsilon": "3.9"}}),
    "more than a run may spend": (
        "population.per-run-epsilon", {"text": policy_text().replace("per_run_epsilon = 30", "per_run_epsilon = 3")}
    ),
    "a weaker delta than a run may have": (
        "population.per-run-delta", {"text": policy_text().replace("per_run_delta = 1e-5", "per_run_delta = 1e-6")}
    ),
    "a delta above a tenth of one over the population": (
        "population.delta", {"text": sized(20_000), "local": ALICE}
    ),
    "a lifetime delta above a tenth of one over the population": (
        "population.lifetime-delta",
        {"text": sized(8_000).replace("lifetime_delta = 1e-6", "lifetime_delta = 2e-5")},
    ),
    "more than a lifetime allows": (
        "population.lifetime-epsilon", {"local": replace(ALICE, cost=replace(COST, lifetime_after=40.1))}
    ),
    "another order than the first charge fixed": (
        "population.order",
        {
            "text": policy_text().replace("lifetime_delta", "order = 5\nlifetime_delta"),
            "local": replace(ALICE, cost=replace(COST, order=4, order_is_fixed=True)),
        },
    ),
    "a run that is charged to another population": (
        "population.of-run", {"local": replace(ALICE, charged_to=("customers",))}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "case"), BROKEN.values(), ids=BROKEN.keys())
def test_refused_with_the_rule_that_refused(rule: str, case: dict[str, Any]) -> None:
    found = judged(**case)
    assert [one.name for one in found.broken] == [rule]
    refusal = found.refusal()
    assert refusal is not None
    assert refusal.detail.startswith(f"{rule}: ")
    assert not found.by_policy


def test_a_bound_of_ranks_is_one_of_the_width_of_bottlenecks() -> None:
    plan = make_plan()[0]
    options = BottleneckOptions(bottleneck_dim=4, target_modules=("fc2",))
    adapter = plan.recipe.adapter.model_copy(update={"method": "bottleneck", "options": options})
    wide = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"adapter": adapter})})
    for bound, outcome in ((3, Outcome.BROKEN), (4, Outcome.MET)):
        policy = policy_text().replace('methods = ["ffa-lora"]', f"methods.bottleneck = {{max_rank = {bound}}}")
        found = {rule.name: rule for rule in assess(wide, parse_policy(policy), ALICE).rules}
        assert found["dataset.methods"].outcome is outcome
        assert ("width 4 is above 3" in found["dataset.methods"].says) == (outcome is Outcome.BROKEN)


def test_a_spent_budget_has_a_code_of_its_own() -> None:
    found = judged(local=replace(ALICE, cost=replace(COST, lifetime_after=41.0)))
    refusal = found.refusal()
    assert refusal is not None
    assert refusal.code == "E-POLICY-BUDGET"


def test_an_expired_plan_has_a_code_of_its_own() -> None:
    refusal = judged(local=replace(ALICE, now=EXPIRES_AT + 1)).refusal()
    assert refusal is not None
    assert refusal.code == "E-PLAN-EXPIRED"


def test_a_member_that_is_not_pinned_needs_a_person_and_leaves_the_roster_unverified() -> None:
    found = judged(policy_text(roster=names(5)[1:4]))
    assert not found.roster_verified
    assert not found.broken
    assert not found.by_policy
    assert [rule.name for rule in found.rules if rule.outcome is Outcome.NEEDS_APPROVAL] == ["roster.known"]


def test_the_policy_may_accept_an_unverified_roster() -> None:
    found = judged(policy_text(roster=(), more="unverified_roster = true"))
    assert found.by_policy
    assert not found.roster_verified


def test_approval_by_hand_needs_a_person() -> None:
    assert not judged(policy_text(approval="by-hand")).by_policy


def test_users_in_the_data_may_be_overruled_by_policy() -> None:
    with_users = replace(ALICE, dataset=replace(DATASET, units=40, user_column="patient"))
    assert judged(policy_text(wards="example_level_despite_users = true"), local=with_users).by_policy


def test_a_population_is_at_least_as_large_as_its_dataset() -> None:
    many = replace(ALICE, dataset=replace(DATASET, units=20_000, rows=20_000))
    found = judged(local=many, roster=[
        {**member.model_dump(), "units": 20_000} for member in make_plan()[0].roster
    ])  # fmt: skip
    assert [one.name for one in found.broken] == ["population.delta"]


def test_a_plan_without_privacy_needs_no_budget_but_its_mode_allowed() -> None:
    assert judged(mode="none", local=replace(ALICE, cost=None)).by_policy
    text = policy_text().replace('modes = ["distributed", "none"]', 'modes = ["distributed"]')
    assert [one.name for one in judged(text, mode="none").broken] == ["dataset.modes"]


def test_the_cost_is_computed_from_the_integers_and_counts_earlier_runs() -> None:
    plan = verified(make_plan(mode="distributed")[0])
    population = parse_policy(policy_text()).population["patients"]
    fresh = cost_of(plan, population, nothing_spent("patients"))
    assert fresh is not None
    assert fresh.outsiders < fresh.charged < fresh.all_others
    assert fresh.lifetime_before == 0
    event = round_event(plan.plan)
    earlier = Spent("patients", "example", "zero-out", (RunSpend("ff" * 16, b"\1" * 32, event, 3, "0.00001"),))
    later = cost_of(plan, population, earlier)
    assert later is not None
    assert later.lifetime_before == pytest.approx(fresh.lifetime_after)
    assert later.lifetime_after > later.lifetime_before


def test_rounds_that_are_charged_already_are_not_counted_twice() -> None:
    plan = verified(make_plan(mode="distributed")[0])
    population = parse_policy(policy_text()).population["patients"]
    halfway = Spent(
        "patients",
        "example",
        "zero-out",
        (RunSpend(plan.plan.run_id, plan.hash, round_event(plan.plan), 2, "0.00001"),),
    )
    fresh, later = (cost_of(plan, population, spent) for spent in (nothing_spent("patients"), halfway))
    assert fresh is not None
    assert later is not None
    assert later.lifetime_after == pytest.approx(fresh.lifetime_after)


def test_a_raised_budget_counts_at_the_order_of_the_first_charge() -> None:
    plan = verified(make_plan(mode="distributed")[0])
    run = RunSpend("ff" * 16, b"\1" * 32, round_event(plan.plan), 3, "0.00001")
    spent = Spent("patients", "example", "zero-out", (run,), order=3)
    for budget in ("lifetime_epsilon = 40", "lifetime_epsilon = 4000"):
        text = policy_text().replace("lifetime_epsilon = 40", budget)
        cost = cost_of(plan, parse_policy(text).population["patients"], spent)
        assert cost is not None
        assert (cost.order, cost.order_is_fixed) == (3, True)


def test_a_run_without_privacy_costs_nothing_that_a_number_could_tell() -> None:
    population = parse_policy(policy_text()).population["patients"]
    assert cost_of(verified(make_plan()[0]), population, nothing_spent("patients")) is None
