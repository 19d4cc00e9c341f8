"""A report verifies offline, and no change of it does, not even one that is signed anew."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import schema
from audit.page import make_page
from audit.text import rendered
from audit.verify import parse_report, verify_report
from privacy import canonical
from privacy.dp.events import decimal
from privacy.errors import LocalError, OnlysumError, VerificationError
from privacy.plan_parts import Mode
from privacy.report import build_report, sign_report, signed_report_bytes
from privacy.report_model import Claim, Report
from tests.worlds.plans import OPERATOR, signing_key
from tests.worlds.reports import (
    code_of,
    coordinator_facts,
    coordinator_report,
    measured,
    participant_facts,
    participant_report,
    reported_plan,
    resigned,
    text_of,
)

MODES: tuple[Mode, ...] = ("distributed", "local", "distributed-participant", "none")


@pytest.fixture(scope="module")
def signed() -> bytes:
    return coordinator_report()[1]


@pytest.fixture(scope="module")
def owned() -> bytes:
    return participant_report()[1]


@pytest.mark.parametrize("make", [coordinator_report, participant_report])
@pytest.mark.parametrize("mode", MODES)
def test_a_report_of_every_mode_and_maker_verifies(mode: Mode, make: Callable[[Mode], tuple[Report, bytes]]) -> None:
    report, data = make(mode)
    verified = verify_report(data, expected_key=bytes.fromhex(report.made_by.identity_key))
    assert verified.report == report
    assert verified.key_was_expected
    assert [check.name for check in verified.checks] == [
        "signature", "plan", "maker", "privacy", "ledger", "rounds", "evaluations",
    ]  # fmt: skip


def test_a_coordinator_may_go_by_the_name_of_its_federation() -> None:
    plan, keys = reported_plan()
    report = build_report(replace(coordinator_facts(plan, keys), name=plan.federation))
    verify_report(sign_report(report, OPERATOR))


def test_without_an_expected_key_the_reader_is_told_to_compare(signed: bytes) -> None:
    assert not verify_report(signed).key_was_expected


def test_a_report_by_another_key_than_expected_is_refused(signed: bytes) -> None:
    assert code_of(signed, signing_key("mallory").public) == "E-REPORT-KEY"


def test_no_single_byte_of_a_report_can_be_changed(signed: bytes) -> None:
    chosen = random.Random(7)
    for position in sorted({*range(60), *range(len(signed) - 260, len(signed)), *range(0, len(signed), 97)}):
        changed = bytearray(signed)
        changed[position] ^= 1 << chosen.randrange(8)
        with pytest.raises(VerificationError):
            verify_report(bytes(changed))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_can_be_replaced_removed_or_added(owned: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(owned) - 1))
    value = data.draw(st.integers(0, 255))
    for changed in (
        owned[:position] + bytes([value]) + owned[position + 1 :],
        owned[:position] + owned[position + 1 :],
        owned[:position] + bytes([value]) + owned[position:],
        owned[:position],
    ):
        if changed != owned:
            with pytest.raises(VerificationError):
                verify_report(changed)


@settings(max_examples=50, deadline=None)
@given(junk=st.binary(max_size=300))
def test_junk_is_malformed_and_never_a_crash(junk: bytes) -> None:
    assert code_of(junk) == "E-REPORT-MALFORMED"


def _set(*path: str | int, to: object) -> Callable[[dict[str, Any]], object]:
    def change(body: dict[str, Any]) -> None:
        inner: Any = body
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = to

    return change


def _swap_rounds(body: dict[str, Any]) -> None:
    first, second = body["rounds"][0]["certificate"], body["rounds"][1]["certificate"]
    body["rounds"][0]["certificate"], body["rounds"][1]["certificate"] = second, first


def _drop_signatures(body: dict[str, Any]) -> None:
    body["rounds"][0]["certificate"]["signatures"].pop()


def _repeat_signature(body: dict[str, Any]) -> None:
    signatures = body["rounds"][0]["certificate"]["signatures"]
    signatures[-1] = signatures[0]


def _forget_the_last_round(body: dict[str, Any]) -> None:
    body["rounds"].pop()


def _shave(body: dict[str, Any]) -> None:
    """Make the charged epsilon smaller by a third of a percent, as if another library had computed it."""
    charged = body["privacy"]["charged"]
    charged["epsilon"] = decimal(round(float(charged["epsilon"]) * (1 - 1 / 300), 4))


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a smaller epsilon": (_set("privacy", "charged", "epsilon", to="1"), "E-REPORT-RECOMPUTE"),
    "an epsilon that is hardly smaller": (_shave, "E-REPORT-RECOMPUTE"),
    "a smaller epsilon for outsiders": (_set("privacy", "outsiders", "epsilon", to="0.1"), "E-REPORT-RECOMPUTE"),
    "a smaller group of two": (_set("privacy", "group_of_two", to="1"), "E-REPORT-RECOMPUTE"),
    "more noise relied on": (_set("privacy", "charged", "noise", to=5), "E-REPORT-RECOMPUTE"),
    "fewer charged rounds": (_set("privacy", "charged_rounds", to=1), "E-REPORT-RECOMPUTE"),
    "another event": (
        _set("privacy", "round_event", "event", "noise_multiplier", to="9"), "E-REPORT-RECOMPUTE",
    ),
    "another delta": (_set("privacy", "delta", to="0.001"), "E-REPORT-RECOMPUTE"),
    "another unit": (_set("privacy", "unit", to="user"), "E-REPORT-RECOMPUTE"),
    "no claim where the plan has noise": (
        _set("privacy", to={"kind": "no-differential-privacy", "statement": "no differential privacy"}),
        "E-REPORT-RECOMPUTE",
    ),
    "a plan that the operator did not sign": (_set("plan", "recipe", "title", to="Other"), "E-REPORT-PLAN"),
    "another plan hash": (_set("plan_sha256", to="00" * 32), "E-REPORT-PLAN"),
    "an operator's signature of something else": (_set("operator_signature", to="00" * 64), "E-REPORT-PLAN"),
    "a maker that the plan does not know": (_set("made_by", "name", to="Somebody"), "E-REPORT-PLAN"),
    "a round left out": (_forget_the_last_round, "E-REPORT-RECOMPUTE"),
    "rounds in another order": (_swap_rounds, "E-REPORT-TRANSCRIPT"),
    "too few signatures": (_drop_signatures, "E-REPORT-TRANSCRIPT"),
    "one signature twice": (_repeat_signature, "E-REPORT-TRANSCRIPT"),
    "a forged signature": (
        _set("rounds", 0, "certificate", "signatures", 0, "signature", to="00" * 64), "E-REPORT-TRANSCRIPT",
    ),
    "another sum": (_set("rounds", 0, "certificate", "sum_sha256", to="00" * 32), "E-REPORT-TRANSCRIPT"),
    "another transcript": (_set("transcript_sha256", to="00" * 32), "E-REPORT-TRANSCRIPT"),
    "a dropout kept quiet": (_set("rounds", 1, "dropouts", to=[]), "E-REPORT-TRANSCRIPT"),
    "an attempt kept quiet": (_set("rounds", 1, "attempts", to=1), "E-REPORT-TRANSCRIPT"),
    "more attempts than the plan has": (_set("rounds", 2, "attempts", to=99), "E-REPORT-TRANSCRIPT"),
    "a better accuracy": (_set("evaluations", 2, "metrics", 0, "value", to="0.999"), "E-REPORT-EVALUATION"),
    "an unknown evaluator": (_set("evaluations", 0, "evaluator", to="friend"), "E-REPORT-EVALUATION"),
}  # fmt: skip


@pytest.mark.parametrize(("lie", "code"), LIES.values(), ids=LIES.keys())
def test_even_the_operator_cannot_sign_a_report_with(
    lie: Callable[[dict[str, Any]], object], code: str, signed: bytes
) -> None:
    assert code_of(resigned(signed, lie)) == code


OWNED_LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a smaller lifetime spend": _set("ledger", "lifetime_epsilon", to="0.5"),
    "a smaller spend of an earlier run": _set("ledger", "runs", 0, "epsilon", to="0.1"),
    "fewer charged rounds": _set("ledger", "runs", 2, "rounds", to=1),
    "this run charged as something cheaper": _set("ledger", "runs", 2, "event", "event", "noise_multiplier", to="9"),
}


@pytest.mark.parametrize("lie", OWNED_LIES.values(), ids=OWNED_LIES.keys())
def test_even_the_owner_cannot_sign_a_ledger_with(lie: Callable[[dict[str, Any]], object], owned: bytes) -> None:
    assert code_of(resigned(owned, lie, signing_key("alice"))) == "E-REPORT-RECOMPUTE"


def test_what_is_not_protected_is_said_by_the_readers_own_program(signed: bytes) -> None:
    quiet = resigned(signed, _set("not_protected", to=[]))
    verified = verify_report(quiet)
    assert verified.report.not_protected == ()
    for words in (rendered(verified.report), " ".join(text_of(make_page(verified)))):
        assert "Availability: anyone on the roster can stop a round" in " ".join(words.split())


def test_a_report_whose_key_field_is_somebody_elses_is_refused(signed: bytes) -> None:
    document = json.loads(signed)
    mallory = signing_key("mallory")
    document["key"] = mallory.public.hex()
    document["signature"] = mallory.sign(signed_report_bytes(parse_report(signed).body)).hex()
    assert code_of(canonical.encode(document)) == "E-REPORT-SIGNATURE"


def test_unknown_fields_and_unknown_events_are_refused(signed: bytes) -> None:
    for path, value in (("note", "x"), ("privacy", {"kind": "trust-me"})):
        document = json.loads(signed)
        document["body"][path] = value
        assert code_of(canonical.encode(document)) == "E-REPORT-MALFORMED"
    document = json.loads(signed)
    document["body"]["privacy"]["round_event"] = {"kind": "magic"}
    assert code_of(canonical.encode(document)) == "E-REPORT-MALFORMED"


def test_only_the_named_key_signs_a_report() -> None:
    report, _ = coordinator_report()
    with pytest.raises(LocalError) as caught:
        sign_report(report, signing_key("mallory"))
    assert caught.value.code == "E-BUG"


def test_a_run_that_never_started_a_round_spends_nothing() -> None:
    plan, keys = reported_plan()
    facts = replace(coordinator_facts(plan, keys), rounds=(), evaluations=(measured(plan, 0, 100),))
    report = build_report(facts)
    assert isinstance(report.privacy, Claim)
    assert (report.privacy.charged.epsilon, report.privacy.curve) == ("0", ())
    assert float(report.privacy.planned_epsilon) > 0
    verify_report(sign_report(report, OPERATOR))


def test_a_participant_that_abstained_charges_fewer_rounds_than_were_started() -> None:
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    *others, own = facts.ledger.spent.runs
    spent = replace(facts.ledger.spent, runs=(*others, replace(own, rounds=2)))
    report = build_report(replace(facts, ledger=replace(facts.ledger, spent=spent)))
    assert isinstance(report.privacy, Claim)
    assert report.privacy.charged_rounds == 2
    verify_report(sign_report(report, keys["alice"]))


def test_the_three_epsilons_are_ordered_by_trust() -> None:
    claim = coordinator_report()[0].privacy
    assert isinstance(claim, Claim)
    figures = [float(outsider.epsilon) for outsider in (claim.outsiders, claim.charged, claim.all_others)]
    assert figures == sorted(figures)
    assert figures[0] < figures[2]
    assert float(claim.group_of_two) > float(claim.charged.epsilon) > float(claim.round_epsilon)


def test_mode_none_says_so_and_has_no_epsilon() -> None:
    data = coordinator_report("none")[1]
    assert json.loads(data)["body"]["privacy"] == {
        "kind": "no-differential-privacy",
        "statement": "no differential privacy",
    }


def test_the_published_schema_is_that_of_the_model() -> None:
    assert schema.FILE.read_text() == schema.generated()


@pytest.mark.parametrize("mode", MODES)
def test_reports_fit_the_published_schema(mode: Mode) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema.FILE.read_text()))
    for make in (coordinator_report, participant_report):
        validator.validate(json.loads(make(mode)[1]))


@pytest.mark.parametrize("word", ["anonymous", "anonymised", "compliant", "compliance"])
def test_a_report_promises_nothing_that_it_cannot_keep(word: str, owned: bytes) -> None:
    assert word not in owned.decode().lower()


def test_a_report_is_the_same_bytes_each_time() -> None:
    assert coordinator_report()[1] == coordinator_report()[1]


def test_every_refusal_has_an_explanation(signed: bytes) -> None:
    with pytest.raises(OnlysumError) as caught:
        verify_report(signed[:-1])
    assert caught.value.explanation.next_step
