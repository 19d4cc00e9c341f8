"""The ledger's file: an append-only SQLite database, and its errors as ours.

Guarantees: what a transaction wrote is on disk when it ends (WAL, synchronous=FULL); SQLite itself refuses to change or
to remove a record.
Leaves to others: what records mean (``ledger``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from host.durable import sqlite_code
from privacy.errors import LocalError, VerificationError

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
