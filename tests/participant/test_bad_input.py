"""What an owner, an operator or an auditor may be handed that is wrong: refused by its name, and nothing is spent.

Each case is a command, as a user types it: exit code, code, why and next step on standard error, and a
ledger that holds the same charges as before, byte for byte.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onlysum
from participant.home import Home
from participant.owner.ledger import Ledger
from participant.owner.ledger_directory import LedgerDirectory
from participant.owner.registry import Registry
from privacy import canonical
from privacy.dp.events import round_event
from privacy.draft import Draft, PrivacyTarget
from privacy.error_codes import REGISTRY
from privacy.errors import RefusedError
from privacy.ledger import LifetimeBudget
from privacy.ledger_entries import Charge
from privacy.plan import Plan
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.owner import INITIAL_ADAPTER, owned_plan
from tests.worlds.plans import CREATED_AT, plan_document, signing_key, travel
from tests.worlds.reports import participant_report

MADE = authority()
ROOMY = LifetimeBudget("example", 1000.0, 1e-6, 2)
Change = Callable[[str], str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return alice's directory with one charge on her ledger."""
    found = enrol(tmp_path / "alice", MADE)
    monkeypatch.setenv("ONLYSUM_HOME", str(found.directory))
    ledger = opened(found)
    ledger.charge(charge(1), budget=ROOMY, max_rounds=3, at=CREATED_AT)
    ledger.close()
    return found


def charge(number: int, plan_hash: bytes = b"\7" * 32) -> Charge:
    event = round_event(owned_plan(mode="distributed"))
    assert event is not None
    return Charge(
        run_id="ab" * 16, plan_hash=plan_hash, round=number, population="patients", unit="example",
        relation="zero-out", event=event, delta="0.00001",
    )  # fmt: skip


def file_of(home: Home) -> Path:
    return home.directory / "ledgers" / "ledger.db"


def opened(home: Home) -> Ledger:
    directory = LedgerDirectory(home.directory / "ledgers")
    return directory.open(directory.member(signing_key("alice").public, home))


def charges(home: Home) -> list[bytes]:
    """Return what is spent, as it is written."""
    ledger = opened(home)
    found = [record.body for record in ledger.rows() if isinstance(record.entry, Charge)]
    ledger.close()
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """Return the code and the first line of a refusal, after checking what every refusal has."""
    capsys.readouterr()
    left = onlysum.run(list(words))
    lines = capsys.readouterr().err.splitlines()
    code = lines[0].partition(":")[0]
    assert left == REGISTRY[code].fault != 1
    assert lines[1] == f"  why: {REGISTRY[code].why}"
    assert lines[2] == f"  next: {REGISTRY[code].next_step}"
    return code, lines[0]


def test_what_is_spent_is_shown_with_the_reason_why_a_lifetime_counts_more(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = owned_plan(mode="distributed")
    equip(home, MADE, plan)
    assert onlysum.run(["participant", "ledger", "show", "patients"]) == 0
    said = capsys.readouterr().out
    assert "run abababab: 1 rounds charged, epsilon" in said
    assert "counted by a Renyi filter of order 2, which holds across all runs; 12.43 of it is for delta" in said


# --- plans that nobody should build ---

PLANS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "noise below 8": ("E-PLAN-NOISE", "must be 6 to 50", {"privacy": {"variance_exponent": 5}}),
    "noise that is no power of two": ("E-PLAN-MALFORMED", "valid integer", {"privacy": {"variance_exponent": "3.5"}}),
    "a sampling rate over 1": ("E-PLAN-RULE", "at most 1", {"privacy": {"sampling_rate": "1.5"}}),
    "a ring too small": ("E-PLAN-RING", "the ring of 32 bits holds", {"encoding": {"clamp": 2**31}}),
    "an unknown mode": ("E-PLAN-MALFORMED", "privacy.mode", {"privacy": {"mode": "laplace"}}),
    "an event of its own": ("E-PLAN-MALFORMED", "privacy.event", {"privacy": {"event": {"kind": "laplace"}}}),
    "a claim below its cost": ("E-PLAN-CLAIM", "its integers give", {"privacy": {"epsilon": "1"}}),
    "a method that needs single updates": (
        "E-METHOD-REFUSED", "single update", {"recipe": {"adapter": {"method": "krum"}}}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "says", "overrides"), PLANS.values(), ids=PLANS.keys())
def test_a_plan_file_is_refused_for(
    code: str, says: str, overrides: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(canonical.encode(plan_document(mode="distributed", **overrides)))
    found, line = refused(capsys, "plan", "check", str(file))
    assert found == code
    assert says in line


def test_a_stream_of_metrics_without_noise_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(with_metrics().to_bytes())
    found, line = refused(capsys, "plan", "check", str(file))
    assert found == "E-PLAN-STREAM"
    assert "metrics" in line


def with_metrics() -> Plan:
    document: dict[str, Any] = json.loads(owned_plan(mode="distributed").to_bytes())
    document["recipe"]["adapter"]["tensors"].append(
        {"key": "loss", "shape": [1], "stream": "metrics", "part": "adapter"}
    )
    travel(document["recipe"], {"name": "metrics", "length": 1})
    return Plan.from_bytes(canonical.encode(document))


DRAFTS: dict[str, tuple[str, str, str]] = {
    "a sampling rate over 1": ('"sampling_rate":"0.5"', '"sampling_rate":"1.5"', "sampling_rate must be above 0"),
    "a delta of 1": ('"delta":"0.00001"', '"delta":"1"', "delta below 1"),
    "no clip": ('"clip_norm":"1"', '"clip_norm":"0"', "clip_norm must be positive"),
    "several noised steps a round": ('"local_steps":1', '"local_steps":5', "takes one step per round"),
    "users without a bound on their rows": ('"unit":"example"', '"unit":"user"', "max_rows_per_user"),
    "a field that nobody knows": ('"unit":"example"', '"unit":"example","noise_seed":7', "privacy.noise_seed"),
}


@pytest.mark.parametrize(("old", "new", "says"), DRAFTS.values(), ids=DRAFTS.keys())
def test_a_draft_is_refused_for(
    old: str, new: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = PrivacyTarget(
        mode="distributed", unit="example", epsilon="8", delta="0.00001", sampling_rate="0.5", local_steps=1,
        clip_norm="1", update_bound="1",
    )  # fmt: skip
    recipe = owned_plan().recipe
    text = Draft(recipe=recipe, privacy=target, evaluation_data="public-digits").to_bytes().decode()
    assert text.count(old) == 1
    (tmp_path / "draft.json").write_text(text.replace(old, new))
    (tmp_path / "initial_adapter.safetensors").write_bytes(INITIAL_ADAPTER)
    found, line = refused(capsys, "plan", "check", str(tmp_path))
    assert found == "E-PLAN-MALFORMED"
    assert says in line


# --- signed plans that this owner should not approve ---

POLICIES: dict[str, tuple[str, str, Change]] = {
    "a lifetime budget that does not cover it": (
        "E-POLICY-BUDGET", "population.lifetime-epsilon",
        lambda text: text.replace("lifetime_epsilon = 40", "lifetime_epsilon = 5"),
    ),
    "a limit per run that it exceeds": (
        "E-POLICY-RULE", "population.per-run-epsilon",
        lambda text: text.replace("per_run_epsilon = 30", "per_run_epsilon = 3"),
    ),
    "a delta above a tenth of one in the population": (
        "E-POLICY-RULE", "population.delta", lambda text: text.replace('"example"', '"example"\nsize = 20000'),
    ),
    "a budget in another unit": (
        "E-POLICY-RULE", "population.unit", lambda text: text.replace('unit = "example"', 'unit = "user"'),
    ),
    "a method that is not allowed": (
        "E-POLICY-RULE", "dataset.methods", lambda text: text.replace('"ffa-lora"', '"fedit"'),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "rule", "change"), POLICIES.values(), ids=POLICIES.keys())
def test_the_policy_refuses_to_approve(
    code: str, rule: str, change: Change, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = owned_plan(mode="distributed")
    equip(home, MADE, plan)
    run = propose(home, MADE, plan)
    home.policy.write_text(change(home.policy.read_text()))
    assert_not_approved(home, capsys, run, code, rule)


def test_a_user_column_is_not_ignored(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    plan = owned_plan(mode="distributed")
    equip(home, MADE, plan)
    registry = Registry(home)
    entry = registry.dataset("digits")
    registry.remove(entry)
    registry.add(entry.model_copy(update={"user_column": "patient", "users": entry.rows}))
    assert_not_approved(home, capsys, propose(home, MADE, plan), "E-POLICY-RULE", "dataset.user-unit")


def test_metrics_without_noise_are_not_approved_even_if_the_operator_signed_them(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = with_metrics()
    equip(home, MADE, plan)
    assert_not_approved(home, capsys, propose(home, MADE, plan), "E-POLICY-RULE", "plan.method")


def assert_not_approved(home: Home, capsys: pytest.CaptureFixture[str], run: str, code: str, rule: str) -> None:
    """Check that a plan is refused by a rule, that it still waits, and that nothing was charged."""
    before = charges(home)
    found, line = refused(capsys, "participant", "plan", "approve", run[:8])
    assert found == code
    assert f"{rule}: " in line
    assert onlysum.run(["participant", "plan", "list", "--pending", "--json"]) == 0
    assert [load["run"] for load in json.loads(capsys.readouterr().out)] == [run]
    assert charges(home) == before
    assert len(before) == 1


# --- a ledger that is not what it was ---


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def changed(file: Path) -> None:
    data = bytearray(file.read_bytes())
    place = data.rindex(b'"round":1')
    data[place + len('"round":')] ^= 1
    file.write_bytes(bytes(data))


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, changed, emptied], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("words", [("ledger", "verify"), ("ledger", "show"), ("plan", "approve", "001122")])
def test_a_damaged_ledger_is_refused_and_left_as_it_is(
    damage: Callable[[Path], None], words: tuple[str, ...], home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_of(home)
    damage(file)
    before = file.read_bytes()
    found, _ = refused(capsys, "participant", *words)
    assert found == "E-STATE-DAMAGED"
    assert file.read_bytes() == before


def test_a_ledger_whose_last_charge_was_taken_out_is_refused_by_the_head_that_was_shown(home: Home) -> None:
    ledger = opened(home)
    ledger.charge(charge(2), budget=ROOMY, max_rounds=3, at=CREATED_AT)
    shown = ledger.head()
    ledger.close()
    database = sqlite3.connect(file_of(home))
    database.execute("DROP TRIGGER records_are_never_removed")
    database.execute("DELETE FROM records WHERE sequence = ?", (shown.sequence,))
    database.commit()
    database.close()
    before = charges(home)
    with pytest.raises(RefusedError, match="E-LEDGER-ROLLBACK"):
        opened(home).require_at_least(shown)
    assert charges(home) == before


# --- a report with one byte changed ---

BYTES: dict[str, tuple[bytes, bytes, str]] = {
    "a digit of an epsilon": (b'"planned_epsilon":"', b'"planned_epsilon":"1', "E-REPORT-SIGNATURE"),
    "a space that changes no meaning": (b'{"body":', b'{"body": ', "E-REPORT-MALFORMED"),
    "a line feed at its end": (b"}", b"}\n", "E-REPORT-MALFORMED"),
    "a digit of the signature": (b'"signature":"', b'"signature":"0', "E-REPORT-MALFORMED"),
}


@pytest.mark.parametrize(("old", "new", "code"), BYTES.values(), ids=BYTES.keys())
def test_a_report_is_refused_for(
    old: bytes, new: bytes, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = participant_report()[1]
    head, found, tail = data.rpartition(old)
    assert found
    file = tmp_path / "report.json"
    file.write_bytes(head + new + tail)
    for words in (("verify",), ("show",), ("export", "--to", "html")):
        assert refused(capsys, "audit", words[0], str(file), *words[1:])[0] == code
    assert sorted(tmp_path.iterdir()) == [file]
