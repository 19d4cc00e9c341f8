"""A daemon's directory as one archive, and back.

Guarantees: an archive is complete or absent, and 0600; a restored directory is whole or absent, 0700 with files 0600,
and never takes the place of another.
Leaves to others: what belongs in an archive (``coordinator.daemon.backup``, ``participant.daemon.backup``).
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from host.credentials import DIRECTORY_MODE
from host.durable import FILE_MODE, new_directory
from privacy.errors import LocalError

BLOCK: Final = 1 << 20


@contextmanager
def new_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """Fill a compressed archive (0600) that does not exist yet; after an error it does not exist.

    Raises:
        LocalError: ``E-EXISTS``.
        OSError: a file that was to go in is gone, or the disk refuses.
    """
    if path.exists():
        raise LocalError("E-EXISTS", str(path))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            yield archive
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def restored(archive: Path, directory: Path) -> Iterator[Path]:
    """Extract an archive to a draft of a directory, which takes its place when the block has ended without an error.

    Args:
        archive: what :func:`new_archive` made.
        directory: does not exist yet, or is empty.

    Raises:
        LocalError: ``E-EXISTS``, ``E-NOT-FOUND``, ``E-DISK-FULL`` or ``E-DISK-FAILED``; ``E-STATE-DAMAGED``, it is no
            such archive, or a part of one.
    """
    if not archive.is_file():
        raise LocalError("E-NOT-FOUND", f"there is no file {archive}")
    with new_directory(directory) as draft:
        _extract(archive, draft)
        for path in (draft, *draft.rglob("*")):
            path.chmod(DIRECTORY_MODE if path.is_dir() else FILE_MODE)
        yield draft


def _extract(archive: Path, directory: Path) -> None:
    try:
        with gzip.open(archive) as stream:
            while stream.read(BLOCK):  # to the checksum at its end, where nothing but padding may be missing
                pass
        with tarfile.open(archive, "r:gz") as opened:
            opened.extractall(directory, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LocalError("E-STATE-DAMAGED", f"{archive} is no backup, or a part of one: {error}") from error


def move_to_configured(extracted: Path, configured: Path, *, file: str) -> None:
    """Move an extracted database to where a configuration file says that it lies.

    Args:
        extracted: where it lies in the restored directory.
        configured: where it belongs; often the same path.
        file: the configuration file's name, for the message.

    Raises:
        LocalError: ``E-EXISTS``, another file lies there.
    """
    if extracted.resolve() == configured.resolve():
        return
    if configured.exists():
        raise LocalError("E-EXISTS", f"{configured}, which {file} names; move it away first")
    shutil.move(extracted, configured)
