"""Checking an owner's exported ledger offline, from its bytes alone.

Guarantees: every record is signed by one key and follows from the record before it, so that changing any byte
of the file makes it fail; what is said of populations and runs is computed from the records.
Leaves to others: that the key is whose the reader thinks it is (compare the fingerprint, or pass the key), and that the
newest records are there: a ledger without its last records verifies too, so a reader compares the last record's number
and hash with the owner's ``ledger show``.
Source: docs/privacy-accounting.md section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from host.fingerprints import fingerprint
from host.rendering import Json, moment
from privacy import canonical
from privacy.errors import VerificationError
from privacy.ledger import Record, RunSpend, Spent, spent_by_population, verify_export
from privacy.ledger_entries import Charge, Genesis, Reanchored

MARK: Final = "ledger_version"  # the key that only exported ledgers have
LAST_SECOND: Final = 253_402_300_799  # of the year 9999: what a date can show


@dataclass(frozen=True, slots=True)
class VerifiedLedger:
    """An exported ledger that passed every check; made by :func:`verify_ledger` alone."""

    owner: str
    key: bytes
    key_was_expected: bool  # False: the reader must still compare the fingerprint
    first: Record
    last: Record
    charges: int
    populations: tuple[Spent, ...]  # sorted by name
    lost: tuple[int, ...] = ()  # numbers up to which records were lost, and charged again at their worst

    def to_json(self) -> Json:
        """Return it for programs."""
        populations: list[Json] = [
            {
                "population": spent.population,
                "unit": spent.unit,
                "relation": spent.relation,
                "runs": [_run_values(run) for run in spent.runs],
            }
            for spent in self.populations
        ]
        return {
            "verified": True,
            "kind": "ledger",
            "owner": self.owner,
            "key": self.key.hex(),
            "key_was_expected": self.key_was_expected,
            "records": self.last.sequence,
            "charges": self.charges,
            "first_at": self.first.at,
            "last_at": self.last.at,
            "head": self.last.hash.hex(),
            "lost": [*self.lost],
            "populations": populations,
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        span = f"{moment(self.first.at)} to {moment(self.last.at)} UTC"
        return [
            f"verified: the ledger of {self.owner}, {self.last.sequence} records, {self.charges} charged rounds",
            f"  {span}",
            *(line for spent in self.populations for line in _population_lines(spent)),
            *(f"  records up to {number} were lost, and charged again at their worst" for number in self.lost),
            "Every record is signed and follows from the one before. Records missing at the",
            "end would not show: compare the last one with the owner's `ledger show`.",
            f"  record {self.last.sequence}, {self.last.hash.hex()}",
            *self._key_lines(),
        ]

    def _key_lines(self) -> list[str]:
        shown = fingerprint(self.key)
        if self.key_was_expected:
            return [f"signed by the key that you named, of {self.owner}:", f"  {shown}"]
        return [
            f"signed by a key that calls itself {self.owner}:",
            f"  {shown}",
            "Compare this fingerprint with its owner by telephone, with what a report of its owner names,",
            "or pass --key: a signature alone does not say whose it is.",
        ]


def is_ledger(data: bytes) -> bool:
    """Return whether a file says of itself that it is an exported ledger; nothing in it is believed."""
    try:
        value = canonical.decode(data)
    except ValueError:
        return False
    return isinstance(value, dict) and MARK in value


def verify_ledger(data: bytes, *, expected_key: bytes | None = None) -> VerifiedLedger:
    """Check an exported ledger's file.

    Args:
        data: the file's bytes.
        expected_key: the ledger's Ed25519 key, if the reader knows it.

    Raises:
        VerificationError: ``E-REPORT-LEDGER``, naming the first record that does not fit, or ``E-REPORT-KEY``.
    """
    try:
        records = verify_export(data)
        spent = spent_by_population(records)
    except VerificationError as error:
        raise VerificationError("E-REPORT-LEDGER", error.detail) from None
    genesis = records[0].entry
    if not isinstance(genesis, Genesis):  # verify_export has checked it: said for the type checker
        raise VerificationError("E-REPORT-LEDGER", "the first record does not say whose ledger it is")
    if expected_key is not None and genesis.key != expected_key:
        detail = f"signed by {fingerprint(genesis.key)}, expected {fingerprint(expected_key)}"
        raise VerificationError("E-REPORT-KEY", detail)
    for record in records:
        if not 0 <= record.at <= LAST_SECOND:
            raise VerificationError("E-REPORT-LEDGER", f"record {record.sequence} has no date")
    return VerifiedLedger(
        owner=genesis.owner,
        key=genesis.key,
        key_was_expected=expected_key is not None,
        first=records[0],
        last=records[-1],
        charges=sum(isinstance(record.entry, Charge) for record in records),
        populations=tuple(spent[name] for name in sorted(spent)),
        lost=tuple(record.entry.lost_sequence for record in records if isinstance(record.entry, Reanchored)),
    )


def _run_values(run: RunSpend) -> Json:
    return {
        "run": run.run_id,
        "plan_sha256": run.plan_hash.hex(),
        "rounds": run.rounds,
        "differential_privacy": run.event is not None,
        "delta": run.delta,
    }


def _population_lines(spent: Spent) -> list[str]:
    protected = [run for run in spent.runs if run.event is not None]
    rounds = sum(run.rounds for run in protected)
    lines = [f"  population {spent.population}: the whole budget counts as spent"] if spent.exhausted else []
    if protected:
        runs = "1 run" if len(protected) == 1 else f"{len(protected)} runs"
        lines.append(f"  population {spent.population}: {rounds} rounds of {runs} charged per {spent.unit}")
    if spent.unprotected:
        count = len(spent.unprotected)
        runs = "1 run" if count == 1 else f"{count} runs"
        lines.append(f"  population {spent.population}: {runs} without differential privacy")
    return lines
