"""A status is information: whole or absent, and never a reason to stop."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from host.status_file import read_status_file, write_status_file


def test_a_status_is_read_as_it_was_written_and_belongs_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    assert read_status_file(path) is None
    for pid in (1, 2):
        write_status_file(path, {"pid": pid, "live": ["a"]})
    assert read_status_file(path) == {"pid": 2, "live": ["a"]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["daemon.json"]


def test_a_full_disk_is_told_in_the_blocks_that_the_file_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "daemon.json"
    write_status_file(path, {"live": ["a", "b"]})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    for said in ({"code": "E-DISK-FULL", "live": ["a"]}, {"code": ""}):
        write_status_file(path, said)
        assert read_status_file(path) == said
    write_status_file(path, {"live": ["a"] * 10_000})  # more than the file has blocks for
    assert read_status_file(path) == {"code": ""}
    assert [file.name for file in tmp_path.iterdir()] == ["daemon.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_file_that_does_not_parse_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "daemon.json").write_bytes(content)
    assert read_status_file(tmp_path / "daemon.json") is None


def test_a_disk_that_refuses_the_status_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "daemon.json"
    write_status_file(path, {"pid": 1})
    assert not path.exists()
