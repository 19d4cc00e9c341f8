"""What a command prints cannot move the cursor, whatever it was given."""

from __future__ import annotations

import json

import pytest
import typer

import onlysum
from host.console import say, show
from privacy.errors import PeerError, Phase

HOSTILE = "refused\x1b[2J\x9b1A by \u202ealice\x00\u200b\u2028\ud83d"
ESCAPED = r"refused\x1b[2J\x9b1A by \u202ealice\x00\u200b\u2028\ud83d"


def test_lines_are_printed_with_escapes_and_their_own_line_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    show({}, ["first", HOSTILE, "two\nlines, می\u200cخواهم"], as_json=False)
    assert capsys.readouterr().out == f"first\n{ESCAPED}\ntwo\nlines, می\u200cخواهم\n"


def test_json_says_the_same_text_and_holds_no_such_character(capsys: pytest.CaptureFixture[str]) -> None:
    show({"because": HOSTILE}, [], as_json=True)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"because": HOSTILE}


def test_an_errors_text_is_printed_with_escapes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PeerError.by_coordinator("E-ROUND-SET", Phase.PLAN, HOSTILE)

    monkeypatch.setattr(typer.main, "get_command", lambda _: type("Command", (), {"main": refuse})())
    assert onlysum.run(["plan", "show"]) == 4
    err = capsys.readouterr().err
    assert ESCAPED in err
    assert "\x1b" not in err


def test_what_goes_to_standard_error_is_escaped_too(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE, to_error=True)
    assert capsys.readouterr() == ("", ESCAPED + "\n")
