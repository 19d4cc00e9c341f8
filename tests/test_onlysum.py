"""The one command: help without the packages, errors as messages, exit codes by who is at fault."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import onlysum
from privacy.errors import LocalError, NetworkError, PeerError, Phase, RefusedError, VerificationError

ROOT = Path(__file__).parent.parent
HELP_SECONDS = 0.3


def run(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = onlysum.run(words.split())
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def children_seconds() -> float:
    """Processor time of ended child processes: what a command takes on a machine that does nothing else."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def failing(monkeypatch: pytest.MonkeyPatch, problem: BaseException) -> None:
    def load(place: onlysum.CommandGroup) -> object:
        raise problem

    monkeypatch.setattr(onlysum, "_load", load)


def test_help_names_every_group_and_imports_no_package() -> None:
    program = (
        "import onlysum, sys; code = onlysum.run(['--help']); "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('coordinator', 'participant', 'audit', 'simulation', 'grpc', 'numpy', 'torch')], code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(place in done.stdout for place in (*onlysum.GROUPS, "explain"))
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(5):
        before = children_seconds()
        subprocess.run([sys.executable, "-m", "onlysum", "--help"], cwd=ROOT, capture_output=True, check=True)
        seconds.append(children_seconds() - before)
    assert min(seconds) < HELP_SECONDS


def test_help_fits_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run("--help", capsys)
    assert max(len(line) for line in out.splitlines()) <= 80


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version", capsys)[1] == f"onlysum {version}\n"


def test_a_mistyped_command_gets_a_suggestion_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("particpant", capsys)
    assert code == 2
    assert "did you mean participant?" in err


def test_an_unknown_option_is_a_usage_error_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("explain --jsn", capsys)
    assert code == 2
    assert err.startswith("E-USAGE")
    assert "Traceback" not in err


@pytest.mark.parametrize("words", ["explain E-POLICY-BUDGET", "explain policy-budget"])
def test_explain_says_what_why_and_what_next(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(words, capsys)
    assert code == 0
    assert out.startswith("E-POLICY-BUDGET: ")
    assert "why: " in out
    assert "next: " in out
    assert "exit code: 3" in out


def test_explain_lists_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    from privacy.error_codes import REGISTRY

    assert json.loads(run("explain --all --json", capsys)[1]).keys() == REGISTRY.keys()


def test_explain_suggests_the_nearest_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("explain E-POLICY-BUGDET", capsys)
    assert code == 2
    assert "did you mean E-POLICY-BUDGET?" in err


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (LocalError("E-CONFIG-MISSING", "there is no file"), 2),
        (RefusedError("E-POLICY-WAITING", "run 1"), 3),
        (PeerError("E-ROUND-SET", participant="alice", phase=Phase.SHARE_KEYS, rule="sorted"), 4),
        (NetworkError("E-NET-REFUSED", "127.0.0.1:1"), 5),
        (VerificationError("E-REPORT-SIGNATURE", "report.json"), 6),
    ],
)
def test_an_error_leaves_as_three_lines_and_the_exit_code_of_who_is_at_fault(
    problem: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, problem)
    outcome, _, err = run("audit", capsys)
    assert outcome == code
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("  why: ")
    assert lines[2].startswith("  next: ")


def test_an_error_is_json_when_json_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, RefusedError("E-POLICY-WAITING", "run 1"))
    code, _, err = run("audit --json", capsys)
    assert code == 3
    assert json.loads(err)["error"]["code"] == "E-POLICY-WAITING"


def test_an_unexpected_exception_is_a_bug_whose_traceback_goes_to_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    code, _, err = run("audit", capsys)
    assert code == 1
    assert err.startswith("E-BUG")
    assert "Traceback" not in err
    written = Path(err.split("the traceback is in ")[1].splitlines()[0])
    assert "ZeroDivisionError" in written.read_text()
    assert written.stat().st_mode & 0o077 == 0
    written.unlink()


def test_a_traceback_file_holds_places_and_types_and_no_words_of_an_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = ValueError("Mrs Smith, born 1951")
    problem.__cause__ = KeyError("Mr Jones")
    problem.add_note("row: Mrs Smith")
    failing(monkeypatch, problem)
    _, _, err = run("audit", capsys)
    written = Path(err.split("the traceback is in ")[1].splitlines()[0])
    text = written.read_text()
    written.unlink()
    assert "ValueError" in text
    assert "KeyError" in text
    assert "onlysum.py" in text
    assert "Smith" not in text + err
    assert "Jones" not in text + err
    assert "send" not in err


def test_a_terminal_of_another_encoding_gets_every_message() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    words = [sys.executable, "-m", "onlysum", "explain", "E-\u0142\u00f3d\u017a"]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert (done.returncode, b"E-BUG" in done.stderr) == (2, False)
    assert b"E-NOT-FOUND" in done.stderr


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, ModuleNotFoundError("No module named 'torch'", name="torch"))
    code, _, err = run("participant", capsys)
    assert code == 2
    assert "onlysum[participant]" in err


def test_interrupting_leaves_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert run("audit", capsys)[0] == 130


def test_a_file_that_ends_too_early_is_no_silent_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, EOFError("no data left"))
    code, _, err = run("audit", capsys)
    assert code == 1
    assert "E-BUG" in err


@pytest.mark.parametrize("place", onlysum.GROUPS)
def test_every_place_has_help_of_eighty_columns_without_options_of_the_shell(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(f"{place} --help", capsys)
    assert code == 0
    assert out.startswith(f"Usage: onlysum {place}")
    assert "--install-completion" not in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_every_command_says_what_it_does_in_whole_sentences_and_shows_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    waiting, seen = [""], 0
    while waiting:
        words = waiting.pop()
        code, out, _ = run(f"{words} --help", capsys)
        seen, (_, found, listed) = seen + 1, out.partition("\nCommands:\n")
        assert code == 0
        assert found or "Example: onlysum" in out, words
        for line in listed.splitlines():
            assert not line.endswith("..."), f"the caption is cut: {line}"
            if line.startswith("  ") and not line.startswith("   "):
                waiting.append(f"{words} {line.split()[0]}")
    assert seen > 60
