"""``onlysum audit verify`` of an exported ledger: what it says, and that no changed byte passes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

import onlysum
from audit.ledger_export import LAST_SECOND, is_ledger, verify_ledger
from privacy import canonical, ledger
from privacy.errors import VerificationError
from privacy.ledger import Record
from privacy.ledger_entries import Entry, Genesis, PolicyChange, Unprotected
from tests.worlds.charges import CHARGE
from tests.worlds.plans import OPERATOR, signing_key

KEY = signing_key("alice")
MEMBER = signing_key("alice").public
GENESIS = Genesis(owner="alice", key=KEY.public)
DAY = 86400


def chain(*entries: Entry, at: int = 1_700_000_000, step: int = DAY) -> list[Record]:
    records: list[Record] = []
    for number, entry in enumerate(entries):
        last = records[-1] if records else None
        records.append(ledger.append(last, entry, at=at + number * step, key=KEY))
    return records


RECORDS = chain(
    GENESIS,
    PolicyChange(member=MEMBER, policy_sha256=b"1" * 32, summary="first policy"),
    CHARGE,
    replace(CHARGE, round=2),
    replace(CHARGE, population="staff", unit="user"),
    Unprotected(run_id="11" * 16, plan_hash=b"q" * 32, population="patients"),
)
EXPORTED = ledger.export(RECORDS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.json"
    path.write_bytes(EXPORTED)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = onlysum.run(["audit", "verify", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("eighty_columns")
def test_verify_says_whose_ledger_it_is_what_was_charged_to_whom_and_when(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, file)
    assert code == 0
    assert "the ledger of alice, 6 records, 3 charged rounds" in out
    assert "2023-11-14 22:13 to 2023-11-19 22:13 UTC" in out
    assert "population patients: 2 rounds of 1 run charged per example" in out
    assert "population patients: 1 run without differential privacy" in out
    assert "population staff: 1 rounds of 1 run charged per user" in out
    assert RECORDS[-1].hash.hex() in out
    assert "Compare this fingerprint" in out
    assert max(map(len, out.splitlines())) <= 80


def test_verify_says_that_records_missing_at_the_end_would_not_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = tmp_path / "shorter.json"
    shorter.write_bytes(ledger.export(RECORDS[:-1]))
    code, out, _ = run(capsys, shorter)
    assert code == 0
    assert "missing at the" in out
    assert f"record 5, {RECORDS[4].hash.hex()}" in out


def test_verify_with_the_owners_key_asks_for_nothing_more_and_with_another_fails(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, file, "--key", KEY.public.hex())
    assert code == 0
    assert "Compare this fingerprint" not in out
    code, out, error = run(capsys, file, "--key", OPERATOR.public.hex())
    assert (code, out) == (6, "")
    assert error.startswith("E-REPORT-KEY")


def test_verify_prints_the_ledger_as_json_when_asked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(run(capsys, file, "--json")[1])
    assert (values["kind"], values["owner"], values["records"], values["charges"]) == ("ledger", "alice", 6, 3)
    assert values["head"] == RECORDS[-1].hash.hex()
    assert [entry["population"] for entry in values["populations"]] == ["patients", "staff"]
    assert [run["differential_privacy"] for run in values["populations"][0]["runs"]] == [True, False]


def test_any_changed_byte_fails_with_exit_code_6(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = random.Random(1).sample(range(len(EXPORTED)), 60)
    for place in [*places, *range(20), len(EXPORTED) - 1]:
        changed = bytearray(EXPORTED)
        changed[place] ^= 1
        file.write_bytes(changed)
        code, out, error = run(capsys, file)
        assert (code, out) == (6, ""), f"byte {place}"
        assert error.startswith("E-REPORT-"), f"byte {place}"


BROKEN: dict[str, bytes] = {
    "no record at all": ledger.export([]),
    "without its first record": ledger.export(RECORDS[1:]),
    "without a record in the middle": ledger.export([*RECORDS[:2], *RECORDS[3:]]),
    "of another version": canonical.encode({"ledger_version": 2, "records": []}),
    "charges of one population in two units": ledger.export(chain(GENESIS, CHARGE, replace(CHARGE, unit="user"))),
    "a date beyond the calendar": ledger.export(chain(GENESIS, at=2**52)),
    "a date before the epoch": ledger.export(chain(GENESIS, at=-1)),
    "a key of another length": ledger.export(chain(Genesis(owner="alice", key=b"short"))),
    "signed by another key than it names": ledger.export(
        chain(Genesis(owner="alice", key=OPERATOR.public)),
    ),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_ledger_that_does_not_hold_together_is_refused(data: bytes) -> None:
    assert is_ledger(data)
    with pytest.raises(VerificationError) as info:
        verify_ledger(data)
    assert info.value.code == "E-REPORT-LEDGER"


@pytest.mark.parametrize("at", [0, LAST_SECOND])
def test_the_first_and_the_last_second_that_a_date_can_show_are_shown(at: int) -> None:
    assert verify_ledger(ledger.export(chain(GENESIS, at=at))).first.at == at


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"ledger_version": 1}'])
def test_what_does_not_say_that_it_is_a_ledger_is_taken_for_a_report(
    data: bytes, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(data)
    code, _, error = run(capsys, file)
    assert code == 6
    assert error.startswith("E-REPORT-MALFORMED")
