"""The security log: invitations, joins, refusals, revocations, rollbacks, runs; its chain is checked first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from coordinator.database import member_rows
from coordinator.database.member_rows import SecurityRow
from coordinator.opened import OpenHome
from host.rendering import Json, Line, moment, table, timestamp
from privacy.errors import VerificationError


@dataclass(frozen=True, slots=True)
class SecurityLog:
    """The newest rows of a log whose whole chain was checked."""

    rows: tuple[SecurityRow, ...]  # oldest first
    total: int
    head: str  # hash of the newest row; empty where there is none

    def filtered(self, *, kind: str = "", subject: str = "") -> SecurityLog:
        """Return the rows of one kind, or with a text in who or what; an empty filter takes all."""
        rows = tuple(
            row
            for row in self.rows
            if (not kind or row.kind == kind) and (not subject or subject in row.subject or subject in row.detail)
        )
        return SecurityLog(rows, self.total, self.head)

    def newest(self, count: int) -> SecurityLog:
        """Return so many of the newest rows; 0: all."""
        return SecurityLog(self.rows[-count:] if count else self.rows, self.total, self.head)

    def to_json(self) -> Json:
        """Return it for programs."""
        rows: list[Json] = [
            {
                "sequence": row.sequence,
                "at": timestamp(row.at),
                "kind": row.kind,
                "subject": row.subject,
                "detail": row.detail,
            }
            for row in self.rows
        ]
        return {"rows": rows, "total": self.total, "head": self.head}

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        cells = [(str(row.sequence), moment(row.at), row.kind, row.subject, row.detail) for row in self.rows]
        shown = f"{len(self.rows)} of {self.total} rows" if len(self.rows) < self.total else f"{self.total} rows"
        return [
            *table(("ROW", "TIME (UTC)", "WHAT", "WHO", "DETAIL"), cells),
            f"{shown}, chained from the first to the last; head {self.head or 'none'}",
        ]


def security_log(opened: OpenHome, newest: int) -> SecurityLog:
    """Read and check the log, and return its newest rows.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, naming the first row that does not follow from the last.
    """
    with opened.store.read() as connection:
        rows = member_rows.security_log(connection)
    member_rows.verify_security_log(rows)
    return SecurityLog(rows[-newest:] if newest else rows, len(rows), rows[-1].hash.hex() if rows else "")


def exported(opened: OpenHome) -> Json:
    """Return the whole log with its hashes, for whoever keeps it elsewhere; :func:`check_exported` reads it again.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``.
    """
    with opened.store.read() as connection:
        rows = member_rows.security_log(connection)
    member_rows.verify_security_log(rows)
    values: list[Json] = [
        {**asdict(row), "previous": row.previous.hex(), "hash": row.hash.hex(), "time": timestamp(row.at)}
        for row in rows
    ]
    return {"federation": opened.settings.federation, "rows": values}


def check_exported(data: bytes) -> tuple[SecurityRow, ...]:
    """Return the rows of an exported log whose chain holds.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``.
    """
    try:
        values = json.loads(data)["rows"]
        rows = tuple(
            SecurityRow(
                sequence=int(value["sequence"]),
                at=int(value["at"]),
                kind=str(value["kind"]),
                subject=str(value["subject"]),
                detail=str(value["detail"]),
                previous=bytes.fromhex(value["previous"]),
                hash=bytes.fromhex(value["hash"]),
            )
            for value in values
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise VerificationError("E-STATE-DAMAGED", "the file is no exported security log") from None
    member_rows.verify_security_log(rows)
    return rows
