"""The ledger's file: an append-only SQLite database, and its errors as ours.

Guarantees: what a transaction wrote is on disk when it ends (WAL, synchronous=FULL); SQLite itself refuses to change or
to remove a record.
Leaves to others: what records mean (``ledger``), finding out that some are missing (``participant.runs.open_runs``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from host import durable
from host.durable import sqlite_code
from privacy.errors import LocalError, RefusedError, VerificationError
from privacy.heads import LedgerHead

NOT_COMPARED: Final = b"0"  # in place of the number of a record that is missing
BUSY_MS: Final = 10_000  # how long to wait for another process (a command beside the daemon)

SCHEMA: Final = (
    """CREATE TABLE records (
        sequence INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body BLOB NOT NULL, signature BLOB NOT NULL,
        plan_hash BLOB, round INTEGER, UNIQUE (plan_hash, round)
    ) STRICT""",
    """CREATE TRIGGER records_are_never_changed BEFORE UPDATE ON records
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER records_are_never_removed BEFORE DELETE ON records
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)
INSERT: Final = "INSERT INTO records (sequence, hash, body, signature, plan_hash, round) VALUES (?, ?, ?, ?, ?, ?)"


class Losses:
    """What members of this machine know to be missing from a ledger: beside it on disk, and for all who charge there.

    Each member speaks for the records that it showed itself.
    """

    def __init__(self, ledger: Path, member: bytes) -> None:
        self._ledger = ledger
        self._own = self._mark(member.hex())

    def note(self, lost: LedgerHead | None) -> None:
        """Keep that a record is missing which this member showed, or that none is.

        Raises:
            LocalError: ``E-DISK-*``.
        """
        if lost is not None:
            durable.write(self._own, str(lost.sequence).encode())
        elif self._own.exists():
            durable.erase(self._own)

    def note_restored(self) -> None:
        """Let nobody charge before this member has compared the ledger with what it showed.

        Raises:
            LocalError: ``E-DISK-*``.
        """
        durable.write(self._own, NOT_COMPARED)

    def require_none(self) -> None:
        """Refuse to go on while a record is missing that any member has shown, or may be.

        Raises:
            RefusedError: ``E-LEDGER-ROLLBACK``.
        """
        for mark in sorted(self._ledger.parent.glob(self._mark("*").name)):
            why = "was restored, and not compared yet with what its coordinator has seen: start its daemon"
            if mark.read_bytes() != NOT_COMPARED:
                why = "showed records that are missing here"
            raise RefusedError("E-LEDGER-ROLLBACK", f"a member of this machine {why} ({mark})")

    def _mark(self, member: str) -> Path:
        return self._ledger.with_name(f"{self._ledger.stem}.lost-{member}")


def has_table(database: sqlite3.Connection) -> bool:
    """Return whether the ledger was begun."""
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone() is not None


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; transactions are the caller's."""
    with translated():
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            database.close()
            raise
        return database


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into ours: a full disk is waited for, a damaged file is restored."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if (refused := sqlite_code(error)) is not None:
            raise LocalError(refused, f"the ledger: {error}") from None
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_ERROR:  # its tables are not those of a ledger
            raise VerificationError("E-STATE-DAMAGED", f"the ledger's file is damaged: {error}") from None
        raise LocalError("E-BUG", f"the ledger could not be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise VerificationError("E-STATE-DAMAGED", f"the ledger's file is damaged: {error}") from None
