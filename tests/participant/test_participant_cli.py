"""The owner's commands, as an owner types them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray
from typer import Typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

import onlysum
from authoring.plan_command import app as plan_app
from coordinator.enrolment import authority as ca
from host import credentials
from host.locks import only_daemon
from host.system import SystemClock
from participant.commands.participant import app
from participant.daemon.status import StatusFile
from participant.home import Home
from participant.link import identity
from participant.link.channel import Channel
from participant.opened import open_home
from participant.owner.plan_store import Ended, PlanStore
from participant.views.status import participant_status
from privacy.claims import BUDGET_REACH, departing_sentence, not_protected, trust_sentences
from privacy.draft import Draft, PrivacyTarget
from privacy.errors import LocalError, OnlysumError, PeerError, Phase, RefusedError
from privacy.plan_parts import Mode
from privacy.secagg.keys import verify
from protos.envelope import MemberLeft, Role, Submission
from protos.invitation import leaving_bytes
from tests.worlds.enrolled import authority, enrol, equip, propose
from tests.worlds.expect import expect
from tests.worlds.owner import owned_plan
from tests.worlds.seeded import SeededRandom
from tests.worlds.torch_world import image_base

MADE = authority()
Say = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return enrol(tmp_path / "alice", MADE)


@pytest.fixture
def say(home: Home, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run a command in alice's directory and return what it prints."""
    monkeypatch.setenv("ONLYSUM_HOME", str(home.directory))

    def run(*words: str, of: Typer = app) -> str:
        result = CliRunner().invoke(of, list(words), catch_exceptions=False, standalone_mode=False)
        return result.output

    return run


def refused(call: Callable[[], object]) -> OnlysumError:
    with pytest.raises(OnlysumError) as caught:
        call()
    return caught.value


def proposed(home: Home, **overrides: Any) -> str:
    plan = owned_plan(mode="distributed", **overrides)
    equip(home, MADE, plan)
    return propose(home, MADE, plan)


# --- data and models ---


def plain_array() -> bytes:
    """Return the bytes of one array where several, by name, belong."""
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def arrays(**named: NDArray[Any]) -> bytes:
    """Return the bytes of an npz file."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **named)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b'text,label\n"open,b\n', "a.csv line 2: not CSV: quotes do not pair up, or a cell is too long"),
        ("a.csv", b"\xff\xfe\x00", "a.csv line 1: not UTF-8 text"),
        ("a.parquet", b"PAR1 and nothing more", "a.parquet: cut or damaged (ArrowInvalid)"),
        ("a.npz", b"PK\x03\x04 and nothing more", "a.npz: not an npz of plain arrays, cut or damaged"),
        ("a.npz", plain_array(), "a.npz: not an npz of plain arrays, cut or damaged"),
        ("a.npz", arrays(label=np.array([{"a": 1}])), "a.npz: not an npz of plain arrays, cut or damaged"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_in_words(
    say: Say, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(lambda: say("dataset", "add", "wards", str(tmp_path / name)))
    assert (error.code, error.detail.replace(" after row 0", "")) == ("E-DATA-PARSE", says)


def test_an_evaluator_is_not_told_to_write_a_policy(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONLYSUM_HOME", str(enrol(tmp_path / "eva", MADE, name="eva", role=Role.EVALUATOR).directory))
    said = say("dataset", "add", "public", rows(tmp_path / "public.csv", "input,label\n1,a\n2,b\n"))
    assert said.splitlines() == [
        "public: 2 rows, registered.",
        "columns: input, label",
        "Adapters are measured on it when a plan names it.",
    ]


def rows(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_dataset_is_parsed_counted_and_registered_and_the_policy_is_still_empty(say: Say, tmp_path: Path) -> None:
    data = rows(tmp_path / "wards.csv", "text,label,patient\nfine,0,a\nill,1,a\nwell,0,b\n")
    said = say("dataset", "add", "wards", data, "--user", "patient", "--population", "patients")
    assert "wards: 3 rows, 2 users, registered." in said
    assert '[dataset.wards]\npopulation = "patients"' in said
    (listed,) = json.loads(say("dataset", "list", "--json"))
    assert (listed["name"], listed["units"], listed["population"]) == ("wards", 2, "patients")


def test_what_was_found_in_a_dataset_is_shown_when_it_is_added(say: Say, tmp_path: Path) -> None:
    data = rows(tmp_path / "wards.csv", "text,label\nfine,positive \ncold,negative\n")
    said = say("dataset", "add", "wards", data, "--label", "label").splitlines()
    assert said[1:3] == ["columns: label, text", "labels:  negative, positive"]


def test_a_bad_row_is_refused_with_its_number(say: Say, tmp_path: Path) -> None:
    data = rows(tmp_path / "wards.csv", "text,label,patient\nfine,0,a\nill,1,\n")
    error = refused(lambda: say("dataset", "add", "wards", data, "--user", "patient"))
    assert error.code == "E-DATA-USER"
    assert "3" in error.detail or "row 2" in error.detail
    assert json.loads(say("dataset", "list", "--json")) == []


def test_a_file_whose_name_is_not_utf_8_is_refused_in_characters_that_can_be_shown(say: Say, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_text("text,label\nfine,0\n")
    error = refused(lambda: say("dataset", "add", "wards", str(path)))
    assert error.code == "E-USAGE"
    assert error.detail.endswith(r"caf\udce9.csv is not UTF-8; rename it")


def test_a_name_that_cannot_travel_is_refused(say: Say, tmp_path: Path) -> None:
    data = rows(tmp_path / "wards.csv", "text,label\nfine,0\n")
    assert refused(lambda: say("dataset", "add", "Wards of A", data)).code == "E-USAGE"


def test_the_same_data_has_one_population_unless_its_owner_says_otherwise(say: Say, tmp_path: Path) -> None:
    text = "input,label\n1,a\n2,b\n"
    first, copy = rows(tmp_path / "first.csv", text), rows(tmp_path / "copy.csv", text)
    say("dataset", "add", "wards", first, "--population", "patients")
    for population in (["--population", "customers"], []):
        again = ["dataset", "add", "again", copy, *population]
        error = refused(partial(say, *again))
        assert error.code == "E-DATA-POPULATION"
        assert "registered as wards under population patients" in error.detail
    say("dataset", "add", "again", copy, "--population", "patients")
    say("dataset", "add", "others", copy, "--population", "customers", "--another-population")


def test_a_registered_name_is_not_taken_twice(say: Say, tmp_path: Path) -> None:
    data = rows(tmp_path / "wards.csv", "text,label\nfine,0\n")
    say("dataset", "add", "wards", data)
    assert refused(lambda: say("dataset", "add", "wards", data)).code == "E-EXISTS"


def test_labels_of_an_own_spelling_are_translated_until_something_else_is_said(say: Say, tmp_path: Path) -> None:
    data = rows(tmp_path / "w.csv", "text,label\nfine,gut\nbad,schlecht\n")
    say("dataset", "add", "wards", data, "--label", "label")
    assert "gut -> good" in say("dataset", "map", "wards", "gut=good", "schlecht=bad")
    assert json.loads(say("dataset", "show", "wards", "--json"))["renamed"] == {"gut": "good", "schlecht": "bad"}
    assert "gut -> good, schlecht -> bad" in say("dataset", "show", "wards")
    assert "as it was registered" in say("dataset", "test", "wards")
    for pairs, why in (
        (["gut"], "no OWN=PLAN"),
        (["gut=a", "gut=b"], "two names"),
        (["prima=good"], "no row has label"),
    ):
        error = refused(lambda pairs=pairs: say("dataset", "map", "wards", *pairs))  # type: ignore[misc]
        assert (error.code, why in error.detail) == ("E-USAGE", True)
    assert "labels are taken as they are" in say("dataset", "map", "wards")
    assert json.loads(say("dataset", "show", "wards", "--json"))["renamed"] == {}


def test_a_column_of_numbers_is_registered_as_values_and_lists_as_their_labels(say: Say, tmp_path: Path) -> None:
    data = rows(tmp_path / "w.jsonl", '{"text": "fine", "value": 0.5}\n{"text": "bad", "value": 2}\n')
    assert "neither text nor an integer" in refused(lambda: say("dataset", "add", "w", data, "--label", "value")).detail
    said = say("dataset", "add", "w", data, "--label", "value", "--values")
    assert "labels:" not in said
    assert "as it was registered" in say("dataset", "test", "w")
    lists = rows(tmp_path / "l.jsonl", '{"text": "a", "tags": ["x", "y"]}\n{"text": "b", "tags": ["y"]}\n')
    assert "labels:  x, y" in say("dataset", "add", "l", lists, "--label", "tags")


def test_a_dataset_that_has_changed_is_found_out_and_can_be_removed(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "wards.csv"
    say("dataset", "add", "wards", rows(path, "text,label\nfine,0\n"))
    assert "as it was registered" in say("dataset", "test", "wards")
    path.write_text("text,label\ngood,0\n")
    assert "its bytes have changed" in say("dataset", "test", "wards")
    path.write_text("text,label\ngood,0\nbad,1\n")
    assert refused(lambda: say("dataset", "test", "wards")).code == "E-DATA-MISMATCH"
    say("dataset", "remove", "wards")
    assert refused(lambda: say("dataset", "show", "wards")).code == "E-NOT-FOUND"
    assert path.exists()


def test_a_model_is_hashed_and_one_with_a_pickle_is_refused(say: Say, tmp_path: Path) -> None:
    folder = image_base(tmp_path / "model")
    added = json.loads(say("model", "add", "tiny", str(folder), "--json"))
    assert [one["name"] for one in added["files"]] == ["config.json", "model.safetensors"]
    assert json.loads(say("model", "list", "--json"))[0]["hash"] == added["hash"]
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert refused(lambda: say("model", "add", "tiny2", str(folder))).code == "E-MODEL-PICKLE"


# --- plans ---


@pytest.mark.usefixtures("eighty_columns")
def test_the_screen_says_what_an_owner_needs_to_know(say: Say, home: Home) -> None:
    run = proposed(home)
    said = say("plan", "show", run[:8])
    assert max(len(line) for line in said.splitlines()) <= 80
    for words in (
        "WHAT HAPPENS HERE",
        "WHAT LEAVES THIS MACHINE",
        "Rows, labels and losses never leave",
        "roster: verified",
        "nothing is refunded",
        "against everybody else together",
        "WHAT IS NOT PROTECTED",
        "[met] floors.f",
        "plan approve",
    ):
        assert " ".join(words.split()) in " ".join(said.split()), words


def test_the_screen_says_why_a_lifetime_counts_more_than_a_run_and_which_order_would_count_less(
    say: Say, home: Home
) -> None:
    run = proposed(home)
    said = " ".join(say("plan", "show", run).split())
    assert "Renyi filter of order 2, which holds even where later runs are chosen" in said
    assert "12.43 of it is for delta, paid once with the first charge" in said
    assert "Order 2, because at it this budget allows most Gaussian releases." in said
    assert "The first charge fixes it in the ledger for good." in said
    assert BUDGET_REACH in said
    assert re.search(r"In the lifetime it counts \d+\.\d\d, its Renyi divergence at order 2, beside the part", said)
    found = re.search(r"With order = (\d+) in the policy this run would count (\d+\.\d\d)\. Choose an order", said)
    assert found is not None
    order, counted = found.groups()
    budget = "lifetime_epsilon = 40"
    home.policy.write_text(home.policy.read_text().replace(budget, f"{budget}\norder = {order}"))
    said = " ".join(say("plan", "show", run).split())
    assert f"Renyi filter of order {order}" in said
    assert f"Order {order}, because the policy names it." in said
    assert f"{counted} afterwards" in said
    assert "in the policy this run would count" not in said


@pytest.mark.parametrize("mode", ["distributed", "none"])
def test_the_screen_says_whom_one_trusts_and_what_is_not_protected_in_the_words_of_the_claims(
    say: Say, home: Home, tmp_path: Path, mode: Mode
) -> None:
    plan = owned_plan(mode=mode)
    equip(home, MADE, plan)
    run = propose(home, MADE, plan)
    say("plan", "show", run, "--html", str(tmp_path / "plan.html"))
    for page in (say("plan", "show", run), unescape((tmp_path / "plan.html").read_text())):
        shown = " ".join(page.split())
        for sentence in (departing_sentence(plan), *trust_sentences(plan), *not_protected(plan)):
            assert sentence in shown
        assert ("never one update" in shown) == plan.privacy.noised


def test_a_plan_without_privacy_says_so_where_an_epsilon_would_stand(say: Say, home: Home) -> None:
    plan = owned_plan(mode="none")
    equip(home, MADE, plan)
    said = say("plan", "show", propose(home, MADE, plan))
    assert "No differential privacy" in said
    assert "Epsilon" not in said


def test_the_page_for_the_file_asks_nobody_for_anything(say: Say, home: Home, tmp_path: Path) -> None:
    run = proposed(home)
    page = tmp_path / "plan.html"
    say("plan", "show", run, "--html", str(page))
    html = page.read_text()
    assert "<script" not in html
    assert "http" not in html
    assert "What is not protected" in html
    assert refused(lambda: say("plan", "show", run, "--html", str(page))).code == "E-EXISTS"


def test_approving_records_who_when_and_what_was_shown(say: Say, home: Home) -> None:
    run = proposed(home)
    assert json.loads(say("plan", "list", "--pending", "--json"))[0]["decision"] == "waits"
    said = json.loads(say("plan", "approve", run[:6], "--as", "Anna Meier", "--json"))
    decision = PlanStore(home, MADE.operator.public).decision(run)
    assert decision is not None
    assert (decision.verdict, decision.who, decision.by) == ("approved", "Anna Meier", "hand")
    assert said["plan_hash"] == decision.plan_hash == owned_plan(mode="distributed").hash.hex()
    assert decision.roster_verified
    assert json.loads(say("plan", "list", "--pending", "--json")) == []
    assert refused(lambda: say("plan", "approve", run)).code == "E-EXISTS"


def test_an_approval_may_become_a_refusal_but_not_the_other_way_round(say: Say, home: Home) -> None:
    run = proposed(home)
    say("plan", "approve", run)
    say("plan", "refuse", run, "--because", "we changed our mind")
    decision = PlanStore(home, MADE.operator.public).decision(run)
    assert decision is not None
    assert (decision.verdict, decision.because) == ("refused", "we changed our mind")
    assert refused(lambda: say("plan", "approve", run)).code == "E-EXISTS"


def test_a_refusal_while_no_daemon_runs_erases_what_the_run_has_left(say: Say, home: Home) -> None:
    run = proposed(home)
    say("plan", "approve", run)
    left = home.runs / run / "encoded-1"
    left.parent.mkdir()
    left.write_bytes(b"an update")
    say("plan", "refuse", run, "--because", "we changed our mind")
    assert not left.exists()


@pytest.mark.parametrize("because", ["no\x1b[2J", "no\nbob approved", "\u202eon"])
def test_words_that_the_operators_terminal_must_not_get_are_refused_before_anything_is_decided(
    say: Say, home: Home, because: str
) -> None:
    run = proposed(home)
    error = refused(lambda: say("plan", "refuse", run, "--because", because))
    assert error.code == "E-USAGE"
    assert "--because" in error.detail
    assert PlanStore(home, MADE.operator.public).decision(run) is None
    say("plan", "refuse", run, "--because", "نه، هنوز نمی\u200cشود — 还没有")


def test_only_the_approvers_of_the_policy_decide(say: Say, home: Home) -> None:
    plan = owned_plan(mode="distributed")
    equip(home, MADE, plan, more='approvers = ["Anna Meier"]')
    run = propose(home, MADE, plan)
    error = refused(lambda: say("plan", "approve", run, "--as", "somebody"))
    assert isinstance(error, RefusedError)
    assert "Anna Meier" in error.detail
    say("plan", "approve", run, "--as", "Anna Meier")


def test_nobody_approves_what_the_policy_refuses(say: Say, home: Home) -> None:
    plan = owned_plan(mode="distributed", f=0)
    equip(home, MADE, plan)
    run = propose(home, MADE, plan)
    error = refused(lambda: say("plan", "approve", run))
    assert error.code == "E-POLICY-RULE"
    assert error.detail.startswith("floors.f: ")
    assert "broken" in say("policy", "explain", run)


# --- policy, ledger, members, state ---


def test_the_policy_is_shown_in_words_and_checked(say: Say, home: Home) -> None:
    assert "every plan is refused" in say("policy", "show")
    proposed(home)
    assert "dataset digits (patients): modes distributed, none; methods ffa-lora" in say("policy", "show")
    assert "policy.toml is valid." in say("policy", "check")
    home.policy.write_text(home.policy.read_text() + "\n[floors]\nmin_survivor = 3\n")
    error = refused(lambda: say("policy", "check"))
    assert error.code == "E-CONFIG-UNKNOWN-KEY"
    assert "min_survivors" in error.detail


def test_the_ledger_is_shown_verified_and_exported(say: Say, home: Home, tmp_path: Path) -> None:
    proposed(home)
    shown = json.loads(say("ledger", "show", "--json"))
    assert shown["populations"][0]["left"] == 40
    assert "records, chained and signed" in say("ledger", "verify")
    say("ledger", "export", str(tmp_path / "ledger.json"))
    assert json.loads((tmp_path / "ledger.json").read_text())["ledger_version"] == 2
    assert refused(lambda: say("ledger", "show", "nobody")).code == "E-NOT-FOUND"


def test_fingerprints_are_the_ones_that_are_compared(say: Say) -> None:
    shown = json.loads(say("member", "fingerprint", "--json"))
    assert shown["authority"] == MADE.fingerprint
    assert len(shown["identity"].replace(" ", "")) == 32


def test_the_status_says_what_waits(say: Say, home: Home) -> None:
    run = proposed(home)
    state = json.loads(say("status", "--json"))
    assert (state["running"], state["waiting"], state["runs"]) == (False, [run], [])
    assert f"plan show {run[:8]}" in say("status")


def test_the_status_of_a_daemon_that_does_not_run_is_no_success(home: Home) -> None:
    assert onlysum.run(["participant", "status", "--config", str(home.directory)]) == 3
    with only_daemon(home.directory, "participant"):
        StatusFile(home, SystemClock())  # as a daemon's start writes it
        assert onlysum.run(["participant", "status", "--config", str(home.directory)]) == 0


def test_a_run_that_was_ended_says_why_wherever_it_is_listed(say: Say, home: Home) -> None:
    run = proposed(home)
    open_home(home.directory).review.plans.end(run, Ended(state="aborted", code="E-RUN-ENDED", at=1_790_000_000))
    assert f"{run[:8]}: aborted: E-RUN-ENDED, the operator ended the run" in say("plan", "list")
    assert "The run ended on 2026-09-21 14:13 UTC, aborted: E-RUN-ENDED" in say("plan", "show", run[:8])
    assert json.loads(say("plan", "list", "--json"))[0]["reason"].startswith("aborted: E-RUN-ENDED")


def test_pausing_and_resuming_leave_a_mark_that_the_daemon_reads(say: Say, home: Home) -> None:
    say("pause")
    assert home.pause_mark.exists()
    assert "paused" in say("status")
    say("resume")
    assert not home.pause_mark.exists()


def test_who_has_left_does_not_start_again_but_keeps_the_ledger(say: Say, home: Home) -> None:
    say("leave", "--yes")
    assert refused(lambda: say("start")).code == "E-USAGE"
    left = participant_status(open_home(home.directory))
    assert (left.gone, left.to_lines()[0].endswith(": it has left")) == (True, True)
    assert "records, chained" in say("ledger", "verify")


def test_who_leaves_erases_updates_and_says_whether_the_coordinator_knows(
    say: Say, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = proposed(home)
    say("plan", "approve", run)
    left = home.runs / run / "shares-1-1"
    left.parent.mkdir()
    left.write_bytes(b"a share")
    said = json.loads(say("leave", "--yes", "--json"))  # nobody listens at the address of this directory
    assert (said["told"], said["code"][:6], said["erased"]) == (False, "E-NET-", 1)
    assert not left.exists()
    sent: list[Submission] = []
    monkeypatch.setattr(Channel, "submit", lambda self, submission: sent.append(submission))
    assert "the coordinator knows" in say("leave", "--yes")
    owner = open_home(home.directory).owner
    signed = leaving_bytes(federation=owner.federation, name=owner.name)
    assert verify(owner.identity.public, expect(MemberLeft, sent[0]).signature, signed)


def test_who_leaves_and_is_not_known_any_more_has_told_it(
    say: Say, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def revoked(self: Channel, submission: Submission) -> None:
        raise PeerError("E-MEMBER-REVOKED", participant="alice", phase=Phase.HANDSHAKE, rule="revoked")

    monkeypatch.setattr(Channel, "submit", revoked)
    assert json.loads(say("leave", "--yes", "--json"))["told"]


def test_nobody_leaves_while_the_daemon_runs(say: Say, home: Home) -> None:
    with only_daemon(home.directory, "participant"):
        assert refused(lambda: say("leave", "--yes")).code == "E-RUNNING"
    assert not home.left_mark.exists()


def test_a_backup_restores_everything_but_updates(
    say: Say, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = proposed(home)
    say("plan", "approve", run)
    (home.runs / run).mkdir()
    (home.runs / run / "encoded-1").write_bytes(b"an update")
    (home.runs / run / "kept-1").write_bytes(b"what stays at home")
    (home.runs / run / "journal").write_bytes(b"")
    home.noise_keys.write_bytes(b"h" * 32)
    archive = tmp_path / "alice.tar.gz"
    say("backup", str(archive))
    assert archive.stat().st_mode & 0o077 == 0
    elsewhere = tmp_path / "restored"
    monkeypatch.setenv("ONLYSUM_HOME", str(elsewhere))
    assert "alice lies in" in refused(lambda: say("restore", str(archive))).detail, "she lives on this machine"
    say("restore", str(archive), "--ledgers", str(tmp_path / "drill"))
    assert json.loads(say("plan", "list", "--json"))[0]["decision"] == "approved"
    assert "records, chained" in say("ledger", "verify")
    assert sorted(path.name for path in (elsewhere / "runs" / run).iterdir()) == ["journal", "kept-1"]
    assert Home(elsewhere).noise_keys.read_bytes() == b"h" * 32, "what was drawn before is refused there too"
    assert refused(lambda: say("restore", str(archive))).code == "E-EXISTS"


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_a_part_of_a_backup_restores_nothing(
    say: Say, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    archive = tmp_path / "alice.tar.gz"
    say("backup", str(archive))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * kept)])
    before = sorted(tmp_path.iterdir())
    monkeypatch.setenv("ONLYSUM_HOME", str(tmp_path / "restored"))
    assert refused(lambda: say("restore", str(archive))).code == "E-STATE-DAMAGED"
    assert sorted(tmp_path.iterdir()) == before
    archive.write_bytes(whole)
    say("restore", str(archive), "--ledgers", str(tmp_path / "drill"))
    assert "records, chained" in say("ledger", "verify")


def test_the_doctor_finds_what_is_wrong_and_its_bundle_has_no_key(say: Say, home: Home, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.zip"
    result = CliRunner().invoke(app, ["doctor", "--bundle", str(bundle), "--json"])
    checks = {load["name"]: load for load in json.loads(result.output)["checks"]}
    assert checks["ledger"]["ok"]
    assert not checks["coordinator"]["ok"]
    assert checks["coordinator"]["detail"].startswith("E-NET-REFUSED")
    assert checks["daemon"] == {
        "name": "daemon",
        "ok": True,
        "detail": "not running; when the rest is in order: onlysum participant start",
    }
    assert sorted(zipfile.ZipFile(bundle).namelist()) == [
        "checks.json",
        "command.txt",
        "journals.json",
        "participant.toml",
        "policy.toml",
        "versions.json",
    ]


def with_certificate_of(home: Home, now: float) -> None:
    """Give alice's TLS key a certificate made at another time."""
    keys = identity.load_keys(home.identity)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    key = credentials.load_tls_key(keys.tls)
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    certificate = ca.issue_member(
        MADE, request=request.public_bytes(Encoding.DER), name="alice", random=SeededRandom("then"), now=now
    )
    credentials.write_private(home.identity / identity.TLS_CERTIFICATE, certificate)


@pytest.mark.parametrize(
    ("days", "starts", "words"),
    [
        (-91, False, "expired at .* the clock is ahead"),
        (2, False, "is valid from .* behind"),
        (-80, True, "it should have been renewed"),
    ],
    ids=["expired", "not begun", "not renewed in time"],
)
def test_an_own_certificate_that_nobody_accepts_is_said_before_anything_is_started(
    say: Say, home: Home, days: int, starts: bool, words: str
) -> None:
    with_certificate_of(home, time.time() + days * 86_400)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    check = next(check for check in json.loads(result.output)["checks"] if check["name"] == "certificate")
    assert check["ok"] is False
    assert re.search(words, check["detail"])
    if not starts:
        error = refused(lambda: say("start"))
        assert error.code == "E-CERTIFICATE"
        assert re.search(words, error.detail)


def test_a_device_that_is_not_there_does_not_pass_the_doctor(say: Say, home: Home) -> None:
    home.config.write_text(home.config.read_text().replace('device = "auto"', 'device = "cuda:63"'))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    check = next(check for check in json.loads(result.output)["checks"] if check["name"] == "device")
    assert check["ok"] is False
    assert check["detail"].startswith("E-DEVICE: cuda:63; there are ")
    assert result.exit_code == 2


def test_a_second_daemon_on_a_directory_is_refused(say: Say, home: Home) -> None:
    import fcntl

    descriptor = os.open(home.directory / "daemon.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert refused(lambda: say("start")).code == "E-RUNNING"
    os.close(descriptor)


def test_a_directory_that_others_can_read_is_not_used(say: Say, home: Home) -> None:
    home.identity.chmod(0o755)
    error = refused(lambda: say("status"))
    assert isinstance(error, LocalError)
    assert error.code == "E-PERMISSIONS"


# --- plan files ---


def draft(directory: Path) -> Path:
    directory.mkdir()
    target = PrivacyTarget(
        mode="distributed", unit="example", epsilon="8", delta="0.00001", sampling_rate="0.5", local_steps=1,
        clip_norm="1", update_bound="1",
    )  # fmt: skip
    made = Draft(recipe=owned_plan().recipe, privacy=target, evaluation_data="public-digits")
    (directory / "draft.json").write_bytes(made.to_bytes())
    return directory


def test_a_draft_is_checked_against_the_files_beside_it(say: Say, tmp_path: Path) -> None:
    from tests.worlds.owner import INITIAL_ADAPTER

    directory = draft(tmp_path / "draft")
    assert refused(lambda: say("check", str(directory), of=plan_app)).code == "E-NOT-FOUND"
    (directory / "initial_adapter.safetensors").write_bytes(b"another")
    assert refused(lambda: say("check", str(directory), of=plan_app)).code == "E-ADAPTER-HASH"
    (directory / "initial_adapter.safetensors").write_bytes(INITIAL_ADAPTER)
    assert "a valid draft" in say("check", str(directory), of=plan_app)


def test_plans_are_shown_and_compared_as_files(say: Say, tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_bytes(owned_plan(mode="distributed").to_bytes())
    other.write_bytes(owned_plan(mode="distributed", max_attempts=5).to_bytes())
    assert "epsilon 8 at delta 0.00001 per example" in say("show", str(one), of=plan_app)
    assert json.loads(say("diff", str(one), str(other), "--json", of=plan_app)) == {"max_attempts": [3, 5]}
    other.write_text(other.read_text().replace('"f":1', '"f":9'))
    error = refused(lambda: say("check", str(other), of=plan_app))
    assert error.code == "E-PLAN-RULE"
    assert error.detail.startswith(str(other))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from participant.commands.participant import app; from authoring.plan_command import app; "
        "print(sorted({'torch', 'scipy', 'grpc', 'numpy', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_has_an_example() -> None:
    def walk(group: TyperGroup, path: list[str]) -> Iterator[tuple[str, str]]:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                yield from walk(command, [*path, name])
            else:
                yield " ".join([*path, name]), command.help or ""

    for root, top in ((app, ["participant"]), (plan_app, ["plan"])):
        for path, text in walk(expect(TyperGroup, get_command(root)), top):
            assert f"Example: onlysum {path}" in text, path
