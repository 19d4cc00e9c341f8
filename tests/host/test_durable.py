"""A file that matters is there whole or not at all, and a disk that refuses is named."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from pathlib import Path

import pytest

import onlysum
from host import durable
from privacy.errors import LocalError


def test_a_file_is_replaced_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name(".file.new").write_bytes(b"left by a crash")
    durable.write(path, b"old")
    durable.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "E-DISK-FULL"),
        (errno.EDQUOT, "E-DISK-FULL"),
        (errno.EFBIG, "E-DISK-FULL"),
        (errno.EIO, "E-DISK-FAILED"),
        (errno.EROFS, "E-DISK-FAILED"),
    ],
)
def test_a_disk_that_refuses_leaves_the_old_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    path = tmp_path / "file"
    durable.write(path, b"old")

    def refuses(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(LocalError, match=str(path)) as refused:
        durable.write(path, b"new")
    assert refused.value.code == code
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_new_directory_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result"
    with pytest.raises(LocalError, match="E-DISK-FAILED"), durable.new_directory(path) as directory:
        os.link(directory, directory / "first")  # refused, as a write to a full disk is
    assert list((tmp_path / "deep").iterdir()) == []
    with durable.new_directory(path) as directory:
        (directory / "first").write_text("x")
    assert [one.name for one in path.iterdir()] == ["first"]
    with pytest.raises(LocalError, match="E-EXISTS"), durable.new_directory(path):
        pass
    assert [one.name for one in path.iterdir()] == ["first"]


def test_an_archive_is_its_owners_alone_and_after_an_error_not_there(tmp_path: Path) -> None:
    path = tmp_path / "kept.tar.gz"
    with pytest.raises(FileNotFoundError), durable.new_archive(path) as archive:
        archive.add(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []
    with durable.new_archive(path) as archive:
        archive.add(__file__, "file")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(LocalError, match="E-EXISTS"), durable.new_archive(path):
        pass
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["file"]


def test_a_file_that_is_gone_stays_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"x")
    durable.erase(path)
    durable.erase(path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_operating_system_refuses_is_named_and_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["--name", "a", "--operator", "A", "--address", "localhost:8443"]
    assert onlysum.run(["coordinator", "init", str(tmp_path / "file" / "clinic"), *words]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("E-DISK-FAILED: ")
    assert str(tmp_path / "file") in shown
