"""The security log: invitations, joins, refusals, revocations, rollbacks, runs; its chain is checked first."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.database import member_rows
from coordinator.database.member_rows import SecurityRow
from coordinator.opened import OpenHome
from host.rendering import Json, Line, moment, table, timestamp


@dataclass(frozen=True, slots=True)
class SecurityLog:
    """The newest rows of a log whose whole chain was checked."""

    rows: tuple[SecurityRow, ...]  # oldest first
    total: int
    head: str  # hash of the newest row; empty where there is none

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
