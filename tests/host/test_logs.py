"""Log lines go where the configuration says, in its level, and without tracebacks where those could show data."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from host.logs import Log, log_template, logging_to
from host.settings import Section, parse
from privacy.errors import LocalError


class Settings(Section):
    log: Log = Log()


@pytest.fixture(autouse=True)
def _default_logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_commented_section_is_the_default_and_valid_once_uncommented() -> None:
    text = log_template("participant")
    assert parse(text, Settings, file="participant.toml") == Settings()
    assert parse(text.replace("\n# ", "\n"), Settings, file="participant.toml").log.file == "participant.log"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(LocalError, match=r"E-CONFIG-INVALID.*line 2: log\.level"):
        parse('[log]\nlevel = "loud"\n', Settings, file="coordinator.toml")


def test_lines_are_appended_to_a_file_of_the_directory_that_its_owner_alone_reads(tmp_path: Path) -> None:
    for event in ("first", "second"):
        with logging_to(Log(file="daemon.log"), tmp_path, tracebacks=True):
            structlog.get_logger().info(event, run="0a1b")
    written = lines(tmp_path / "daemon.log")
    assert [(line["event"], line["level"], line["run"]) for line in written] == [
        ("first", "info", "0a1b"),
        ("second", "info", "0a1b"),
    ]
    assert stat.S_IMODE((tmp_path / "daemon.log").stat().st_mode) == 0o600


def test_without_a_file_lines_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(Log(), tmp_path, tracebacks=True):
        structlog.get_logger().warning("here")
    output = capsys.readouterr()
    assert (output.out, json.loads(output.err)["event"]) == ("", "here")


def test_lines_below_the_level_are_not_written(tmp_path: Path) -> None:
    with logging_to(Log(file="daemon.log", level="warning"), tmp_path, tracebacks=True):
        structlog.get_logger().info("quiet")
        structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(tmp_path / "daemon.log")] == ["loud"]


def test_what_is_logged_after_the_daemon_has_ended_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(Log(file="daemon.log"), tmp_path, tracebacks=True):
        pass
    structlog.get_logger().warning("late")
    assert json.loads(capsys.readouterr().err)["event"] == "late"


@pytest.mark.parametrize("tracebacks", [True, False])
def test_a_traceback_is_written_only_where_it_cannot_show_data(tmp_path: Path, tracebacks: bool) -> None:
    with logging_to(Log(file="daemon.log"), tmp_path, tracebacks=tracebacks):
        try:
            raise ValueError("row 3: Anna Meier")
        except ValueError:
            structlog.get_logger().exception("failed")
    assert ("Anna Meier" in (tmp_path / "daemon.log").read_text()) == tracebacks


def test_a_log_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    refusal = pytest.raises(LocalError, match=r"E-DISK-FAILED.*gone/daemon\.log")
    with refusal, logging_to(Log(file="gone/daemon.log"), tmp_path, tracebacks=True):
        pass
