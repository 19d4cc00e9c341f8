"""Durable blobs by name: whole or absent, never changed, and believed only with the hash that somebody else keeps.

Guarantees: what :meth:`Blobs.put_new` took survives a power cut of this machine when it returns, and is never replaced
by other bytes; what :func:`fetch` and :func:`read` return has the length and the hash that were asked for.
Leaves to others: a store over the network (``objects``), which names there are and who keeps their hashes
(``coordinator.storage.content``, ``coordinator.runs.uploads``).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from host import durable
from privacy.errors import LocalError

BLOCK_BYTES: Final = 8 * 2**20  # what one request brings: small enough for a slow line within its time
TRIES: Final = 2  # of reading: bytes that changed on their way come right the second time
_DRAFT: Final = ".new-"  # how the names of files begin that are being written
_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,200}(/(?!\.)[A-Za-z0-9._-]{1,200})*")


class Blob(NamedTuple):
    """A blob that is there."""

    name: str
    length: int  # in bytes


class Blobs(Protocol):
    """A place for blobs. Names are segments of letters, digits, ``.``, ``_`` and ``-``, separated by ``/``.

    Every call raises ``LocalError``: ``E-STORAGE-AWAY`` if the place cannot be reached in a bounded time,
    ``E-STORAGE-DAMAGED`` if what lies there is not what should, and a directory's ``E-DISK-*``.
    """

    @property
    def place(self) -> str:
        """Where it is, for people; no secret is in it."""
        ...

    def put_new(self, name: str, source: Path, *, sha256: bytes) -> None:
        """Keep a file's bytes; the same ones once more are no error, and others under a name that is taken are one."""
        ...

    def blocks(self, name: str, *, length: int) -> Iterator[bytes]:
        """Yield a blob of so many bytes, block by block; whoever reads them compares their hash."""
        ...

    def list(self, prefix: str) -> tuple[Blob, ...]:
        """Return the blobs whose first segments are these, in the order of names; an empty prefix is all of them."""
        ...

    def delete(self, names: Collection[str]) -> None:
        """Remove blobs, as far as they are there."""
        ...

    def delete_tree(self, prefix: str) -> None:
        """Remove every blob whose first segments are these."""
        ...


def check_name(name: str) -> str:
    """Return a name if blobs may have it: nothing leads out of the place.

    Raises:
        LocalError: ``E-BUG``.
    """
    if _NAME.fullmatch(name) is None:
        raise LocalError("E-BUG", f"no blob may have the name {name[:80]!r}")
    return name


def read(blobs: Blobs, name: str, *, sha256: bytes, length: int) -> bytes:
    """Return a whole blob that has this hash.

    Raises:
        LocalError: as of :class:`Blobs`.
    """
    for left in reversed(range(TRIES)):
        data = b"".join(blobs.blocks(name, length=length))
        if len(data) == length and hashlib.sha256(data).digest() == sha256:
            return data
        if not left:
            raise _damaged(blobs, name)
    raise AssertionError("unreachable")


def fetch(blobs: Blobs, name: str, target: Path, *, sha256: bytes, length: int) -> None:
    """Bring a blob that has this hash into a file, which is whole or as it was before; other threads may do the same.

    Raises:
        LocalError: as of :class:`Blobs`, or ``E-DISK-*``.
    """
    durable.make_directory(target.parent)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        for left in reversed(range(TRIES)):
            if _written(blobs, name, draft, sha256, length):
                break
            if not left:
                raise _damaged(blobs, name)
        durable.adopt(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _written(blobs: Blobs, name: str, draft: Path, sha256: bytes, length: int) -> bool:
    """Write a blob to a file, and return whether it is the one that was asked for."""
    digest, size = hashlib.sha256(), 0
    with durable.disk_errors(draft), open(draft, "wb", opener=durable.owners_alone) as file:
        for block in blobs.blocks(name, length=length):
            digest.update(block)
            size += len(block)
            file.write(block)
    return size == length and digest.digest() == sha256


def _damaged(blobs: Blobs, name: str) -> LocalError:
    return damaged(f"{name} in {blobs.place} is not what was put there")


def damaged(detail: str) -> LocalError:
    """Return ``E-STORAGE-DAMAGED``."""
    return LocalError("E-STORAGE-DAMAGED", detail)


class DirectoryBlobs:
    """Blobs as files of a directory, which several machines may see; no locks are needed, but hard links."""

    def __init__(self, root: Path) -> None:
        """Use a directory, which is made when the first blob comes."""
        self._root = root

    @property
    def place(self) -> str:
        """The directory."""
        return str(self._root)

    def put_new(self, name: str, source: Path, *, sha256: bytes) -> None:
        """As :meth:`Blobs.put_new`: written apart, made durable, and linked, which takes no name that is taken."""
        path = self._path(name)
        durable.make_directory(path.parent, mode=0o700)
        draft = path.with_name(f"{_DRAFT}{secrets.token_hex(8)}")
        with durable.disk_errors(path):
            try:
                with source.open("rb") as old, open(draft, "xb", opener=durable.owners_alone) as new:
                    shutil.copyfileobj(old, new, BLOCK_BYTES)
                    new.flush()
                    os.fsync(new.fileno())
                path.hardlink_to(draft)
            except FileExistsError:
                if durable.sha256(path) != sha256:
                    raise damaged(f"{name} in {self.place} has other bytes already") from None
            finally:
                draft.unlink(missing_ok=True)
            durable.sync_directory(path.parent)

    def blocks(self, name: str, *, length: int) -> Iterator[bytes]:
        """As :meth:`Blobs.blocks`."""
        path = self._path(name)
        with durable.disk_errors(path):
            try:
                with path.open("rb") as file:
                    while block := file.read(BLOCK_BYTES):
                        yield block
            except FileNotFoundError:
                raise damaged(f"{name} is not in {self.place} any more") from None

    def list(self, prefix: str) -> tuple[Blob, ...]:
        """As :meth:`Blobs.list`."""
        with durable.disk_errors(self._root):
            return tuple(sorted(self._under(self._path(prefix) if prefix else self._root)))

    def _under(self, directory: Path) -> Iterator[Blob]:
        for path in directory.rglob("*"):
            if path.is_file() and not path.name.startswith(_DRAFT):
                yield Blob(path.relative_to(self._root).as_posix(), path.stat().st_size)

    def delete(self, names: Collection[str]) -> None:
        """As :meth:`Blobs.delete`."""
        for name in names:
            durable.remove(self._path(name))

    def delete_tree(self, prefix: str) -> None:
        """As :meth:`Blobs.delete_tree`."""
        path = self._path(prefix)
        with durable.disk_errors(path):
            if path.exists():
                shutil.rmtree(path)

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)
