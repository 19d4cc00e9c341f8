"""A file that matters is there whole or not at all, and a disk that refuses is named."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
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


def test_an_exported_file_follows_the_umask_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    before = os.umask(0o027)
    try:
        durable.write_new(path, b"first")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(LocalError, match="E-EXISTS"):
        durable.write_new(path, b"second")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("place", ["gone/file", "file/inside"], ids=["no directory", "a file in place of one"])
def test_a_file_is_exported_only_to_a_directory_that_exists(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match="E-NOT-FOUND"):
        durable.write_new(tmp_path / place, b"x")


def test_a_full_disk_leaves_no_part_of_an_exported_file(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; from host import durable; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); "
        "durable.write_new(Path(sys.argv[1]), b'x' * 100)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "file"], capture_output=True, text=True, check=False
    )
    assert "LocalError: E-DISK-FULL" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_gone_stays_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"x")
    durable.erase(path)
    durable.erase(path)
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_new_directories_are_durable_each_in_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    durable.make_directory(tmp_path / "a" / "b" / "c", mode=0o700)
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o700
    durable.make_directory(tmp_path / "a" / "b" / "c")
    assert synced[3:] == [tmp_path / "a" / "b"], "whoever made it may have been killed before it was durable"
    with durable.new_directory(tmp_path / "d") as draft:
        (draft / "file").touch()
    assert synced[-1] == tmp_path


def test_what_the_operating_system_refuses_is_named_and_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["--name", "a", "--operator", "A", "--address", "localhost:8443"]
    assert onlysum.run(["coordinator", "init", str(tmp_path / "file" / "clinic"), *words]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("E-DISK-FAILED: ")
    assert str(tmp_path / "file") in shown
