"""Files that are whole or absent after a crash, and what is said when a disk refuses.

Guarantees: when :func:`write` returns, the new bytes survive a power cut; before, the old ones do. State is written for
its owner alone (0600); what :func:`write_new` exports follows the umask.
Leaves to others: what the files mean, and who may enter their directories (``host.credentials``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from privacy.errors import LocalError

FILE_MODE: Final = 0o600
EXPORTED_MODE: Final = 0o644  # less the umask
DISK_CODES: Final = frozenset({"E-DISK-FULL", "E-DISK-READONLY", "E-DISK-FAILED"})  # of :func:`disk_error`
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OF_THE_DISK: Final = (*NO_SPACE, errno.EROFS, errno.EIO)  # whatever was being done, and where no file is named
# Primary result codes (sqlite.org/rescode.html), as numbers: the module takes long to import, and help needs this one.
SQLITE_CODES: Final = {
    13: "E-DISK-FULL",  # SQLITE_FULL
    10: "E-DISK-FULL",  # SQLITE_IOERR: what SQLite says when the log beside the database cannot grow
    5: "E-STATE-BUSY",  # SQLITE_BUSY
    6: "E-STATE-BUSY",  # SQLITE_LOCKED
    8: "E-DISK-READONLY",  # SQLITE_READONLY
    14: "E-DISK-FAILED",  # SQLITE_CANTOPEN
    3: "E-DISK-FAILED",  # SQLITE_PERM
}
_OF_A_LIBRARY: Final = re.compile(r"\(os error (\d{1,3})\)")  # how Rust's libraries name an error of the system


def disk_error(error: OSError, path: Path | str) -> LocalError:
    """Return what an error of the operating system means to a user: ``E-DISK-FULL``, ``-READONLY`` or ``-FAILED``."""
    return LocalError(_code(error.errno), f"{path}: {error.strerror}")


def _code(number: int | None) -> str:
    if number in NO_SPACE:
        return "E-DISK-FULL"
    return "E-DISK-READONLY" if number == errno.EROFS else "E-DISK-FAILED"


def sqlite_code(error: BaseException | None) -> str | None:
    """Return the code for what SQLite refused, or ``None`` where it is no disk and no lock that did."""
    number = getattr(error, "sqlite_errorcode", None)
    return None if number is None else SQLITE_CODES.get(number & 0xFF)


def disk_error_behind(problem: BaseException) -> LocalError | None:
    """Return the refusal of a disk that an exception stands for, or ``None``; libraries wrap them in their own.

    Only what the system says goes into the message, with the file if the error names one: the words of a library's
    exception may hold data.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = problem
    while cause is not None and cause not in seen:
        seen.append(cause)
        if isinstance(cause, OSError) and (cause.filename is not None or cause.errno in OF_THE_DISK):
            return disk_error(cause, cause.filename or "writing")
        if (code := sqlite_code(cause)) is not None:
            return LocalError(code, "a database")
        if (named := _OF_A_LIBRARY.search(str(cause))) and int(named[1]) in OF_THE_DISK:
            return disk_error(OSError(int(named[1]), os.strerror(int(named[1]))), "writing")
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or broken disk into an error that names the path, see :func:`disk_error`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def write(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Replace a file: a temporary file in the same directory, fsync, rename, fsync of the directory.

    Raises:
        LocalError: ``E-DISK-FULL``, ``E-DISK-READONLY`` or ``E-DISK-FAILED``; the old file is untouched.
    """
    draft = path.with_name(f".{path.name}.new")
    with disk_errors(path):
        try:
            draft.unlink(missing_ok=True)  # left by a crash
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_directory(path.parent)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def owners_alone(path: str, flags: int) -> int:
    """Open a file, as ``open`` asks for it, that nobody but its owner may read."""
    return os.open(path, flags, FILE_MODE)


def sha256(path: Path) -> bytes:
    """Return a file's SHA-256, read piece by piece: it may be long.

    Raises:
        LocalError: ``E-DISK-FAILED``.
    """
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def adopt(draft: Path, path: Path) -> None:
    """Let a file that was filled bit by bit, in the same directory, become another as :func:`write` would write it.

    Raises:
        LocalError: ``E-DISK-FULL``, ``E-DISK-READONLY`` or ``E-DISK-FAILED``; the old file is untouched.
    """
    with disk_errors(path):
        with draft.open("rb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)


def make_directory(path: Path, *, mode: int = 0o777) -> None:
    """Make a directory, and those above it that are missing; their names survive a power cut when this returns.

    Args:
        path: may be there already.
        mode: of the last one, less the umask; those above follow the umask.

    Raises:
        LocalError: ``E-DISK-FULL`` or ``E-DISK-FAILED``.
    """
    with disk_errors(path):
        missing = [directory for directory in path.parents if not directory.exists()]
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)
        path.mkdir(mode=mode, exist_ok=True)
        sync_directory(path.parent)  # also if it was there: whoever made it may have been killed before this


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Fill a directory that is not there yet, or empty: after the block it is there whole, after an error not at all.

    Raises:
        LocalError: ``E-EXISTS``, ``E-DISK-FULL`` or ``E-DISK-FAILED``.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise LocalError("E-EXISTS", str(path))
    draft = path.with_name(f".{path.name}.new")
    shutil.rmtree(draft, ignore_errors=True)  # left by a crash
    try:
        with disk_errors(path):
            make_directory(draft)
            yield draft
            draft.rename(path)
            sync_directory(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_new(path: Path, data: bytes, *, mode: int = EXPORTED_MODE) -> None:
    """Write a file for a user, who chose its name: it must not exist yet, and follows the umask.

    Args:
        path: of the file.
        data: what it holds.
        mode: its rights, less the umask; :data:`FILE_MODE` for what nobody else may read.

    Raises:
        LocalError: ``E-EXISTS``; ``E-NOT-FOUND``, its directory is missing; ``E-PERMISSIONS``, ``E-DISK-FULL`` or
            ``E-DISK-FAILED``.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except FileExistsError:
        raise LocalError("E-EXISTS", str(path)) from None
    except (FileNotFoundError, NotADirectoryError):
        raise LocalError("E-NOT-FOUND", f"there is no directory {path.parent}") from None
    except PermissionError:
        raise LocalError("E-PERMISSIONS", f"{path} cannot be written") from None
    with disk_errors(path):
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def move(source: Path, target: Path) -> None:
    """Rename a file or a directory within a disk, durably; nothing happens where it is not there (any more).

    Raises:
        LocalError: ``E-DISK-*``.
    """
    with disk_errors(target):
        try:
            source.rename(target)
        except FileNotFoundError:
            return
        sync_directory(target.parent)
        sync_directory(source.parent)


def try_room(path: Path, size: int) -> None:
    """Take so many bytes of a disk under a name that nothing else has, and give them back.

    Raises:
        LocalError: ``E-DISK-FULL`` or ``E-DISK-FAILED``: they are not to be had.
    """
    with disk_errors(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                file.write(b"\0")
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)


def erase(*paths: Path) -> None:
    """Remove files of one directory, as far as they are there, and make that durable: all of them at once.

    Raises:
        LocalError: ``E-DISK-*``.
    """
    there = [path for path in paths if path.exists()]
    for path in there:
        with disk_errors(path):
            path.unlink()
    if there:
        with disk_errors(there[0].parent):
            sync_directory(there[0].parent)


def remove(path: Path) -> None:
    """Remove a file that nobody needs any more, if it is there; a power cut may bring it back.

    Raises:
        LocalError: ``E-DISK-READONLY`` or ``E-DISK-FAILED``.
    """
    with disk_errors(path):
        path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
