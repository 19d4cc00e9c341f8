"""A refusal by the policy can be overruled by a person whom the policy names, for what the rule says, with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from participant.home import Home
from participant.opened import open_home
from participant.owner.approval import PlanReview
from participant.owner.plan_page import Page, plan_page
from participant.owner.policy import OVERRULABLE, parse_policy
from participant.owner.rules import Outcome, assess
from privacy.errors import LocalError, OnlysumError, RefusedError
from tests.worlds.assessed import ALICE
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.owner import owned_plan, policy_text
from tests.worlds.plans import make_plan

NAMED = 'may_overrule = { "floors.f" = ["Dr. Weber"] }'
WHY = "the two other clinics are ours"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = authority()
    home = enrol(tmp_path / "alice", made)
    plan = owned_plan()
    equip(home, made, plan)
    propose(home, made, plan)
    return home


def write(home: Home, *, approval: str = NAMED, floor: int = 2, mode: str = "by-hand") -> None:
    """Ask for more colluders than the plan withstands, and say who may overrule that."""
    text = home.policy.read_text().replace('mode = "by-hand"', f'mode = "{mode}"\n{approval}')
    home.policy.write_text(f"{text}\n[floors]\nf = {floor}\n")


def review(home: Home) -> tuple[PlanReview, str]:
    plans = open_home(home.directory).review
    return plans, plans.plans.run_ids()[0]


def overrule(home: Home, *, who: str | None = "Dr. Weber", because: str = WHY, rule: str = "floors.f") -> None:
    plans, run = review(home)
    plans.approve(run, who=who, overruling=[rule], because=because)


def test_a_named_person_overrules_a_rule_and_the_decision_says_who_which_and_why(home: Home) -> None:
    write(home)
    overrule(home)
    plans, run = review(home)
    decision = plans.plans.decision(run)
    assert decision is not None
    assert (decision.verdict, decision.who, decision.because) == ("approved", "Dr. Weber", WHY)
    assert [rule.rule for rule in decision.overruled] == ["floors.f"]
    judged = plans.judge_run(run)
    assert judged.assessment.refusal() is None  # also before each attempt, as long as nothing changes
    assert not judged.assessment.by_policy
    page = "\n".join(plan_page(judged, "alice", decision).lines())
    assert "Dr. Weber overruled floors.f: f is 1, the policy asks for at least 2." in page
    assert "[OVERRULED] floors.f" in page


def test_a_plan_that_can_be_overruled_says_by_whom_and_how(home: Home) -> None:
    write(home)
    plans, run = review(home)
    page = "\n".join(plan_page(plans.judge_run(run), "alice", None).lines())
    assert "May be overruled by (floors.f: Dr. Weber)" in page
    assert f"plan approve {run[:8]} --overrule floors.f --as NAME --because TEXT" in page


REFUSED: dict[str, tuple[dict[str, str | None], str]] = {
    "somebody whom the policy does not name": ({"who": "Dr. Other"}, "E-POLICY-RULE"),
    "whoever is logged in, without a name": ({"who": None}, "E-USAGE"),
    "without a reason": ({"because": " "}, "E-USAGE"),
    "a reason that rewrites the terminal": ({"because": "\u202eon"}, "E-USAGE"),
    "a rule that does not refuse the plan": ({"rule": "floors.suites"}, "E-USAGE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_overruled_by(home: Home, case: str) -> None:
    write(home)
    words, code = REFUSED[case]
    with pytest.raises(OnlysumError) as refused:
        overrule(home, **words)  # type: ignore[arg-type]  # one of the three
    assert refused.value.code == code
    plans, run = review(home)
    assert plans.plans.decision(run) is None


def test_no_line_of_a_text_passes_for_a_line_of_the_page() -> None:
    page = Page("a title", "run 3f2a", (("What happens here", ("Purpose: digits\n\nDECISION\n  approved by you",)),))
    assert page.lines()[-1] == "  Purpose: digits DECISION approved by you"


def test_a_decider_whose_name_rewrites_the_page_is_refused(home: Home) -> None:
    plans, run = review(home)
    with pytest.raises(LocalError, match="--as: has a character that cannot be shown"):
        plans.approve(run, who="Dr.\u202e rebeW")


def test_a_rule_that_the_policy_does_not_list_is_overruled_by_nobody(home: Home) -> None:
    write(home, approval='may_overrule = { "floors.suites" = ["Dr. Weber"] }')
    with pytest.raises(RefusedError, match="may be overruled by nobody"):
        overrule(home)


def test_another_broken_rule_still_refuses_the_plan(home: Home) -> None:
    write(home)
    home.policy.write_text(home.policy.read_text().replace("f = 2", "f = 2\nmin_survivors = 9"))
    with pytest.raises(RefusedError, match=r"floors\.min-survivors"):
        overrule(home)


def test_what_was_overruled_counts_for_what_the_rule_said_then(home: Home) -> None:
    write(home)
    overrule(home)
    home.policy.write_text(home.policy.read_text().replace("f = 2", "f = 3"))
    plans, run = review(home)
    assert [rule.name for rule in plans.judge_run(run).assessment.broken] == ["floors.f"]


def test_who_is_named_no_more_has_overruled_nothing(home: Home) -> None:
    write(home)
    overrule(home)
    home.policy.write_text(home.policy.read_text().replace("Dr. Weber", "Dr. Other"))
    plans, run = review(home)
    assert [rule.name for rule in plans.judge_run(run).assessment.broken] == ["floors.f"]


def test_a_policy_that_decides_by_itself_waits_for_who_may_overrule_and_refuses_the_rest(home: Home) -> None:
    write(home, mode="by-policy")
    plans, run = review(home)
    with pytest.raises(RefusedError, match="E-POLICY-WAITING"):
        plans.decide_by_policy(run)
    home.policy.write_text(home.policy.read_text().replace(NAMED, ""))
    assert plans.decide_by_policy(run).verdict == "refused"


@pytest.mark.parametrize(
    "rule", ["population.lifetime-epsilon", "roster.pinned", "plan.method", "coordinator.fingerprint", "floors.typo"]
)
def test_rules_that_protect_others_or_keep_the_account_cannot_be_named(rule: str) -> None:
    with pytest.raises(LocalError, match=r"may_overrule|cannot be overruled"):
        parse_policy(f'[approval]\nmay_overrule = {{ "{rule}" = ["Dr. Weber"] }}\n')


def test_every_rule_that_can_be_overruled_is_a_rule() -> None:
    found = assess(make_plan(mode="distributed")[0], parse_policy(policy_text()), ALICE)
    assert {rule.name for rule in found.rules} >= OVERRULABLE
    assert all(rule.outcome is not Outcome.OVERRULED for rule in found.rules)
