"""The entry for the OpenDP Deployments Registry: valid against its schema, and nothing but what the report says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import yaml

from audit import registry
from audit.verify import verify_report
from privacy.errors import RefusedError
from privacy.plan_parts import Mode
from privacy.report import build_report, sign_report
from privacy.report_model import Claim
from tests.worlds.plans import OPERATOR
from tests.worlds.reports import coordinator_facts, coordinator_report, participant_report, reported_plan
from tests.worlds.shared_data import shared_data

MODES: tuple[Mode, ...] = ("distributed", "local", "distributed-participant")


def entry(data: bytes) -> Any:
    return yaml.safe_load(registry.render(verify_report(data)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [coordinator_report, participant_report])
def test_an_entry_keeps_the_registrys_own_schema(make: Any, mode: Mode) -> None:
    schema = yaml.safe_load(shared_data("dp-registry/deployments-schema.yaml").read_text())
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    validator.validate(entry(make(mode)[1]))


def test_an_entry_states_the_charged_epsilon_and_is_a_draft() -> None:
    report, data = participant_report()
    found = entry(data)
    assert found["status"] == "Draft"
    assert isinstance(report.privacy, Claim)
    parameters = found["deployment"]["privacy_loss"]["privacy_parameters"]
    assert parameters == {"epsilon": float(report.privacy.charged.epsilon), "delta": 1e-5}
    assert found["deployment"]["basic"]["publication_date"] == "2026-01-01"


def test_what_the_report_cannot_know_is_left_to_the_curator() -> None:
    basic = entry(coordinator_report()[1])["deployment"]["basic"]
    assert basic["data_product_region"] == registry.UNKNOWN


def test_text_that_people_wrote_is_no_markdown_and_no_yaml() -> None:
    written = {"title": "[x](javascript:y) <b> $z$", "purpose": "a: b\n- c # d"}
    basic = entry(coordinator_report(recipe=written)[1])["deployment"]["basic"]
    assert basic["name"] == r"\[x\]\(javascript:y\) \<b\> \$z\$"
    assert basic["intended_use"] == "a: b\n- c \\# d"


def test_a_run_without_a_claim_is_no_deployment() -> None:
    with pytest.raises(RefusedError, match="no differential privacy") as caught:
        registry.render(verify_report(coordinator_report("none")[1]))
    assert caught.value.code == "E-REPORT-NO-CLAIM"


def test_a_simulation_is_no_deployment() -> None:
    plan, keys = reported_plan()
    report = build_report(replace(coordinator_facts(plan, keys), simulation=True))
    with pytest.raises(RefusedError, match="simulation"):
        registry.render(verify_report(sign_report(report, OPERATOR)))
