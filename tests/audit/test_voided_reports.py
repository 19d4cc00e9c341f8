"""Reports of runs in which a round was voided: it is charged, has no certificate, and the history goes on over it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audit.verify import verify_report
from privacy.errors import VerificationError
from privacy.plan_parts import Mode
from privacy.report import build_report, sign_report
from tests.worlds.reports import participant_facts, reported_plan


def with_a_gap(mode: Mode) -> bytes:
    """Return a report in which the first round has no sum, the second has one, and the run ended in the third."""
    plan, keys = reported_plan(mode)
    facts = participant_facts(plan, keys)
    first, *others = facts.rounds
    rounds = (replace(first, certificate=None), *others)
    return sign_report(build_report(replace(facts, rounds=rounds, evaluations=())), keys["alice"])


def test_a_history_goes_on_over_a_voided_round() -> None:
    report = verify_report(with_a_gap("distributed")).report
    assert [entry.certificate is not None for entry in report.rounds] == [False, True, False]


def test_without_noise_no_round_completes_after_one_that_did_not() -> None:
    with pytest.raises(VerificationError, match="a round before it did not, which without noise ends a run"):
        verify_report(with_a_gap("none"))


def test_a_voided_round_is_part_of_the_history_that_a_report_names() -> None:
    report = verify_report(with_a_gap("distributed")).report
    plan, keys = reported_plan("distributed")
    facts = participant_facts(plan, keys)
    whole = build_report(replace(facts, evaluations=()))
    assert report.transcript_sha256 != whole.transcript_sha256
