"""``onlysum audit``: what each command prints, writes and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import audit
import onlysum
from privacy.report import RoundFacts, build_report, sign_report
from tests.worlds.plans import OPERATOR, signing_key
from tests.worlds.reports import (
    certificate,
    coordinator_facts,
    coordinator_report,
    participant_facts,
    participant_report,
    reported_plan,
)

ROOT = Path(__file__).parent.parent.parent


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = onlysum.run(["audit", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_bytes(participant_report()[1])
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    run_directory = tmp_path / "alice" / "runs" / "00112233445566778899aabbccddeeff"
    run_directory.mkdir(parents=True)
    (run_directory / "report.json").write_bytes(participant_report()[1])
    (tmp_path / "alice" / "participant.toml").touch()
    return tmp_path / "alice"


@pytest.mark.parametrize("words", [("show",), ("verify",)])
def test_the_owner_s_directory_says_beside_the_report_how_training_went_and_nothing_else_does(
    words: tuple[str, ...], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (report,) = home.glob("runs/*/report.json")
    mark, before = "For the owner alone, unsigned and no part of the report: ", report.read_bytes()
    assert mark not in run(capsys, *words, report)[1]
    record = {"failed": [{"cause": "MemoryError", "round": 1}], "read": {"cause": "row 3: x", "rows": 9, "unusable": 2}}
    (report.parent / "training.json").write_text(json.dumps(record))
    code, out, _ = run(capsys, *words, report)
    rounds = reported_plan()[0].recipe.rounds
    said = f"training failed in 1 of {rounds} rounds (MemoryError); 2 of 9 rows cannot be used; the first: row 3: x"
    assert code == 0
    assert f"{mark}{said}" in " ".join(out.split())
    exported = run(capsys, "report", report.parent.name[:6], "--config", home, "-o", tmp_path / "out.json")[1]
    assert "unsigned" in exported
    assert (tmp_path / "out.json").read_bytes() == before == report.read_bytes()
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert "unsigned" not in run(capsys, *words, tmp_path / "out.json")[1], "a stranger's file beside a report"
    assert "unsigned" not in run(capsys, *words, report, "--json")[1]
    (report.parent / "training.json").write_text("{")
    assert "E-STATE-DAMAGED" in run(capsys, *words, report)[1]


@pytest.mark.usefixtures("eighty_columns")
def test_verify_lists_its_checks_and_asks_to_compare_the_fingerprint(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "verify", file)
    assert code == 0
    checks = [line.split()[1] for line in out.splitlines() if line.startswith("ok")]
    assert checks == ["signature", "plan", "maker", "privacy", "ledger", "rounds", "evaluations"]
    assert "participant alice" in out
    assert "Compare this fingerprint" in out
    assert max(map(len, out.splitlines())) <= 80


def test_verify_with_the_right_key_asks_for_nothing_more(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", file, "--key", signing_key("alice").public.hex())
    assert code == 0
    assert "Compare" not in out


def test_verify_with_another_key_fails_with_exit_code_6(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "verify", file, "--key", OPERATOR.public.hex())
    assert code == 6
    assert err.startswith("E-REPORT-KEY")


def test_verify_of_a_changed_report_fails_with_exit_code_6(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(file.read_bytes().replace(b'"epsilon":"5.', b'"epsilon":"4.', 1))
    code, out, err = run(capsys, "verify", file)
    assert (code, out) == (6, "")
    assert err.startswith("E-REPORT-SIGNATURE")


def test_verify_prints_json_when_asked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", file, "--json")
    values = json.loads(out)
    assert code == 0
    assert values["verified"] is True
    assert values["key_was_expected"] is False
    assert "ledger" in values["checks"]


@pytest.mark.parametrize("key", ["00", "zz" * 32])
def test_a_key_that_is_none_is_a_usage_error(key: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify", file, "--key", key)[0] == 2


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_missing_file_is_a_usage_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "verify", tmp_path / name)
    assert code == 2
    assert err.startswith("E-NOT-FOUND")


@pytest.mark.usefixtures("eighty_columns")
def test_show_prints_words_figures_and_the_ledger(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", file)
    assert code == 0
    for words in ("What is not protected", "against outsiders", "a person who is two units", "The owner's ledger"):
        assert words in out
    assert max(map(len, out.splitlines())) <= 80


def test_show_json_is_the_reports_body(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "show", file, "--json")[1])["made_by"]["name"] == "alice"


def test_show_of_a_forged_report_shows_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(file.read_bytes()[:-9])
    code, out, _ = run(capsys, "show", file)
    assert (code, out) == (6, "")


def test_export_writes_a_page_and_overwrites_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "export", file, "--to", "html")
    page = file.with_suffix(".html")
    assert code == 0
    assert str(page) in out
    assert page.read_text().startswith("<!doctype html>")
    assert run(capsys, "export", file)[0] == 2


@pytest.mark.parametrize(
    ("to", "name", "start"),
    [("html", "report.html", b"<!doctype html>"), ("pdf", "report.pdf", b"%PDF-1.7"),
     ("registry", "report.registry.yaml", b"url_slug: onlysum-")],
)  # fmt: skip
def test_export_names_the_file_after_the_report(
    to: str, name: str, start: bytes, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "export", file, "--to", to)
    assert code == 0
    assert f"wrote {file.with_name(name)}" in out
    assert file.with_name(name).read_bytes().startswith(start)


def test_export_writes_where_it_is_told_and_asks_for_the_right_key(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "elsewhere.pdf"
    assert run(capsys, "export", file, "--to", "pdf", "-o", target, "--key", OPERATOR.public.hex())[0] == 6
    assert not target.exists()
    assert run(capsys, "export", file, "--to", "pdf", "-o", target)[0] == 0
    assert target.exists()


@pytest.mark.parametrize(("to", "package"), [("pdf", "typst"), ("registry", "yaml")])
def test_an_export_without_its_packages_names_the_extra(
    to: str, package: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"audit.{to}", raising=False)
    monkeypatch.delattr(audit, to, raising=False)
    code, _, err = run(capsys, "export", file, "--to", to)
    assert code == 2
    assert err.startswith("E-EXTRA-MISSING")
    assert "onlysum[report]" in err


def test_a_run_without_a_claim_is_not_registered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "none.json"
    file.write_bytes(participant_report("none")[1])
    code, _, err = run(capsys, "export", file, "--to", "registry")
    assert code == 3
    assert err.startswith("E-REPORT-NO-CLAIM")


@pytest.mark.usefixtures("eighty_columns")
def test_reports_of_one_history_by_two_makers_agree(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, keys = reported_plan()
    other = tmp_path / "coordinator.json"
    other.write_bytes(sign_report(build_report(coordinator_facts(plan, keys)), OPERATOR))
    code, out, _ = run(capsys, "compare", file, other)
    assert code == 0
    assert "one plan, one history" in out
    assert "* made by" in out
    assert "* differs: each maker speaks for" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_coordinator_that_counts_fewer_rounds_than_were_charged_is_contradicted(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, keys = reported_plan()
    facts = coordinator_facts(plan, keys)
    other = tmp_path / "coordinator.json"
    other.write_bytes(sign_report(build_report(replace(facts, rounds=facts.rounds[:1])), OPERATOR))
    for pair in ((file, other), (other, file)):
        code, out, err = run(capsys, "compare", *pair)
        assert code == 6
        assert "* charged rounds" in out
        assert "the coordinator started 1 rounds, a participant was charged for 3" in err


def test_two_histories_of_one_plan_contradict_each_other(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    split = RoundFacts(round=2, attempts=2, certificate=certificate(plan, keys, 2, attempt=2, missing=("erin",)))
    rounds = (facts.rounds[0], split, facts.rounds[2])
    other = tmp_path / "split.json"
    other.write_bytes(sign_report(build_report(replace(facts, rounds=rounds)), keys["alice"]))
    code, out, err = run(capsys, "compare", file, other)
    assert code == 6
    assert "* transcript" in out
    assert "round 2: two different sums" in err


def test_a_coordinator_that_leaves_out_a_completed_round_is_contradicted(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, keys = reported_plan()
    facts = coordinator_facts(plan, keys)
    rounds = (facts.rounds[0], RoundFacts(round=2, attempts=3, certificate=None))
    other = tmp_path / "coordinator.json"
    other.write_bytes(sign_report(build_report(replace(facts, rounds=rounds)), OPERATOR))
    for pair in ((file, other), (other, file)):
        code, _, err = run(capsys, "compare", *pair)
        assert code == 6
        assert "round 2: the coordinator leaves out" in err


def test_a_participant_that_missed_the_last_result_contradicts_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, keys = reported_plan()
    facts = participant_facts(plan, keys)
    rounds = (facts.rounds[0], RoundFacts(round=2, attempts=1, certificate=None), facts.rounds[2])
    one, other = tmp_path / "alice.json", tmp_path / "coordinator.json"
    one.write_bytes(sign_report(build_report(replace(facts, rounds=rounds)), keys["alice"]))
    other.write_bytes(coordinator_report()[1])
    assert run(capsys, "compare", one, other)[0] == 0


def test_report_takes_a_runs_report_by_the_beginning_of_its_id(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy.json"
    code, out, _ = run(capsys, "report", "0011", "--from", "participant", "--config", home, "-o", target)
    assert code == 0
    assert "epsilon" in out
    assert target.read_bytes() == participant_report()[1]


def test_report_finds_the_directory_in_the_environment(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLYSUM_HOME", str(home))
    assert run(capsys, "report", "00", "-o", tmp_path / "copy.json")[0] == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("report", "ff"), "E-NOT-FOUND"),
        (("report", "00", "--from", "coordinator"), "E-CONFIG-MISSING"),
        (("report", ""), "E-NOT-FOUND"),
    ],
)
def test_report_says_what_is_missing(
    words: tuple[str, ...], code: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, _, err = run(capsys, *words, "--config", home, "-o", tmp_path / "x.json")
    assert outcome == 2
    assert err.startswith(code)


def test_a_run_without_a_report_yet_is_not_found(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "runs" / "ff00").mkdir()
    _, _, err = run(capsys, "report", "ff", "--config", home, "-o", tmp_path / "x.json")
    assert "no report yet" in err


def test_report_needs_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONLYSUM_HOME", raising=False)
    _, _, err = run(capsys, "report", "00", "-o", tmp_path / "x.json")
    assert err.startswith("E-CONFIG-MISSING")


@pytest.mark.parametrize("command", ["report", "show", "verify", "compare", "export"])
@pytest.mark.usefixtures("eighty_columns")
def test_every_command_has_an_example_in_eighty_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Example: onlysum audit " in out
    assert max(map(len, out.splitlines())) <= 80


def test_help_and_verification_need_neither_torch_nor_a_network_library() -> None:
    program = (
        "import onlysum, sys; onlysum.run(['audit', '--help']); quick = 'dp_accounting' in sys.modules;"
        "import audit.verify, audit.html, audit.text, audit.compare;"
        "print([m for m in ('torch', 'grpc', 'matplotlib', 'sqlalchemy', 'protos') if m in sys.modules], quick)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] False"
