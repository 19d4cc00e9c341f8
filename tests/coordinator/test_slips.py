"""Slips of operators, and what a program met too late: refused before anything is lost, and said in one line."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import onlysum
from coordinator.commands.console import LONGEST, seconds
from coordinator.config import Settings
from coordinator.opened import open_home
from coordinator.views.inbox import inbox
from host import console, durable
from host.rendering import LAST, moment, timestamp
from host.settings import parse
from privacy.errors import LocalError, PlanError
from privacy.plan import Plan
from tests.worlds.initialised import initialised
from tests.worlds.plans import plan_document


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coordinator that ``init`` made, named by the environment."""
    return initialised(tmp_path, monkeypatch)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert onlysum.run([*words, "--json"]) == code
    printed = capsys.readouterr()
    return json.loads(printed.out) if printed.out else json.loads(printed.err)["error"]


# --- times ---


def test_a_time_beyond_what_calendars_have_is_refused_and_never_breaks_a_page() -> None:
    with pytest.raises(LocalError, match=f"is longer than {LONGEST // 86_400}d"):
        seconds("999999w")
    assert seconds("520w") == 520 * 7 * 86_400
    assert (moment(2**53), timestamp(2**53)) == ("9999-12-31 23:59", "9999-12-31T23:59:59Z")
    document = plan_document()
    with pytest.raises(PlanError):
        Plan.from_bytes(
            json.dumps({**document, "expires_at": LAST + 1}, sort_keys=True, separators=(",", ":")).encode()
        )


# --- invitations ---


def test_a_file_that_is_there_keeps_its_invitation_valid(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ann.token"
    line = said(capsys, "coordinator", "invite", "ann", "-o", str(file))["token"]
    assert said(capsys, "coordinator", "invite", "ann", "-o", str(file), code=2)["code"] == "E-EXISTS"
    assert file.read_text().strip() == line

    def full(*_given: object, **_options: object) -> None:
        raise LocalError("E-DISK-FULL", "no room")

    monkeypatch.setattr(durable, "write_new", full)
    other = ("coordinator", "invite", "ann", "ben", "-o", str(tmp_path))
    assert said(capsys, *other, code=2)["code"] == "E-DISK-FULL"
    monkeypatch.undo()
    monkeypatch.setenv("ONLYSUM_HOME", str(home))
    with sqlite3.connect(home / "coordinator.db") as database:
        assert database.execute("SELECT count(*) FROM tokens").fetchone() == (1,), "none was made in its place"
    assert said(capsys, "coordinator", "invite", "ben", "cid", "-o", str(tmp_path))[0]["name"] == "ben"
    assert (tmp_path / "cid.token").read_text().startswith("onlysum")


def test_an_invitation_that_is_over_is_made_again_for_what_it_was(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "coordinator", "invite", "ann", "--evaluator", "eva")
    with open_home(home) as opened:
        items = inbox(opened, int(time.time()) + 60 * 86_400).items
    steps = {item.subject: item.next_step for item in items if item.kind == "invitation"}
    assert steps == {
        "ann": "onlysum coordinator invite ann",
        "eva": "onlysum coordinator invite eva --role evaluator",
    }


# --- output ---


@pytest.mark.parametrize("words", [("coordinator", "renew")])
def test_json_is_all_that_a_command_prints_on_standard_output(words: tuple[str, ...], home: Path) -> None:
    command = [sys.executable, "-m", "onlysum", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    assert json.loads(done.stdout)
    assert "renewed" in done.stderr


def test_nobody_who_stops_reading_is_told_of_a_bug(home: Path) -> None:
    command = f"{sys.executable} -m onlysum coordinator run list; echo $? >&2"
    done = subprocess.run(f"({command}) | true", shell=True, capture_output=True, text=True, env=os.environ, check=True)
    assert done.stderr.strip() in ("0", "141")


@pytest.mark.parametrize("command", ["onlysum coordinator init DIR", "onlysum coordinator security check FILE"])
def test_a_next_step_has_no_option_that_its_command_lacks(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: ContextVar[tuple[str, str]] = ContextVar("given", default=("coordinator", "clinic"))
    monkeypatch.setattr(console, "_given", given)
    assert console.with_config(f"do `{command}`") == f"do `{command}`"
    assert console.with_config("do `onlysum coordinator start`") == "do `onlysum coordinator start --config clinic`"


# --- what is not as it was ---


@pytest.mark.parametrize("words", [("status",), ("migrate",), ("doctor",)])
def test_a_database_of_a_newer_program_is_refused_with_both_schemas(
    words: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(home / "coordinator.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
    capsys.readouterr()
    assert onlysum.run(["coordinator", *words]) != 0
    printed = capsys.readouterr()
    assert "the database has schema 0099, this version knows up to 00" in " ".join((printed.out + printed.err).split())
    assert "E-BUG" not in printed.out + printed.err


def test_a_page_whose_port_is_taken_ends_the_program_without_a_traceback(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = (home / "coordinator.toml").read_text()
        before, admin, after = text.partition("[admin]")
        assert admin
        after = re.sub(r"(?m)^(# *)?listen *=.*$", f'listen = "{address}"', after, count=1)
        (home / "coordinator.toml").write_text(before + admin + after)
        command = [sys.executable, "-m", "onlysum", "coordinator", "start"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False, timeout=60)
    assert done.returncode == 2
    assert "E-PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("text", ["x = " + "9" * 5000, "x = " + "[" * 3000 + "]" * 3000])
def test_a_configuration_that_no_parser_takes_is_refused_by_its_file(text: str) -> None:
    with pytest.raises(LocalError) as info:
        parse(text, Settings, file="coordinator.toml")
    assert info.value.code == "E-CONFIG-INVALID"
    assert info.value.detail.startswith("coordinator.toml: ")
