"""Reports of plans whose noise is correlated over rounds: charges are blocks, and everything is computed from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from audit import wording
from audit.compare import compare
from audit.text import rendered
from audit.verify import verify_report
from coordinator.dashboard.curve import EpsilonCurve
from privacy.dp.accountants import any_group_of_two, epsilon, plan_delta, run_epsilon, trust_epsilons
from privacy.dp.events import Composed, round_event
from privacy.errors import VerificationError
from privacy.plan import Plan
from privacy.report import ReportFacts, RoundFacts, build_report, sign_report
from privacy.report_model import Claim, Report
from tests.worlds.plans import OPERATOR, signing_key
from tests.worlds.reports import certificate, coordinator_facts, participant_facts, reported_plan

BANDS = {"bands": [5, 3], "sampling_rate": "0.25", "sensitivity": 16}


def plan_of_five(**privacy: Any) -> tuple[Plan, dict[str, Any]]:
    """Return a plan of five rounds, so of three charges, and its keys."""
    return reported_plan(recipe={"rounds": 5}, privacy={**BANDS, **privacy})


PLAN, KEYS = plan_of_five()
EVENT = round_event(PLAN)
assert EVENT is not None


def facts(rounds: int) -> ReportFacts:
    """Return what a coordinator knows after some completed rounds."""
    done = tuple(
        RoundFacts(round=at, attempts=1, certificate=certificate(PLAN, KEYS, at)) for at in range(1, rounds + 1)
    )
    return replace(coordinator_facts(PLAN, KEYS), rounds=done, evaluations=())


def owners_facts(rounds: int, charges: int) -> ReportFacts:
    """Return what a participant knows of the same, charged so often."""
    own = participant_facts(PLAN, KEYS)
    assert own.ledger is not None
    runs = tuple(
        replace(run, event=EVENT, rounds=charges) if run.plan_hash == PLAN.hash else run
        for run in own.ledger.spent.runs
    )
    ledger = replace(own.ledger, spent=replace(own.ledger.spent, runs=runs))
    return replace(own, rounds=facts(rounds).rounds, ledger=ledger, evaluations=())


def report_of(facts: ReportFacts) -> Report:
    key = OPERATOR if facts.role == "coordinator" else signing_key(facts.name)
    return verify_report(sign_report(build_report(facts), key)).report


@pytest.mark.parametrize(("rounds", "charges"), [(1, 1), (2, 1), (3, 2), (5, 3)])
def test_a_run_is_charged_for_every_block_that_has_begun_wherever_it_stops(rounds: int, charges: int) -> None:
    assert EVENT is not None
    claim = report_of(facts(rounds)).privacy
    assert isinstance(claim, Claim)
    assert claim.charged_rounds == charges
    spent = epsilon(Composed(EVENT, charges), plan_delta(PLAN))
    assert float(claim.charged.epsilon) == pytest.approx(spent, abs=2e-4)
    assert float(claim.group_of_two) == pytest.approx(
        any_group_of_two(Composed(EVENT, charges), plan_delta(PLAN)), abs=2e-4
    )
    assert run_epsilon(PLAN, rounds) == pytest.approx(spent)


def test_a_plan_is_computed_over_all_of_its_blocks_and_no_more() -> None:
    assert EVENT is not None
    assert PLAN.charges == 3
    whole = epsilon(Composed(EVENT, 3), plan_delta(PLAN))
    trusted = trust_epsilons(PLAN)
    assert trusted is not None
    assert trusted.charged == run_epsilon(PLAN) == whole
    curve = EpsilonCurve.of(PLAN)
    assert curve is not None
    assert [at for at, _ in curve.points] == [2, 4, 5]
    assert float(curve.points[-1][1]) == pytest.approx(whole, abs=2e-4)


def test_an_owner_that_was_in_more_blocks_than_it_was_charged_for_does_not_verify() -> None:
    assert report_of(owners_facts(4, 2)).privacy
    assert report_of(owners_facts(4, 3)).privacy, "charged for a round that has no sum"
    with pytest.raises(VerificationError, match="among the survivors of 2 blocks of 2 rounds and was charged for 1"):
        report_of(owners_facts(4, 1))
    with pytest.raises(VerificationError, match="charged rounds are not those"):
        report_of(owners_facts(5, 4))


def test_two_reports_contradict_where_an_owner_was_charged_for_more_blocks_than_began() -> None:
    coordinator = report_of(facts(2))
    assert not compare(coordinator, report_of(owners_facts(2, 1))).contradictions
    found = compare(coordinator, report_of(owners_facts(2, 2))).contradictions
    assert found == ("the coordinator started 2 rounds, a participant was charged for 2 blocks of 2 rounds",)


def test_a_page_says_what_the_noise_is_and_what_is_kept_for_it() -> None:
    report = report_of(facts(5))
    text = " ".join(rendered(report).split())
    assert "The noise of 2 rounds is correlated" in text
    assert "own sums of the last round stay on its machine without noise" in text
    assert "3 charged blocks of 2 rounds" in text
    rows = dict(wording.method_rows(PLAN))
    assert rows["bands (c)"] == "5, 3; |c| = 5.831: correlated over 2 rounds"
    assert "bq = 0.5 in one round out of 2" in rows["sampling"]
    single = dict(wording.method_rows(reported_plan()[0]))
    assert "bands (c)" not in single
