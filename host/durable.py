"""Files that are whole or absent after a crash, and what is said when a disk refuses.

Guarantees: when :func:`write` returns, the new bytes survive a power cut; before, the old ones do. State is written for
its owner alone (0600); what :func:`write_new` exports follows the umask.
Leaves to others: what the files mean, and who may enter their directories (``host.credentials``).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from privacy.errors import LocalError

FILE_MODE: Final = 0o600
EXPORTED_MODE: Final = 0o644  # less the umask
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(error: OSError, path: Path | str) -> LocalError:
    """Return what an error of the operating system means to a user: ``E-DISK-FULL`` or ``E-DISK-FAILED``."""
    code = "E-DISK-FULL" if error.errno in NO_SPACE else "E-DISK-FAILED"
    return LocalError(code, f"{path}: {error.strerror}")


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
        LocalError: ``E-DISK-FULL`` or ``E-DISK-FAILED``; the old file is untouched.
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


def write_new(path: Path, data: bytes) -> None:
    """Write a file for a user, who chose its name: it must not exist yet, and follows the umask.

    Raises:
        LocalError: ``E-EXISTS``; ``E-NOT-FOUND``, its directory is missing; ``E-PERMISSIONS``, ``E-DISK-FULL`` or
            ``E-DISK-FAILED``.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, EXPORTED_MODE)
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


def erase(path: Path) -> None:
    """Remove a file, if it is there, and make that durable."""
    if path.exists():
        path.unlink()
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
