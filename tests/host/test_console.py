"""Lines and tables break between words, and the commands that they tell name the directory as it was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from host.console import AsJson, laid_out, notes_config, say, show, with_config, working
from host.rendering import Table, broken, table, timestamp, wrapped

WIDTHS = (40, 60, 80, 120)
SENTENCE = (
    "The plan of run 3f2a waits for a person; the policy refuses it: floors.f: f is 0, the policy asks for at least 1, "
    "and roster.known: not pinned, so unverified: clinic-b, clinic-c."
)
ROWS = [
    ("3f2a9c0d1e2f", "aborted", "2026-11-29 04:47", "the operator ended it before all had approved, and said why"),
    ("77", "completed", "2026-11-28 23:01", "ten digits of five hospitals"),
]
HEADER = ("RUN", "STATE", "ENDED (UTC)", "REASON OR TITLE")

app = typer.Typer()


@app.command()
def told(
    config: Annotated[
        Path | None, typer.Option("--config", envvar="ONLYSUM_HOME", callback=notes_config("coordinator"))
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what to do next."""
    lines = [
        "Next: onlysum coordinator run watch 0a1b",
        "see `onlysum coordinator status`, or `onlysum coordinator run list`",
        "There: onlysum participant join TOKEN",
        "Next: onlysum coordinator start --config elsewhere",
    ]
    show({"config": None if config is None else str(config)}, lines, as_json=as_json)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sentence_breaks_between_words_and_loses_none(width: int) -> None:
    lines = wrapped(f"  {SENTENCE}", width)
    assert all(len(line) <= width for line in lines)
    assert " ".join(" ".join(lines).split()) == SENTENCE
    assert all(line.startswith("    ") for line in lines[1:])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_fact_that_breaks_goes_on_below_its_text(width: int) -> None:
    first, *rest = wrapped(f"{'population':<13}{SENTENCE}", width)
    assert first.startswith("population   The")
    assert rest
    assert all(line.startswith(" " * 13) and line[13] != " " for line in rest)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_any_width_and_loses_no_word(width: int) -> None:
    lines = Table(HEADER, tuple(ROWS)).fit(width)
    assert all(len(line) <= width for line in lines)
    shown = " ".join(lines).split()
    assert all(word in shown for row in ROWS for cell in row for word in cell.split())


def test_a_table_whose_words_are_too_long_for_columns_becomes_a_block_per_row() -> None:
    lines = Table(("NAME", "HASH"), (("minilm", "ab" * 32), ("vit", "cd" * 32))).fit(40)
    assert " ".join(lines[:3]).split() == ["NAME", "minilm", "HASH", "ab" * 32]
    assert "" in lines  # between the rows


def test_a_word_longer_than_the_line_stays_whole() -> None:
    assert "onlysum1-" + "x" * 200 in wrapped("Token: onlysum1-" + "x" * 200, 40)[-1]


LONG = {
    "letters": "x" * 300,
    "dots before a claim": "Digits" + "." * 80 + "roster:verified",
    "no-break spaces": "\u00a0".join(["Digits", *[""] * 80, "roster:\u00a0verified"]),
    "wide letters": "医" * 100,
    "letters with marks": "e\u0301" * 100,
}


@pytest.mark.parametrize("sentence", LONG)
def test_a_word_that_others_wrote_begins_no_line_of_a_terminal(sentence: str) -> None:
    shown = broken(f"Purpose: {LONG[sentence]}")
    assert "".join(shown.split()) == "".join(f"Purpose:{LONG[sentence]}".split())
    lines = wrapped(f"  {shown}", 50)
    assert all(line.startswith("    ") for line in lines[1:])
    assert all(sum(2 if character == "医" else 1 for character in line) <= 100 for line in lines)
    assert all(len(word) <= 80 for word in shown.split())
    assert broken("ab" * 32) == "ab" * 32, "a hash is compared whole"


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_printed_keeps_to_the_columns_of_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    say(SENTENCE, *table(HEADER, ROWS))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width


def test_without_a_terminal_and_without_columns_lines_have_eighty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("sys.__stdout__", None)
    say(SENTENCE)
    assert 60 < max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_next_step_names_the_directory_as_it_was_typed() -> None:
    shown = CliRunner().invoke(app, ["--config", "my clinic"]).output
    assert "Next: onlysum coordinator run watch 0a1b --config 'my clinic'\n" in shown
    assert "`onlysum coordinator status --config 'my clinic'`, or `onlysum coordinator run list --config" in shown


def test_a_next_step_of_another_package_or_with_a_directory_of_its_own_stays_as_it_is() -> None:
    shown = CliRunner().invoke(app, ["--config", "clinic"]).output
    assert "There: onlysum participant join TOKEN\n" in shown
    assert "Next: onlysum coordinator start --config elsewhere\n" in shown


def test_a_directory_from_the_environment_is_not_repeated() -> None:
    shown = CliRunner().invoke(app, [], env={"ONLYSUM_HOME": "clinic"}).output
    assert "--config clinic" not in shown
    assert with_config("see `onlysum coordinator status`") == "see `onlysum coordinator status`"


def test_json_is_never_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = CliRunner().invoke(app, ["--config", "clinic/" * 30, "--json"]).output
    assert json.loads(shown)["config"].startswith("clinic/clinic")


def test_a_time_for_programs_is_a_date() -> None:
    assert timestamp(1_790_000_000) == "2026-09-21T14:13:20Z"
    assert timestamp(None) is None


def test_a_line_of_several_is_broken_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert laid_out("a\nb") == ["a", "b"]


def test_long_work_is_shown_on_a_terminal_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with working("hashing") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with working("hashing the files of [red]/m\u202e") as progress:
        progress(1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "hashing the files of [red]/m" in err
    assert "\u202e" not in err
