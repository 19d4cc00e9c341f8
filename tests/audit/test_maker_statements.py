"""What a report's maker could change and sign again: less than the rounds it took part in, and all of it is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from audit.page import make_page
from audit.statements import LEDGER_STATEMENTS, NOT_SHOWN, STATEMENTS, maker_statements
from audit.text import rendered
from audit.verify import verify_report
from privacy.errors import VerificationError
from privacy.ledger import RunSpend
from privacy.report import build_report, sign_report
from tests.worlds.plans import OPERATOR, signing_key
from tests.worlds.reports import (
    coordinator_report,
    participant_facts,
    participant_report,
    reported_plan,
    resigned,
    text_of,
)

Path = tuple[str | int, ...]


def is_statement(leaf: str) -> bool:
    """Return whether a leaf of a report, "*" for a place in a list, is the maker's statement or not shown."""
    covered = [*NOT_SHOWN, *(leaf for leaves in (STATEMENTS | LEDGER_STATEMENTS).values() for leaf in leaves)]
    return any(leaf == known or leaf.startswith(f"{known}.") for known in covered)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every string, number and truth value of a document with its path."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, name))
    elif value is not None:
        yield path, value


def changed(value: Any) -> list[Any]:
    """Return other values of the same form: one of them must parse, or the leaf has one value alone."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    others = [("1" if value[:1] == "0" else "0") + value[1:], "1" + value, "verified", "unverified", "example", "user"]
    return [other for other in others if other != value]


def put(path: Path, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        inner: Any = body
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = to

    return change


def named(path: Path) -> str:
    return ".".join("*" if isinstance(part, int) else part for part in path)


@pytest.mark.parametrize(
    ("data", "maker"),
    [(coordinator_report()[1], OPERATOR), (participant_report()[1], signing_key("alice"))],
    ids=["coordinator", "participant"],
)
def test_whatever_a_maker_can_change_and_sign_again_is_named_as_the_makers_statement(data: bytes, maker: Any) -> None:
    body = json.loads(data)["body"]
    free = set()
    for path, value in leaves(body):
        if path[0] == "plan":  # a changed plan is not signed by the operator
            continue
        for other in changed(value):
            try:
                verify_report(resigned(data, put(path, other), maker))
            except (VerificationError, ValidationError):
                continue
            free.add(named(path))
    assert {"made_at", "roster", "simulation", "software.*.version"} <= free
    assert not [leaf for leaf in sorted(free) if not is_statement(leaf)]


def test_the_makers_statement_is_on_the_page_and_on_the_terminal() -> None:
    verified = verify_report(participant_report()[1])
    for words in (rendered(verified.report), " ".join(text_of(make_page(verified)))):
        shown = " ".join(words.split())
        assert all(sentence in shown for sentence in maker_statements(verified.report))


def owned(*runs: RunSpend, **changes: Any) -> bytes:
    """Return alice's report whose ledger has other rows for this run than her program wrote."""
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    *others, own = facts.ledger.spent.runs
    rows = runs or ((replace(own, **changes),) if changes else ())
    spent = replace(facts.ledger.spent, runs=(*others, *rows))
    return sign_report(build_report(replace(facts, ledger=replace(facts.ledger, spent=spent))), keys["alice"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "among the survivors of 2 rounds and was charged for 0"),
        ({"rounds": 1}, "among the survivors of 2 rounds and was charged for 1"),
        ({"run_id": "33" * 16}, "another id, plan or delta than the plan's"),
        ({"delta": "0.001"}, "another id, plan or delta than the plan's"),
    ],
    ids=[
        "the run under another population",
        "a part of it under another population",
        "another id",
        "another delta",
    ],
)
def test_no_report_charges_less_than_the_rounds_that_its_maker_took_part_in(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(VerificationError, match=words):
        verify_report(owned(**changes))


def test_two_rows_for_one_run_are_refused() -> None:
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    own = facts.ledger.spent.runs[-1]
    with pytest.raises(VerificationError, match="two rows for this run"):
        verify_report(owned(replace(own, rounds=1), replace(own, rounds=2)))


def test_a_budget_of_another_unit_than_the_plans_is_refused() -> None:
    data = resigned(participant_report()[1], put(("ledger", "budget", "unit"), "user"), signing_key("alice"))
    with pytest.raises(VerificationError, match="the budget is per user, the plan's claim per example"):
        verify_report(data)


def test_a_participant_that_took_part_cannot_leave_its_ledger_out() -> None:
    plan, keys = reported_plan()
    data = sign_report(build_report(replace(participant_facts(plan, keys), ledger=None)), keys["alice"])
    with pytest.raises(VerificationError, match="has a ledger, and left it out"):
        verify_report(data)


def test_without_noise_too_the_ledger_knows_the_run_that_its_owner_took_part_in() -> None:
    plan, keys = reported_plan("none")
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    spent = replace(facts.ledger.spent, runs=facts.ledger.spent.runs[:-1])
    data = sign_report(build_report(replace(facts, ledger=replace(facts.ledger, spent=spent))), keys["alice"])
    with pytest.raises(VerificationError, match="does not know a run that its owner took part in"):
        verify_report(data)


def absent(*runs: RunSpend) -> bytes:
    """Return the report of a participant that took part in no round, with these rows beside those of other runs."""
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    assert facts.ledger is not None
    rounds = tuple(replace(entry, certificate=None) for entry in facts.rounds)
    spent = replace(facts.ledger.spent, runs=(*facts.ledger.spent.runs[:-1], *runs))
    facts = replace(facts, rounds=rounds, evaluations=(), ledger=replace(facts.ledger, spent=spent))
    return sign_report(build_report(facts), keys["alice"])


def test_a_participant_that_took_part_in_no_round_needs_no_row_for_the_run() -> None:
    assert verify_report(absent()).report.made_by.name == "alice"


def test_a_row_of_the_runs_id_under_another_plan_is_refused() -> None:
    ledger = participant_facts(*reported_plan()).ledger
    assert ledger is not None
    other = replace(ledger.spent.runs[-1], plan_hash=b"p" * 32)
    with pytest.raises(VerificationError, match="another id, plan or delta than the plan's"):
        verify_report(absent(other))


def test_a_coordinator_whose_operator_has_the_name_of_a_participant_needs_no_ledger() -> None:
    assert verify_report(coordinator_report(operator="alice")[1]).report.made_by.name == "alice"


def test_a_plan_without_noise_may_name_a_delta_that_no_ledger_charges() -> None:
    report, data = participant_report("none", privacy={"delta": "0.1"})
    assert verify_report(data).report == report
