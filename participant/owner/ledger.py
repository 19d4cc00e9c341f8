"""The owner's ledger on disk: append-only, and a round is charged before it trains or it does not train.

Guarantees: checking a budget and writing the charge are one transaction that is on disk (fsync) when it returns; the
same round of the same plan is never charged twice; a record that was changed, added or removed is found when the
ledger is opened, and a whole ledger that was set back when its head is compared with one that others have seen.
Leaves to others: what a round costs (``privacy.dp.events``), budgets (the owner's policy), when to charge (``runner``).
Source: docs/privacy-accounting.md section 8; SQLite in WAL mode with synchronous=FULL.
"""

from __future__ import annotations

import os
import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Final

from host.durable import sqlite_code
from privacy import ledger
from privacy.errors import LocalError, OnlysumError, RefusedError, VerificationError
from privacy.ledger import LifetimeBudget, Record, Spent
from privacy.ledger_entries import Charge, Entry, Genesis, PolicyChange, Reanchored, Unprotected
from privacy.secagg.keys import SigningKey, verify
from protos.envelope import LedgerHead

BUSY_MS: Final = 10_000  # how long to wait for another process (a command beside the daemon)

_SCHEMA: Final = (
    """CREATE TABLE records (
        sequence INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body BLOB NOT NULL, signature BLOB NOT NULL,
        plan_hash BLOB, round INTEGER, UNIQUE (plan_hash, round)
    ) STRICT""",
    """CREATE TRIGGER records_are_never_changed BEFORE UPDATE ON records
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER records_are_never_removed BEFORE DELETE ON records
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)
_INSERT: Final = "INSERT INTO records (sequence, hash, body, signature, plan_hash, round) VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge on disk; ``new`` is False if this round had been charged before (a retry)."""

    record: Record
    new: bool


class Ledger:
    """An open ledger; made by :meth:`create` or :meth:`open`. Safe to share between threads."""

    def __init__(self, database: sqlite3.Connection, key: SigningKey) -> None:
        self._database = database
        self._key = key
        self._lock = RLock()
        self._records: list[Record] = []
        self._spent: dict[str, Spent] = {}

    @classmethod
    def create(cls, path: Path, *, owner: str, key: SigningKey, at: int) -> Ledger:
        """Make a ledger with its first record.

        Raises:
            LocalError: ``E-EXISTS`` or ``E-DISK-FULL``.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise LocalError("E-EXISTS", f"{path} is there already; a ledger is never begun anew") from None
        opened = cls(_connect(path), key)
        try:
            with opened._transaction():
                for statement in _SCHEMA:
                    opened._database.execute(statement)
                opened._append(Genesis(owner=owner, identity_key=key.public), at=at)
        except OnlysumError:
            opened.close()
            path.unlink()  # an empty ledger would block the next attempt
            raise
        return opened

    @classmethod
    def open(cls, path: Path, *, key: SigningKey, expected: LedgerHead | None = None) -> Ledger:
        """Open a ledger and check its whole chain.

        Args:
            path: the database.
            key: the owner's identity key, which signed it.
            expected: a head that others have seen, if one is known.

        Raises:
            LocalError: ``E-NOT-FOUND``.
            VerificationError: ``E-STATE-DAMAGED``.
            RefusedError: ``E-LEDGER-ROLLBACK``.
        """
        if not path.is_file():
            raise VerificationError(
                "E-STATE-DAMAGED",
                f"there is no ledger {path}; a new one would forget what was spent: restore a backup",
            )
        if path.stat().st_size == 0:  # SQLite would begin a database in it
            raise VerificationError("E-STATE-DAMAGED", f"the ledger's file {path} is empty")
        opened = cls(_connect(path), key)
        try:
            with opened._reading():
                opened._refresh()
                ledger.verify_chain(opened._records, identity_key=key.public, every_signature=False)
            if expected is not None:
                opened.require_at_least(expected)
        except OnlysumError:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def charge(self, charge: Charge, *, budget: LifetimeBudget, max_rounds: int, at: int) -> Charged:
        """Charge a round before it trains; it is on disk when this returns.

        A round that was charged before is not charged again, whatever its attempt.

        Raises:
            RefusedError: ``E-POLICY-BUDGET``, ``E-LEDGER-UNIT`` or ``E-LEDGER-POPULATION``; nothing was written.
            LocalError: ``E-DISK-FULL``; nothing was written.
        """
        with self._transaction():
            before = self._charged(charge.plan_hash, charge.round)
            if before is not None:
                if before.entry != replace(charge, order=getattr(before.entry, "order", None)):
                    detail = f"round {charge.round} of run {charge.run_id} was charged as something else"
                    raise RefusedError("E-LEDGER-UNIT", detail)
                return Charged(before, new=False)
            ledger.require_population(self._records, charge)
            spent = self.spent(charge.population)
            ledger.require_budget(spent, charge, budget=budget, max_rounds=max_rounds)
            ordered = replace(charge, order=spent.fixed(budget).order)  # the first charge fixes the order for good
            return Charged(self._append(ordered, at=at), new=True)

    def note_policy(self, change: PolicyChange, *, at: int) -> Record:
        """Write down that the policy changed, unless its last noted hash is the same."""
        with self._transaction():
            for record in reversed(self._records):
                if isinstance(record.entry, PolicyChange):
                    if record.entry.policy_sha256 == change.policy_sha256:
                        return record
                    break
            return self._append(change, at=at)

    def note_unprotected(self, note: Unprotected, *, at: int) -> Record:
        """Write down, once per run, that a run without differential privacy uses a population.

        Raises:
            RefusedError: ``E-LEDGER-POPULATION``; nothing was written.
        """
        with self._transaction():
            for record in self._records:
                if record.entry == note:
                    return record
            ledger.require_population(self._records, note)
            return self._append(note, at=at)

    def reanchor(self, lost: Reanchored, charges: Sequence[Charge | Unprotected], *, at: int) -> None:
        """Go on above records that are lost, and charge what they may have charged: all of it, or nothing, is written.

        Raises:
            RefusedError: ``E-LEDGER-UNIT``, a charge cannot be added to its population's.
            LocalError: ``E-DISK-FULL``.
        """
        with self._transaction():
            spent = ledger.spent_by_population([], before=self._spent)
            for charge in charges:
                if isinstance(charge, Charge):
                    earlier = spent.get(charge.population) or ledger.nothing_spent(charge.population)
                    spent[charge.population] = earlier.with_charge(charge)
            last = self._append(lost, at=at)
            for charge in charges:
                last = self._append(charge, at=at, last=last)

    def head(self) -> LedgerHead:
        """Return the number and hash of the last record, signed: what the coordinator remembers."""
        with self._reading():
            self._refresh()
            head = LedgerHead(self._records[-1].sequence, self._records[-1].hash)
        return replace(head, signature=self._key.sign(head.signed_bytes))

    def has_signed(self, head: LedgerHead) -> bool:
        """Return whether this ledger's key signed a head; what anybody else says of this ledger proves nothing."""
        return verify(self._key.public, head.signature, head.signed_bytes)

    def require_at_least(self, expected: LedgerHead) -> None:
        """Compare with a head that others have seen; sequence 0 means that none was.

        Raises:
            RefusedError: ``E-LEDGER-ROLLBACK``, this ledger is older, or another branch.
        """
        if expected.sequence == 0:
            return
        rows = self.rows()
        if ledger.accounts_for(rows, expected.sequence):
            return
        if rows[-1].sequence < expected.sequence:
            detail = f"the ledger ends at record {rows[-1].sequence}, but record {expected.sequence} was shown before"
            raise RefusedError("E-LEDGER-ROLLBACK", detail)
        if _numbered(rows, expected.sequence).hash != expected.hash:
            detail = f"record {expected.sequence} of the ledger is not the one that was shown before"
            raise RefusedError("E-LEDGER-ROLLBACK", detail)

    def spent(self, population: str) -> Spent:
        """Return what a population has spent."""
        with self._reading():
            self._refresh()
            return self._spent.get(population) or ledger.nothing_spent(population)

    def populations_of_run(self, plan_hash: bytes) -> tuple[str, ...]:
        """Return the populations that a run was charged to or noted for; none before its first charge."""
        return ledger.populations_of_run(self.rows(), plan_hash)

    def populations(self) -> tuple[str, ...]:
        """Return the names of all populations with a record."""
        with self._reading():
            self._refresh()
            return tuple(sorted(self._spent))

    def rows(self) -> tuple[Record, ...]:
        """Return all records in order."""
        with self._reading():
            self._refresh()
            return tuple(self._records)

    def verify(self) -> int:
        """Read everything again from disk, check every signature, and return the number of records.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``.
        """
        with self._reading():
            problems = self._database.execute("PRAGMA integrity_check").fetchall()
            if problems != [("ok",)]:
                raise VerificationError("E-STATE-DAMAGED", f"SQLite finds {len(problems)} faults in the ledger")
            self._records, self._spent = [], {}
            self._refresh()
            ledger.verify_chain(self._records, identity_key=self._key.public)
            return len(self._records)

    def export(self) -> bytes:
        """Return the whole ledger as canonical JSON; ``privacy.ledger.verify_export`` reads it."""
        return ledger.export(self.rows())

    def _charged(self, plan_hash: bytes, number: int) -> Record | None:
        row = self._database.execute(
            "SELECT sequence FROM records WHERE plan_hash = ? AND round = ?", (plan_hash, number)
        ).fetchone()
        return None if row is None else _numbered(self._records, row[0])

    def _append(self, entry: Entry, *, at: int, last: Record | None = None) -> Record:
        if last is None and self._records:
            last = self._records[-1]
        record = ledger.append(last, entry, at=at, key=self._key)
        columns = (record.sequence, record.hash, record.body, record.signature, *_place(entry))
        self._database.execute(_INSERT, columns)
        return record

    def _refresh(self) -> None:
        """Read the records that this object has not seen: its own last one, or another process's."""
        seen = self._records[-1].sequence if self._records else 0
        rows = self._database.execute(
            "SELECT sequence, hash, body, signature, plan_hash, round FROM records"
            " WHERE sequence > ? ORDER BY sequence",
            (seen,),
        ).fetchall()
        fresh = [_checked(*row) for row in rows]
        for before, after in pairwise([*self._records[-1:], *fresh]):
            if not ledger.follows(before, after):
                raise VerificationError("E-STATE-DAMAGED", f"ledger record {after.sequence} does not follow")
        if fresh:
            self._spent |= ledger.spent_by_population(fresh, before=self._spent)
            self._records.extend(fresh)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _translated():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                if self._records or _has_table(self._database):
                    self._refresh()
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._refresh()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, _translated():
            yield


def _numbered(records: Sequence[Record], sequence: int) -> Record:
    """Return the record of a number that is there; numbers leap where records were lost."""
    return records[bisect_left(records, sequence, key=lambda record: record.sequence)]


def _place(entry: Entry) -> tuple[bytes | None, int | None]:
    """Return the columns by which a retry finds the charge of its round."""
    return (entry.plan_hash, entry.round) if isinstance(entry, Charge) else (None, None)


def _checked(
    sequence: int, stored_hash: bytes, body: bytes, signature: bytes, plan_hash: bytes | None, number: int | None
) -> Record:
    record = ledger.parse_record(body, signature)
    columns = (sequence, stored_hash, plan_hash, number)
    if columns != (record.sequence, record.hash, *_place(record.entry)):
        raise VerificationError("E-STATE-DAMAGED", f"ledger record {sequence} does not have its hash")
    return record


def _has_table(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone() is not None


def _connect(path: Path) -> sqlite3.Connection:
    with _translated():
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            database.close()
            raise
        return database


@contextmanager
def _translated() -> Iterator[None]:
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
