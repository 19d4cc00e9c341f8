"""A file that matters is there whole or not at all, and a disk that refuses is named."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main

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


def test_a_file_that_was_filled_bit_by_bit_becomes_another_and_is_its_owners_alone(tmp_path: Path) -> None:
    path, draft = tmp_path / "file", tmp_path / "file.part"
    durable.write(path, b"old")
    draft.write_bytes(b"new")
    draft.chmod(0o644)
    assert durable.sha256(draft) == hashlib.sha256(b"new").digest()
    durable.adopt(draft, path)
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
        (errno.EROFS, "E-DISK-READONLY"),
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
    assert onlysum.run(["coordinator", "init", str(tmp_path / "file" / "clinic"), *words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("E-DISK-FAILED: ")
    assert str(tmp_path / "file") in shown


def _sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("of a table that may hold anything")
    error.sqlite_errorcode = code
    return error


DISKS: dict[str, tuple[BaseException, str]] = {
    "a full disk, whatever was being done": (OSError(errno.ENOSPC, "No space left on device"), "E-DISK-FULL"),
    "a full terminal or pipe that is a file": (OSError(errno.EDQUOT, "Disk quota exceeded"), "E-DISK-FULL"),
    "a read-only file system": (OSError(errno.EROFS, "Read-only file system", "/srv/x"), "E-DISK-READONLY"),
    "a broken disk": (OSError(errno.EIO, "Input/output error"), "E-DISK-FAILED"),
    "a full disk below a database": (_sqlite(sqlite3.SQLITE_FULL), "E-DISK-FULL"),
    "a read-only database": (_sqlite(sqlite3.SQLITE_READONLY), "E-DISK-READONLY"),
    "a full disk as a library of Rust tells it": (
        RuntimeError("I/O error: No space left on device (os error 28)"),
        "E-DISK-FULL",
    ),
}


@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_disk_that_refuses_is_no_bug_of_ours_whoever_says_so(
    disk: str, wrapped: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem, code = DISKS[disk]

    def fails(**_: object) -> None:
        if wrapped:
            raise ValueError("row 7 says: private") from problem
        raise problem

    monkeypatch.setattr(typer.main, "get_command", lambda _: SimpleNamespace(main=fails))
    assert onlysum.run(["explain"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"{code}: ")
    assert "next: " in shown
    assert "private" not in shown
    assert "table" not in shown


def test_what_no_disk_said_stays_a_bug() -> None:
    assert durable.disk_error_behind(ValueError("no (os error) at all")) is None
    assert durable.disk_error_behind(_sqlite(sqlite3.SQLITE_ERROR)) is None
    assert durable.disk_error_behind(OSError(errno.EINVAL, "Invalid argument")) is None


def test_room_is_taken_and_given_back_and_a_disk_without_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.try_room(tmp_path / ".room", 10**5)
    assert list(tmp_path.iterdir()) == []

    def none_left(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", none_left, raising=False)
    with pytest.raises(LocalError, match="E-DISK-FULL"):
        durable.try_room(tmp_path / ".room", 10**5)
    assert list(tmp_path.iterdir()) == []


def test_the_numbers_of_sqlite_are_those_of_the_library() -> None:
    named = {
        sqlite3.SQLITE_FULL: "E-DISK-FULL",
        sqlite3.SQLITE_IOERR: "E-DISK-FULL",
        sqlite3.SQLITE_BUSY: "E-STATE-BUSY",
        sqlite3.SQLITE_LOCKED: "E-STATE-BUSY",
        sqlite3.SQLITE_READONLY: "E-DISK-READONLY",
        sqlite3.SQLITE_CANTOPEN: "E-DISK-FAILED",
        sqlite3.SQLITE_PERM: "E-DISK-FAILED",
    }
    assert named == durable.SQLITE_CODES
