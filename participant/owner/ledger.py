"""The owner's ledger on disk: append-only, and a round is charged before it trains or it does not train.

Guarantees: checking a budget and writing the charge are one transaction that is on disk (fsync) when it returns; the
same round of the same plan is never charged twice; a record that was changed, added or removed is found when the
ledger is opened, and a whole ledger that was set back when its head is compared with one that others have seen.
Leaves to others: what a round costs (``privacy.dp.events``), budgets (the owner's policy), when to charge (``runner``).
Source: docs/privacy-accounting.md section 8; SQLite in WAL mode with synchronous=FULL.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Final

from participant.owner.ledger_file import INSERT, SCHEMA, Losses, connect, has_table, translated
from privacy import ledger
from privacy.errors import LocalError, OnlysumError, RefusedError, VerificationError
from privacy.ledger import LifetimeBudget, Record, Spent
from privacy.ledger_entries import Charge, Entry, Genesis, PolicyChange, Reanchored, Unprotected
from privacy.secagg.keys import SigningKey, framed, verify
from protos.envelope import LedgerHead

LABEL_DATA: Final = b"onlysum/1/ledger-data"


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge on disk; ``new`` is False if this round had been charged before (a retry)."""

    record: Record
    new: bool


class Ledger:
    """An open ledger; made by :meth:`create` or :meth:`open`. Safe to share between threads."""

    def __init__(self, path: Path, key: SigningKey, member: bytes) -> None:
        self.losses = Losses(path, member)
        self._database = connect(path)
        self._key = key
        self._member = member
        self._lock = RLock()
        self._records: list[Record] = []
        self._spent: dict[str, Spent] = {}

    @classmethod
    def create(cls, path: Path, *, owner: str, key: SigningKey, member: bytes, at: int) -> Ledger:
        """Make a ledger with its first record.

        Args:
            path: the database, which does not exist.
            owner: who begins it.
            key: the ledger's own, which signs it.
            member: identity key of the member on whose behalf it is opened.
            at: seconds since the Unix epoch.

        Raises:
            LocalError: ``E-EXISTS`` or ``E-DISK-FULL``.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise LocalError("E-EXISTS", f"{path} is there already; a ledger is never begun anew") from None
        opened = cls(path, key, member)
        try:
            with opened._transaction():
                for statement in SCHEMA:
                    opened._database.execute(statement)
                opened._append(Genesis(owner=owner, key=key.public), at=at)
        except OnlysumError:
            opened.close()
            path.unlink()  # an empty ledger would block the next attempt
            raise
        return opened

    @classmethod
    def open(cls, path: Path, *, key: SigningKey, member: bytes, expected: LedgerHead | None = None) -> Ledger:
        """Open a ledger and check its whole chain.

        Args:
            path: the database.
            key: the ledger's own, which signed it.
            member: identity key of the member on whose behalf it is opened.
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
        opened = cls(path, key, member)
        try:
            with opened._reading():
                opened._refresh()
                ledger.verify_chain(opened._records, key=key.public, every_signature=False)
            if expected is not None:
                opened.require_at_least(expected)
        except OnlysumError:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def charge(
        self, charge: Charge, *, budget: LifetimeBudget, max_rounds: int, at: int, others: bool = False
    ) -> Charged:
        """Charge a round before it trains; it is on disk when this returns.

        A round that was charged before is not charged again, whatever its attempt.

        Args:
            charge: the round.
            budget: of its population.
            max_rounds: that the approved plan has.
            at: seconds since the Unix epoch.
            others: a person has said that the data is also that of another population, which was charged for it.

        Raises:
            RefusedError: ``E-POLICY-BUDGET``, ``E-LEDGER-UNIT``, ``E-LEDGER-POPULATION``, ``E-LEDGER-DATA`` or
                ``E-LEDGER-ROLLBACK``; nothing was written.
            LocalError: ``E-DISK-FULL``; nothing was written.
        """
        with self._transaction():
            before = self._charged(charge.plan_hash, charge.round)
            if before is not None:
                if not _is_same_round(before.entry, charge):
                    detail = f"round {charge.round} of run {charge.run_id} was charged as something else"
                    raise RefusedError("E-LEDGER-UNIT", detail)
                return Charged(before, new=False)
            self.losses.require_none()
            ledger.require_population(self._records, charge)
            if not others:
                ledger.require_data(self._records, charge)
            spent = self.spent(charge.population)
            ledger.require_budget(spent, charge, budget=budget, max_rounds=max_rounds)
            ordered = replace(charge, order=spent.fixed(budget).order)  # the first charge fixes the order for good
            return Charged(self._append(ordered, at=at), new=True)

    def note_policy(self, change: PolicyChange, *, at: int) -> Record:
        """Write down that a member's policy changed, unless its last noted hash is the same."""
        with self._transaction():
            for record in reversed(self._records):
                if isinstance(record.entry, PolicyChange) and record.entry.member == change.member:
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

    def catch_up(self, copy: Ledger) -> None:
        """Add the records that another copy of this ledger has beyond these; a shorter copy adds nothing.

        Raises:
            RefusedError: ``E-LEDGER-ROLLBACK``, the two went on apart, or the copy is another ledger's.
            LocalError: ``E-DISK-FULL``; nothing was written.
        """
        with self._transaction():
            theirs = copy.rows()
            shared = min(len(theirs), len(self._records))
            if theirs[:shared] != tuple(self._records[:shared]):
                raise RefusedError(
                    "E-LEDGER-ROLLBACK", "two copies of the ledger went on apart: neither has all charges"
                )
            for record in theirs[shared:]:
                self._insert(record)

    @property
    def owner(self) -> str:
        """Who began the ledger."""
        first = self.rows()[0].entry
        return first.owner if isinstance(first, Genesis) else ""

    @property
    def key(self) -> bytes:
        """The ledger's public key, which signs its records."""
        return self._key.public

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
        if ledger.accounts_for(rows, expected.sequence, member=self._member):
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

    def fingerprint(self, sha256: str) -> bytes:
        """Return what stands in this ledger for the data of a hash, empty for none.

        Whoever lacks the ledger's key cannot tell whether it stands for data that he has: Ed25519 signatures are
        deterministic, so that the hash of one is a pseudorandom function of what was signed.
        """
        if not sha256:
            return b""
        return hashlib.sha256(self._key.sign(framed(LABEL_DATA, bytes.fromhex(sha256)))).digest()

    def populations_of_data(self, sha256: str) -> tuple[str, ...]:
        """Return the populations that were charged for the data of a hash."""
        return ledger.populations_of_data(self.rows(), self.fingerprint(sha256))

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
            ledger.verify_chain(self._records, key=self._key.public)
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
        self._insert(record)
        return record

    def _insert(self, record: Record) -> None:
        columns = (record.sequence, record.hash, record.body, record.signature, *_place(record.entry))
        self._database.execute(INSERT, columns)

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
        with self._lock, translated():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                if self._records or has_table(self._database):
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
        with self._lock, translated():
            yield


def _is_same_round(before: Entry, charge: Charge) -> bool:
    """Return whether a round was charged as it is now; its order was fixed before, its data compared elsewhere."""
    return isinstance(before, Charge) and before == replace(charge, order=before.order, data=before.data)


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
