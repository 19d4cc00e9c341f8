"""The journal of a run on disk: what was promised, fsynced before anything leaves.

Guarantees: :meth:`Journal.append` returns after file and directory are durable; each line carries the hash of all
records so far, from the plan hash on, so a changed, missing or foreign record is noticed, the last one too; a last line
that a crash cut off was never acted on and is dropped. Blobs (encoded and masked updates, shares held for others) are
written 0600, fsynced, and checked against their hash when read.
Leaves to others: what the records mean (``memory``), rollback of the whole file (``rollback``, at the handshake).
Source: docs/protocol.md section 6.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from host import durable
from host.credentials import DIRECTORY_MODE
from participant.protocol.memory import Record, RunMemory, RunRefused, record_from_json, record_to_json
from privacy import canonical
from privacy.errors import VerificationError
from privacy.heads import JournalHead
from privacy.secagg.fixed_point import Buffer

_CHAIN_LABEL = b"onlysum/1/journal"


class Journal:
    """The journal of one run; made by :meth:`open`."""

    def __init__(self, directory: Path, memory: RunMemory, head: bytes) -> None:
        self._directory = directory
        self._heads = [head]  # of no record, of the first, and so on
        self._size = 0  # of the lines that are records
        self._named = False  # whether this process has made the name durable: another may have died before it did
        self._torn = False  # whether the file may be longer than that
        self.memory = memory

    @classmethod
    def open(cls, directory: Path, plan_hash: bytes) -> Journal:
        """Open, or begin, the journal in a run's directory.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``; the participant abstains from the run.
            LocalError: the directory cannot be made.
        """
        durable.make_directory(directory, mode=DIRECTORY_MODE)
        with durable.disk_errors(directory):
            path = directory / "journal"
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                with path.open("r+b") as file:
                    file.truncate(len(whole))
                    os.fsync(file.fileno())
        journal = cls(directory, RunMemory.empty(plan_hash), hashlib.sha256(_CHAIN_LABEL + plan_hash).digest())
        for number, line in enumerate(whole.splitlines(), start=1):
            journal._replay(line, number)
        journal._size = len(whole)
        return journal

    def _replay(self, line: bytes, number: int) -> None:
        damaged = VerificationError(
            "E-STATE-DAMAGED", f"line {number} of {self._directory / 'journal'} does not verify"
        )
        try:
            match canonical.decode(line):
                case {"chain": str() as chain, "record": record, **others} if not others:
                    self._heads.append(_chained(self._heads[-1], record))
                    if chain != self._heads[-1].hex():
                        raise damaged
                    self.memory = self.memory.apply(record_from_json(record))
                case _:
                    raise damaged
        except ValueError:
            raise damaged from None

    def append(self, record: Record) -> None:
        """Make a record durable and take it into :attr:`memory`.

        Raises:
            LocalError: ``E-DISK-FULL``; the record is not there and nothing may be sent on its strength.
        """
        value = record_to_json(record)
        head = _chained(self._heads[-1], value)
        line = canonical.encode({"chain": head.hex(), "record": value})
        path = self._directory / "journal"
        with durable.disk_errors(path):
            if self._torn:
                self._cut(path)
            try:
                _append(path, line + b"\n")
                if not self._named:
                    durable.sync_directory(self._directory)
            except OSError:
                self._torn = True
                with suppress(OSError):
                    self._cut(path)
                raise
        self._named = True
        self._size += len(line) + 1
        self._heads.append(head)
        self.memory = self.memory.apply(record)

    def _cut(self, path: Path) -> None:
        """Take what is no record off the end: a line may be there although the disk refused to make it durable."""
        if path.exists():
            os.truncate(path, self._size)
        self._torn = False

    @property
    def head(self) -> JournalHead:
        """How far it has come."""
        return JournalHead(len(self._heads) - 1, self._heads[-1])

    def contains(self, head: JournalHead) -> bool:
        """Return whether the record of a head, and so all before it, are in this journal."""
        return head.length < len(self._heads) and self._heads[head.length] == head.hash

    def refuse(self, code: str) -> None:
        """Refuse the run for good, also after a restart; the first reason stands."""
        if not self.memory.refused:
            self.append(RunRefused(code))

    def store(self, name: str, data: Buffer) -> Path:
        """Write a blob durably (0600) under a name and return its path."""
        path = self._directory / name
        durable.write(path, data)
        return path

    def load(self, name: str, sha256: bytes) -> bytes | None:
        """Return a blob whose hash is as expected, or ``None`` if it is lost or changed."""
        try:
            data = (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).digest() == sha256 else None

    def path(self, name: str) -> Path:
        """Return where a blob of this name lies."""
        return self._directory / name

    def erase(self, name: str) -> None:
        """Remove a blob when its round closes."""
        (self._directory / name).unlink(missing_ok=True)


def _chained(head: bytes, record: canonical.Json) -> bytes:
    """Return the hash of a record and, through the head before it, of all records and the plan."""
    return hashlib.sha256(head + canonical.encode(record)).digest()


def _append(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, durable.FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
