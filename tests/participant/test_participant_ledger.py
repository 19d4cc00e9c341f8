"""The ledger on disk: append-only, charged once, and damage shows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from participant.owner.ledger import Ledger
from privacy import ledger as pure
from privacy.errors import LocalError, OnlysumError, RefusedError, VerificationError
from privacy.ledger import LifetimeBudget
from privacy.ledger_entries import Charge, PolicyChange, Unprotected
from protos.envelope import LedgerHead
from tests.worlds.charges import CHARGE
from tests.worlds.plans import signing_key

KEY = signing_key("alice")
MEMBER = signing_key("alice").public
AT = 1_767_225_600
BUDGET = LifetimeBudget(unit="example", epsilon=8.0, delta=1e-6, order=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    made = Ledger.create(path, owner="alice", key=KEY, member=MEMBER, at=AT)
    yield made
    made.close()


def charge(ledger: Ledger, number: int = 1, **changes: Any) -> pure.Record:
    asked = replace(CHARGE, round=number, **changes)
    return ledger.charge(asked, budget=BUDGET, max_rounds=100, at=AT + number).record


def fits(ledger: Ledger, budget: LifetimeBudget, asked: Charge) -> bool:
    try:
        return ledger.charge(asked, budget=budget, max_rounds=1000, at=AT).new
    except RefusedError as error:
        if error.code != "E-POLICY-BUDGET":
            raise
        return False


def reopen(path: Path, expected: LedgerHead | None = None) -> Ledger:
    return Ledger.open(path, key=KEY, member=MEMBER, expected=expected)


def tamper(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as database:
        for name in ("records_are_never_changed", "records_are_never_removed"):
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
    database.close()


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(OnlysumError) as caught:
        call()
    return caught.value.code


def test_a_charge_is_there_after_reopening(ledger: Ledger, path: Path) -> None:
    charge(ledger)
    head = ledger.head()
    ledger.close()
    again = reopen(path, expected=head)
    assert again.head() == head
    assert head.sequence == 2
    assert again.has_signed(head)
    assert again.spent("patients").runs[0].rounds == 1
    assert again.verify() == 2
    again.close()


def test_a_ledger_file_is_readable_by_its_owner_alone(ledger: Ledger, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_ledger_is_never_begun_anew(ledger: Ledger, path: Path) -> None:
    assert code_of(lambda: Ledger.create(path, owner="alice", key=KEY, member=MEMBER, at=AT)) == "E-EXISTS"


def test_a_missing_ledger_is_not_made_by_opening_it(path: Path) -> None:
    assert code_of(lambda: reopen(path)) == "E-STATE-DAMAGED"
    assert not path.exists()


def test_a_retry_of_a_round_is_never_charged_twice(ledger: Ledger, path: Path) -> None:
    first = ledger.charge(CHARGE, budget=BUDGET, max_rounds=100, at=AT)
    second = ledger.charge(CHARGE, budget=BUDGET, max_rounds=100, at=AT + 60)
    assert (first.new, second.new) == (True, False)
    assert first.record == second.record
    assert len(ledger.rows()) == 2
    other = reopen(path)
    assert not other.charge(CHARGE, budget=BUDGET, max_rounds=100, at=AT + 90).new
    other.close()


def test_a_retry_that_names_another_population_is_refused(ledger: Ledger) -> None:
    charge(ledger)
    assert code_of(lambda: charge(ledger, population="customers")) == "E-LEDGER-UNIT"


def test_a_run_is_charged_to_one_population_from_its_first_round_to_its_last(ledger: Ledger) -> None:
    charge(ledger)
    assert code_of(lambda: charge(ledger, 2, population="customers")) == "E-LEDGER-POPULATION"
    assert ledger.spent("customers").runs == ()
    assert ledger.populations_of_run(CHARGE.plan_hash) == ("patients",)


def test_a_run_without_noise_is_noted_for_one_population(ledger: Ledger) -> None:
    note = Unprotected(run_id="00" * 16, plan_hash=b"n" * 32, population="patients")
    ledger.note_unprotected(note, at=AT)
    assert code_of(lambda: ledger.note_unprotected(replace(note, population="customers"), at=AT)) == (
        "E-LEDGER-POPULATION"
    )


@pytest.mark.parametrize("changes", [{"run_id": "11" * 16}, {"delta": "0.001"}])
def test_rounds_of_one_run_have_one_id_and_one_delta(ledger: Ledger, changes: dict[str, Any]) -> None:
    charge(ledger)
    assert code_of(lambda: charge(ledger, 2, **changes)) == "E-LEDGER-UNIT"


@pytest.mark.parametrize("changes", [{"unit": "user"}, {"relation": "replace-one"}])
def test_another_unit_or_relation_is_not_added_to_a_population(ledger: Ledger, changes: dict[str, Any]) -> None:
    charge(ledger)
    budget = replace(BUDGET, unit=changes.get("unit", "example"))
    asked = replace(CHARGE, round=1, plan_hash=b"q" * 32, **changes)
    assert code_of(lambda: ledger.charge(asked, budget=budget, max_rounds=9, at=AT)) == "E-LEDGER-UNIT"
    assert len(ledger.rows()) == 2


def test_a_budget_of_another_unit_charges_nothing(ledger: Ledger) -> None:
    budget = replace(BUDGET, unit="user")
    assert code_of(lambda: ledger.charge(CHARGE, budget=budget, max_rounds=9, at=AT)) == "E-LEDGER-UNIT"


def test_a_charge_beyond_the_budget_is_refused_and_writes_nothing(ledger: Ledger) -> None:
    budget = replace(BUDGET, epsilon=3.0)
    number = 1
    while number < 1000 and fits(ledger, budget, replace(CHARGE, round=number)):
        number += 1
    assert 1 < number == len(ledger.rows()) < 1000
    assert ledger.spent("patients").lifetime_epsilon(budget) <= 3.0


def test_two_runs_on_one_population_share_its_budget(ledger: Ledger) -> None:
    budget = replace(BUDGET, epsilon=3.0)
    alone = 0
    while alone < 1000 and fits(ledger, budget, replace(CHARGE, round=alone + 1)):
        alone += 1
    assert 1 < alone < 1000
    assert not fits(ledger, budget, replace(CHARGE, round=1, plan_hash=b"q" * 32))
    assert fits(ledger, budget, replace(CHARGE, round=1, plan_hash=b"q" * 32, population="customers"))


def test_a_run_is_not_charged_for_more_rounds_than_its_plan_has(ledger: Ledger) -> None:
    for number in (1, 2):
        ledger.charge(replace(CHARGE, round=number), budget=BUDGET, max_rounds=2, at=AT)
    asked = replace(CHARGE, round=3)
    assert code_of(lambda: ledger.charge(asked, budget=BUDGET, max_rounds=2, at=AT)) == "E-POLICY-BUDGET"


def test_rows_can_be_neither_changed_nor_removed(ledger: Ledger, path: Path) -> None:
    charge(ledger)
    with sqlite3.connect(path) as database:
        for statement in ("UPDATE records SET round = 7", "DELETE FROM records WHERE sequence = 2"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)
    database.close()


DAMAGE = {
    "a changed body": (
        "UPDATE records SET body = CAST(replace(CAST(body AS TEXT), 'patients', 'others') AS BLOB) WHERE round = 1",
    ),
    "a changed hash": ("UPDATE records SET hash = zeroblob(32) WHERE sequence = 3",),
    "a changed round column": ("UPDATE records SET round = 9 WHERE sequence = 3",),
    "a changed last signature": ("UPDATE records SET signature = zeroblob(64) WHERE sequence = 4",),
    "a record taken out of the middle": ("DELETE FROM records WHERE sequence = 3",),
    "a first record taken out": ("DELETE FROM records WHERE sequence = 1",),
    "all records taken out": ("DELETE FROM records",),
    "a body that does not parse": ("UPDATE records SET body = x'7b' WHERE sequence = 2",),
    "another table": ("DROP TABLE records",),
}


@pytest.mark.parametrize("statements", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_when_the_ledger_is_opened(ledger: Ledger, path: Path, statements: tuple[str, ...]) -> None:
    for number in (1, 2, 3):
        charge(ledger, number)
    ledger.close()
    tamper(path, *statements)
    assert code_of(lambda: reopen(path)) == "E-STATE-DAMAGED"


@pytest.mark.parametrize("keep", [0, 100, 4096, 9000])
def test_a_cut_file_is_damaged(ledger: Ledger, path: Path, keep: int) -> None:
    for number in range(1, 30):
        charge(ledger, number)
    ledger.close()
    data = path.read_bytes()
    assert len(data) > keep
    path.write_bytes(data[:keep])
    assert code_of(lambda: reopen(path)) == "E-STATE-DAMAGED"


def test_a_file_of_noise_is_damaged(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    assert code_of(lambda: reopen(path)) == "E-STATE-DAMAGED"


def test_an_older_signature_damaged_in_the_middle_is_found_by_verify(ledger: Ledger, path: Path) -> None:
    for number in (1, 2):
        charge(ledger, number)
    ledger.close()
    tamper(path, "UPDATE records SET signature = zeroblob(64) WHERE sequence = 2")
    opened = reopen(path)
    assert code_of(opened.verify) == "E-STATE-DAMAGED"
    opened.close()


def test_a_ledger_of_another_key_is_damaged(ledger: Ledger, path: Path) -> None:
    ledger.close()
    assert code_of(lambda: Ledger.open(path, key=signing_key("mallory"), member=MEMBER)) == "E-STATE-DAMAGED"


def test_a_ledger_that_was_set_back_is_refused_by_a_head_that_others_have_seen(ledger: Ledger, path: Path) -> None:
    charge(ledger, 1)
    ledger.close()
    old = path.read_bytes()
    newer = reopen(path)
    charge(newer, 2)
    head = newer.head()
    newer.close()
    path.write_bytes(old)
    assert code_of(lambda: reopen(path, expected=head)) == "E-LEDGER-ROLLBACK"
    branch = reopen(path)
    charge(branch, 7)
    assert code_of(lambda: branch.require_at_least(head)) == "E-LEDGER-ROLLBACK"
    branch.require_at_least(LedgerHead(0, b""))
    branch.close()


def test_a_full_disk_charges_nothing_and_goes_on_when_there_is_space(ledger: Ledger) -> None:
    (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
    ledger._database.execute(f"PRAGMA max_page_count = {pages}")
    code, number = "", 0
    while not code and number < 100:
        number += 1
        try:
            charge(ledger, number)
        except LocalError as error:
            code = error.code
    assert code == "E-DISK-FULL"
    written = len(ledger.rows())
    ledger._database.execute("PRAGMA max_page_count = 100000")
    charge(ledger, number)
    assert len(ledger.rows()) == written + 1
    assert ledger.verify() == written + 1


def test_a_disk_that_is_full_at_creation_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Ledger, entry: object, *, at: int) -> None:
        raise LocalError("E-DISK-FULL", "no space")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "_append", full)
        assert code_of(lambda: Ledger.create(path, owner="alice", key=KEY, member=MEMBER, at=AT)) == "E-DISK-FULL"
    assert not path.exists()
    Ledger.create(path, owner="alice", key=KEY, member=MEMBER, at=AT).close()


def test_policy_changes_and_unprotected_runs_are_noted_once(ledger: Ledger) -> None:
    change = PolicyChange(member=MEMBER, policy_sha256=b"1" * 32, summary="budget of patients is 8")
    note = Unprotected(run_id="11" * 16, plan_hash=b"n" * 32, population="patients")
    for _ in range(2):
        ledger.note_policy(change, at=AT)
        ledger.note_unprotected(note, at=AT)
    assert len(ledger.rows()) == 3
    assert ledger.spent("patients").unprotected == ("11" * 16,)
    ledger.note_policy(replace(change, policy_sha256=b"2" * 32), at=AT)
    ledger.note_policy(change, at=AT)
    assert len(ledger.rows()) == 5


def test_threads_and_processes_charge_one_after_the_other(ledger: Ledger, path: Path) -> None:
    other = reopen(path)

    def spend(which: Ledger, numbers: range) -> None:
        for number in numbers:
            charge(which, number)

    threads = [
        threading.Thread(target=spend, args=(which, range(start, start + 5)))
        for which, start in ((ledger, 1), (ledger, 11), (other, 21))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.verify() == 16
    assert ledger.spent("patients").runs[0].rounds == 15
    other.close()


def test_an_export_verifies_and_every_change_of_it_does_not(ledger: Ledger) -> None:
    charge(ledger)
    data = ledger.export()
    assert pure.verify_export(data, key=KEY.public) == ledger.rows()
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(VerificationError):
            pure.verify_export(bytes(changed), key=KEY.public)


def test_the_first_charge_fixes_the_order_and_a_raised_budget_does_not_move_it(ledger: Ledger, path: Path) -> None:
    charge(ledger)
    ledger.close()
    again = reopen(path)
    raised = replace(BUDGET, epsilon=80.0, order=2)
    asked = replace(CHARGE, round=2)
    again.charge(asked, budget=raised, max_rounds=100, at=AT)
    assert again.spent("patients").order == BUDGET.order
    assert again.spent("patients").fixed(raised) == replace(raised, order=BUDGET.order)
    assert again.spent("patients").lifetime_epsilon(raised) == again.spent("patients").lifetime_epsilon(BUDGET)
    assert [getattr(record.entry, "order", None) for record in again.rows()[1:]] == [BUDGET.order, BUDGET.order]
    assert not again.charge(asked, budget=raised, max_rounds=100, at=AT).new
    again.close()


def test_an_empty_file_is_no_ledger_and_stays_empty(path: Path) -> None:
    path.touch()
    with pytest.raises(VerificationError, match=r"ledger's file .* is empty"):
        reopen(path)
    assert path.stat().st_size == 0


def test_a_record_that_another_process_wrote_and_that_does_not_follow_is_found(ledger: Ledger, path: Path) -> None:
    assert len(ledger.rows()) == 1
    stranger = pure.append(None, PolicyChange(member=MEMBER, policy_sha256=b"1" * 32, summary="x"), at=AT, key=KEY)
    stranger = replace(stranger, sequence=2)
    stranger = replace(stranger, signature=KEY.sign(pure.signed_bytes(stranger.hash)))
    with closing(sqlite3.connect(path)) as database:
        values = (stranger.sequence, stranger.hash, stranger.body, stranger.signature, None, None)
        database.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", values)
        database.commit()
    with pytest.raises(VerificationError, match="ledger record 2 does not follow"):
        ledger.rows()


class Faulty:
    """A database in which SQLite finds a fault."""

    def __init__(self, inner: sqlite3.Connection) -> None:
        self._inner = inner

    def execute(self, statement: str, *values: object) -> Any:
        if "integrity_check" in statement:
            return self._inner.execute("SELECT 'row 1 missing from index'")
        return self._inner.execute(statement, *values)  # type: ignore[arg-type]


def test_a_fault_that_sqlite_finds_is_damage(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_database", Faulty(ledger._database))
        with pytest.raises(VerificationError, match="SQLite finds 1 faults"):
            ledger.verify()
