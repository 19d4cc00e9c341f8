"""A directory of another version is refused by its format, before anything in it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.config import load_settings as load_coordinator
from coordinator.home import Home as CoordinatorHome
from host.state_format import FORMAT, FORMAT_NAME, require_format, write_format
from participant.config import load_settings as load_participant
from participant.home import Home as ParticipantHome
from privacy.errors import LocalError


def test_a_new_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").touch()
    write_format(tmp_path)
    require_format(tmp_path, tmp_path / "settings.toml")


def test_where_there_are_no_settings_there_is_nothing_to_judge(tmp_path: Path) -> None:
    require_format(tmp_path, tmp_path / "settings.toml")


@pytest.mark.parametrize("written", [None, "", "3", "4", "2 2", "x" * 10_000, "\x00"], ids=repr)
def test_state_of_another_format_is_refused_with_the_code_that_says_what_to_do(
    written: str | None, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").touch()
    if written is not None:
        (tmp_path / FORMAT_NAME).write_text(written)
    with pytest.raises(LocalError, match=f"this version reads format {FORMAT}") as refused:
        require_format(tmp_path, tmp_path / "settings.toml")
    assert refused.value.code == "E-STATE-VERSION"
    assert "finish its runs" in refused.value.explanation.next_step
    assert len(refused.value.detail) < 200 + len(str(tmp_path))


def test_settings_of_the_first_version_are_refused_by_the_format_and_not_by_a_key_that_is_gone(tmp_path: Path) -> None:
    """0.1 had ``log_level`` at the top of participant.toml; the format is what its owner must hear of."""
    (tmp_path / "participant.toml").write_text('name = "alice"\nlog_level = "info"\n')
    with pytest.raises(LocalError, match="format '1'"):
        load_participant(ParticipantHome(tmp_path))
    (tmp_path / "coordinator.toml").write_text('federation = "clinics"\n')
    with pytest.raises(LocalError, match="format '1'"):
        load_coordinator(CoordinatorHome(tmp_path))
