"""Reports of measurements: the numbers are the sum's, or the report is refused; figures are the reader's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from audit import registry
from audit.measurement import measured_figures, measured_words
from audit.page import make_page
from audit.text import rendered
from audit.verify import verify_report
from privacy.plan import Plan, measured_step
from privacy.report import ReportFacts, RoundFacts, build_report, sign_report
from privacy.report_model import Report
from privacy.secagg.hashes import sum_hash
from tests.worlds.measuring import measuring_plan
from tests.worlds.plans import OPERATOR, signing_key
from tests.worlds.reports import (
    certificate,
    code_of,
    coordinator_facts,
    coordinator_report,
    participant_facts,
    resigned,
    text_of,
)

METRICS = ("accuracy", "histogram")


def facts(plan: Plan, *, missing: tuple[str, ...] = ("carol",), owner: bool = False) -> ReportFacts:
    keys = {member.id: signing_key(member.id) for member in plan.roster}
    total = [place * measured_step(plan.privacy, plan.encoding, plan.recipe.entries) for place in (100, 80, *range(10))]
    words = plan.layout(1).encode(np.array(total, dtype=np.int64), 1)
    signed = replace(certificate(plan, keys, 1, missing=missing), sum_hash=sum_hash(words.tobytes()))
    made = participant_facts(plan, keys, charged=1) if owner else coordinator_facts(plan, keys)
    rounds = (RoundFacts(round=1, attempts=1, certificate=signed),)
    return replace(made, rounds=rounds, evaluations=(), measured=total)


def signed(**changes: Any) -> tuple[Report, bytes]:
    owner = changes.pop("owner", False)
    report = build_report(replace(facts(measuring_plan(METRICS), owner=owner), **changes))
    return report, sign_report(report, signing_key("alice") if owner else OPERATOR)


@pytest.mark.parametrize("owner", [False, True])
def test_a_measurements_report_verifies_and_shows_its_figures(owner: bool) -> None:
    report, data = signed(owner=owner)
    verified = verify_report(data)
    assert verified.checks[-1].name == "measurement"
    assert verified.checks[-1].outcome == "12 numbers are the sum of 4 participants that the certificate names"
    figures = measured_figures(report)
    assert {figure.metric: figure.value for figure in figures[:2]} == {"count": 100.0, "accuracy": 0.8}
    for word in measured_words(report):
        assert word in rendered(report)
    shown = list(text_of(make_page(verified)))
    assert "What was measured" in shown
    assert "0.8" in shown
    assert "measured tiny-vit with an adapter on their own data" in rendered(report)
    assert "Summary statistics" in registry.render(verified)


Change = Callable[[dict[str, Any]], object]
RECOMPUTE, TRANSCRIPT = "E-REPORT-RECOMPUTE", "E-REPORT-TRANSCRIPT"
BAD: dict[str, tuple[str, Change]] = {
    "another number": (RECOMPUTE, lambda body: body["measured"].__setitem__(1, body["measured"][1] + 1)),
    "a number less": (RECOMPUTE, lambda body: body["measured"].pop()),
    "none of them": (RECOMPUTE, lambda body: body.pop("measured")),
    "a number that is the same in its word": (
        RECOMPUTE, lambda body: body["measured"].__setitem__(1, body["measured"][1] + 2**32)
    ),
    "a number beyond all words": (RECOMPUTE, lambda body: body["measured"].__setitem__(1, 2**53 - 2)),
    "another sum in the certificate": (
        TRANSCRIPT, lambda body: body["rounds"][0]["certificate"].__setitem__("sum_sha256", "ab" * 32)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "change"), BAD.values(), ids=BAD.keys())
def test_a_report_that_is_signed_anew_is_refused_with(code: str, change: Change) -> None:
    assert code_of(resigned(signed()[1], change)) == code


def test_a_participant_that_never_got_the_sum_has_a_report_that_says_so() -> None:
    report, data = signed(owner=True, measured=())
    assert verify_report(data).checks[-1].outcome == "the sum is not in this report; the coordinator's has it"
    assert measured_figures(report) == ()


def test_without_a_completed_round_nothing_was_measured() -> None:
    failed = (RoundFacts(round=1, attempts=3, certificate=None),)
    data = signed(rounds=failed, measured=())[1]
    assert verify_report(data).checks[-1].outcome == "no round was completed, so nothing was measured"
    assert code_of(signed(rounds=failed)[1]) == "E-REPORT-RECOMPUTE"


def test_a_report_of_training_has_no_measurement_and_none_can_be_put_in() -> None:
    data = coordinator_report()[1]
    assert b"measured" not in data
    assert code_of(resigned(data, lambda body: body.__setitem__("measured", [1]))) == "E-REPORT-RECOMPUTE"
