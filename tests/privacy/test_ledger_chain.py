"""The ledger as values: the chain shows every change, and spend is what the charges say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from privacy import canonical, ledger
from privacy.dp import rdp
from privacy.dp.accountants import epsilon
from privacy.dp.events import Composed, Event, Gaussian, PoissonSampled
from privacy.errors import RefusedError, VerificationError
from privacy.ledger import LifetimeBudget, Record
from privacy.ledger_entries import Charge, Entry, Genesis, PolicyChange, Unprotected, entry_from_json, entry_to_json
from tests.worlds.plans import signing_key

KEY = signing_key("alice")
MEMBER = signing_key("alice").public
EVENT: Event = PoissonSampled(0.1, Gaussian(2.0))
BUDGET = LifetimeBudget(unit="example", epsilon=8.0, delta=1e-6, order=8)
GENESIS = Genesis(owner="alice", key=KEY.public)


def charge(number: int, plan: bytes = b"p" * 32, **changes: Any) -> Charge:
    made = Charge(
        run_id="00" * 16,
        plan_hash=plan,
        round=number,
        population="patients",
        unit="example",
        relation="zero-out",
        event=EVENT,
        delta="0.00001",
    )
    return replace(made, **changes)


def chain(*entries: Entry) -> list[Record]:
    records: list[Record] = []
    for entry in entries:
        records.append(ledger.append(records[-1] if records else None, entry, at=7, key=KEY))
    return records


RECORDS = chain(
    GENESIS, charge(1), charge(2), PolicyChange(member=MEMBER, policy_sha256=b"1" * 32, summary="x"), charge(3)
)

BROKEN: dict[str, Callable[[list[Record]], list[Record]]] = {
    "nothing at all": lambda records: [],
    "a first record missing": lambda records: records[1:],
    "a record missing in the middle": lambda records: [*records[:2], *records[3:]],
    "two records exchanged": lambda records: [records[0], records[2], records[1], *records[3:]],
    "a record twice": lambda records: [*records[:2], *records[1:]],
    "a cheaper event": lambda records: [
        records[0],
        replace(records[1], entry=charge(1, event=Gaussian(100.0))),
        *records[2:],
    ],
    "another time": lambda records: [*records[:-1], replace(records[-1], at=8)],
    "no signature": lambda records: [*records[:-1], replace(records[-1], signature=b"")],
    "an older record without its signature": lambda records: [
        records[0],
        replace(records[1], signature=bytes(64)),
        *records[2:],
    ],
    "a last record signed by another key": lambda records: [
        *records[:-1],
        ledger.append(records[-2], charge(3), at=7, key=signing_key("mallory")),
    ],
    "a beginning that names another owner": lambda records: chain(replace(GENESIS, key=signing_key("bob").public)),
    "a second beginning": lambda records: chain(GENESIS, charge(1), GENESIS),
    "a beginning that is a charge": lambda records: chain(charge(1)),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_chain_does_not_verify_with(broken: Callable[[list[Record]], list[Record]]) -> None:
    ledger.verify_chain(RECORDS, key=KEY.public)
    with pytest.raises(VerificationError) as caught:
        ledger.verify_chain(broken(list(RECORDS)), key=KEY.public)
    assert caught.value.code == "E-STATE-DAMAGED"


@pytest.mark.parametrize(
    "entry",
    [
        GENESIS,
        PolicyChange(member=MEMBER, policy_sha256=b"1" * 32, summary="budget"),
        charge(1),
        charge(9, event=Composed(EVENT, 5)),
        Unprotected(run_id="11" * 16, plan_hash=b"n" * 32, population="patients"),
    ],
)
def test_every_entry_reads_back_from_its_canonical_form(entry: Entry) -> None:
    value = canonical.decode(canonical.encode(entry_to_json(entry)))
    assert isinstance(value, dict)
    assert entry_from_json(value) == entry
    for name in value:
        without = {key: one for key, one in value.items() if key != name}
        with pytest.raises(ValueError, match=r".+"):
            entry_from_json(without)
    with pytest.raises(ValueError, match=r".+"):
        entry_from_json({**value, "note": "x"})


def test_an_entry_holds_no_epsilon_and_nothing_of_a_batch() -> None:
    text = canonical.encode(entry_to_json(charge(1))).decode()
    assert "epsilon" not in text
    assert "batch" not in text


def test_spend_is_kept_by_population_and_run() -> None:
    note = Unprotected(run_id="11" * 16, plan_hash=b"n" * 32, population="patients")
    records = chain(
        GENESIS, charge(1), charge(1, b"q" * 32), charge(2), charge(1, b"r" * 32, population="customers"), note
    )
    spent = ledger.spent_by_population(records)
    assert sorted(spent) == ["customers", "patients"]
    assert [(run.plan_hash[:1], run.rounds) for run in spent["patients"].runs] == [(b"p", 2), (b"q", 1), (b"n", 0)]
    assert spent["patients"].events == (Composed(EVENT, 2), Composed(EVENT, 1))
    assert spent["patients"].unprotected == ("11" * 16,)
    step_by_step: dict[str, ledger.Spent] = {}
    for record in records:
        step_by_step = ledger.spent_by_population([record], before=step_by_step)
    assert step_by_step == spent


def test_lifetime_spend_is_an_upper_bound_of_the_tight_figure() -> None:
    spent = ledger.nothing_spent("patients")
    assert spent.lifetime_epsilon(BUDGET) == 0.0
    for number in range(1, 41):
        spent = spent.with_charge(charge(number))
    assert spent.lifetime_epsilon(BUDGET) >= epsilon(spent.events, BUDGET.delta)
    assert spent.lifetime_epsilon(BUDGET) == rdp.to_epsilon(40 * rdp.composed(EVENT, 8), 8, BUDGET.delta)


def test_a_charge_fits_exactly_as_long_as_the_filter_holds() -> None:
    spent, number = ledger.nothing_spent("patients"), 1
    most = int(BUDGET.divergence / rdp.composed(EVENT, BUDGET.order))
    while number <= most:
        spent = ledger.require_budget(spent, charge(number), budget=BUDGET, max_rounds=10**6)
        number += 1
    with pytest.raises(RefusedError) as caught:
        ledger.require_budget(spent, charge(number), budget=BUDGET, max_rounds=10**6)
    assert caught.value.code == "E-POLICY-BUDGET"
    assert spent.lifetime_epsilon(BUDGET) <= BUDGET.epsilon < spent.with_charge(charge(number)).lifetime_epsilon(BUDGET)


def test_a_budget_too_small_for_its_order_allows_nothing() -> None:
    tiny = replace(BUDGET, epsilon=0.01)
    with pytest.raises(RefusedError):
        ledger.require_budget(ledger.nothing_spent("patients"), charge(1), budget=tiny, max_rounds=9)


@pytest.mark.parametrize("changes", [{"unit": "user"}, {"relation": "other"}, {"event": Gaussian(9.0)}])
def test_what_cannot_be_added_is_refused(changes: dict[str, Any]) -> None:
    spent = ledger.nothing_spent("patients").with_charge(charge(1))
    with pytest.raises(RefusedError) as caught:
        spent.with_charge(charge(2, **changes))
    assert caught.value.code == "E-LEDGER-UNIT"


def test_a_chain_that_mixes_units_is_damaged_however_well_signed() -> None:
    with pytest.raises(VerificationError) as caught:
        ledger.spent_by_population(chain(GENESIS, charge(1), charge(2, unit="user")))
    assert caught.value.code == "E-STATE-DAMAGED"


def test_the_order_of_the_first_charge_stays_whatever_later_ones_say() -> None:
    first = ledger.nothing_spent("patients").with_charge(charge(1, order=8))
    assert first.with_charge(charge(2, order=2)).order == 8


def test_an_export_is_checked_with_the_key_that_is_asked_for_and_not_with_the_one_that_it_names() -> None:
    data = ledger.export(RECORDS)
    assert ledger.verify_export(data) == tuple(RECORDS)
    with pytest.raises(VerificationError):
        ledger.verify_export(data, key=signing_key("mallory").public)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"ledger_version":2,"records":[]}', b"\xff"])
def test_an_export_that_is_none_is_damaged(data: bytes) -> None:
    with pytest.raises(VerificationError):
        ledger.verify_export(data, key=KEY.public)


def test_an_export_reads_back_and_no_record_may_say_more_less_or_something_else() -> None:
    data = ledger.export(RECORDS)
    assert ledger.verify_export(data, key=KEY.public) == tuple(RECORDS)
    whole = json.loads(data)
    for change, words in (
        ({"note": "x"}, "unknown or missing fields"),
        ({"at": "now"}, "unknown or missing fields"),
        ({"previous": "zz"}, "does not parse"),
        ({"signature": "zz"}, "does not parse"),
        ({"entry": {"kind": "magic"}}, "does not parse"),
    ):
        rows = [*whole["records"][:2], {**whole["records"][2], **change}, *whole["records"][3:]]
        with pytest.raises(VerificationError, match=words):
            ledger.verify_export(canonical.encode({**whole, "records": rows}), key=KEY.public)


def test_an_export_has_one_form_so_that_no_byte_of_it_can_be_changed() -> None:
    data = ledger.export(RECORDS)
    digits = RECORDS[1].signature.hex().encode()
    assert digits.upper() != digits
    more = canonical.encode({**json.loads(data), "note": "x"})
    for changed in (data.replace(digits, digits.upper()), more):
        with pytest.raises(VerificationError, match="not written as a daemon writes it"):
            ledger.verify_export(changed, key=KEY.public)


def test_a_record_is_read_from_its_body_and_signature_and_from_nothing_else() -> None:
    last = RECORDS[-1]
    assert ledger.parse_record(last.body, last.signature) == last
    for body, words in ((b"{", "does not parse"), (b"[]", "is no object"), (b"{}", "unknown or missing fields")):
        with pytest.raises(VerificationError, match=words):
            ledger.parse_record(body, last.signature)


def test_the_last_signature_covers_those_before_it_and_is_always_looked_at() -> None:
    """A daemon that opens its ledger each time need not verify thousands of signatures."""
    older = [RECORDS[0], replace(RECORDS[1], signature=bytes(64)), *RECORDS[2:]]
    ledger.verify_chain(older, key=KEY.public, every_signature=False)
    last = [*RECORDS[:-1], replace(RECORDS[-1], signature=bytes(64))]
    with pytest.raises(VerificationError, match="record 5 is not signed by the ledger's key"):
        ledger.verify_chain(last, key=KEY.public, every_signature=False)
    changed = [RECORDS[0], replace(RECORDS[1], at=8), *RECORDS[2:]]
    with pytest.raises(VerificationError, match="record 3 does not follow"):
        ledger.verify_chain(changed, key=KEY.public, every_signature=False)


def test_a_budget_of_another_unit_pays_for_nothing() -> None:
    with pytest.raises(RefusedError, match="E-LEDGER-UNIT: the budget of patients is per user"):
        ledger.require_budget(
            ledger.nothing_spent("patients"), charge(1), budget=replace(BUDGET, unit="user"), max_rounds=9
        )


def test_a_run_is_charged_for_no_more_rounds_than_it_has_whatever_other_runs_had() -> None:
    spent = ledger.nothing_spent("patients")
    for number in range(1, 4):
        spent = ledger.require_budget(spent, charge(number, b"q" * 32), budget=BUDGET, max_rounds=3)
    for number in range(1, 3):
        spent = ledger.require_budget(spent, charge(number), budget=BUDGET, max_rounds=2)
    with pytest.raises(RefusedError, match="was charged for all of its 2 rounds"):
        ledger.require_budget(spent, charge(3), budget=BUDGET, max_rounds=2)


@pytest.mark.parametrize("version", [1, 3])
def test_an_export_of_another_version_is_said_to_be_one(version: int) -> None:
    whole: Any = canonical.decode(ledger.export(RECORDS))
    with pytest.raises(VerificationError, match="not an exported ledger of version 2"):
        ledger.verify_export(canonical.encode({**whole, "ledger_version": version}))
