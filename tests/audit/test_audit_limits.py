"""What no report may state though all of its figures fit: more rounds, another event, what nobody can compute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audit.verify import verify_report
from privacy.dp.events import Gaussian, PoissonSampled
from privacy.errors import VerificationError
from privacy.plan_parts import Mode
from privacy.report import RoundFacts, build_report, sign_report
from tests.worlds.plans import OPERATOR, signing_key
from tests.worlds.reports import (
    certificate,
    code_of,
    coordinator_facts,
    participant_facts,
    participant_report,
    reported_plan,
    resigned,
)


@pytest.mark.parametrize(("mode", "code"), [("none", "E-REPORT-TRANSCRIPT"), ("distributed", "E-REPORT-RECOMPUTE")])
def test_a_round_beyond_the_plans_is_refused_though_a_quorum_signed_it(mode: Mode, code: str) -> None:
    plan, keys = reported_plan(mode)
    rounds = tuple(
        RoundFacts(round=number, attempts=1, certificate=certificate(plan, keys, number))
        for number in range(1, plan.recipe.rounds + 2)
    )
    report = build_report(replace(coordinator_facts(plan, keys), rounds=rounds))
    assert code_of(sign_report(report, OPERATOR)) == code


def test_a_ledger_that_charged_this_run_as_another_event_is_refused_though_all_figures_follow_from_it() -> None:
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    *others, own = facts.ledger.spent.runs
    cheaper = replace(own, event=PoissonSampled(0.5, Gaussian(9.0)))
    spent = replace(facts.ledger.spent, runs=(*others, cheaper))
    report = build_report(replace(facts, ledger=replace(facts.ledger, spent=spent)))
    with pytest.raises(VerificationError, match="charged this run as another event than the plan's"):
        verify_report(sign_report(report, keys["alice"]))


@pytest.mark.parametrize(("runs", "words"), [(slice(2, 3), "the spend of 1 run on"), (slice(0, 3), "of 3 runs on")])
def test_the_reader_is_told_how_many_runs_the_ledger_knows(runs: slice, words: str) -> None:
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    spent = replace(facts.ledger.spent, runs=facts.ledger.spent.runs[runs])
    report = build_report(replace(facts, ledger=replace(facts.ledger, spent=spent)))
    checks = {check.name: check.outcome for check in verify_report(sign_report(report, keys["alice"])).checks}
    assert words in checks["ledger"]


@pytest.mark.parametrize("field", ["order", "delta"])
def test_a_budget_from_which_nothing_can_be_computed_is_refused_by_name(field: str) -> None:
    def change(body: dict) -> None:  # type: ignore[type-arg]  # JSON
        body["ledger"]["budget"][field] = {"order": 1, "delta": "0"}[field]

    data = resigned(participant_report()[1], change, signing_key("alice"))
    with pytest.raises(VerificationError, match="E-REPORT-RECOMPUTE: its figures cannot be computed"):
        verify_report(data)
