"""Who is enrolled: all members, one of them, and the fingerprints that owners compare by telephone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coordinator.daemon.status import live_members
from coordinator.database import attempt_rows, member_rows, run_rows, standing_rows
from coordinator.database.member_rows import LedgerSeen, MemberRecord, SecurityRow
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.opened import OpenHome
from coordinator.runs.attempt import ABSTAINED
from coordinator.views.attendance import Attendance, Turnout, read_turnout
from coordinator.views.leaders import live_anywhere
from coordinator.views.phase import abstention_code
from host.certificates import expires_at
from host.fingerprints import fingerprint
from host.rendering import Json, Line, moment, table, timestamp
from privacy.errors import LocalError
from protos.envelope import DatasetOffer

PAUSED: Final = "E-POLICY-WAITING"  # what a participant says whose owner has paused it, before it stops polling
LATE_CODE: Final = "E-ROUND-DEADLINE"  # of a member that is connected and has let a phase go by
REFUSALS: Final = ("handshake-refused", "connection-refused", "enrolment-refused")  # kinds in the security log


class Presence(StrEnum):
    """Where a member is, in the order in which an operator wants to hear of it."""

    REFUSED = "refused"
    STUCK = "stuck"
    AWAY = "away"
    PAUSED = "paused"
    HERE = "here"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member, what its key is recognised by, where it is, and how it did in the last rounds."""

    name: str
    role: str
    active: bool
    live: bool
    presence: Presence
    code: str  # of why it is stuck or refused
    last_seen: int | None  # None: never connected, or not since this is noted
    identity_fingerprint: str
    software_version: str
    labels: str
    enrolled_at: int
    revoked_at: int | None
    certificate_until: int | None
    attendance: Attendance | None  # in the newest run that goes on, or else the last one

    @property
    def state(self) -> str:
        """Presence in words, with its code."""
        return f"{self.presence.value} ({self.code})" if self.code else self.presence.value

    @property
    def missed(self) -> str:
        """How often it was lost or late lately; empty if never."""
        return self.attendance.words() if self.attendance else ""

    def to_json(self) -> dict[str, Json]:
        """Return it for programs."""
        return {
            "name": self.name,
            "role": self.role,
            "active": self.active,
            "live": self.live,
            "state": self.presence.value,
            "code": self.code,
            "last_seen": timestamp(self.last_seen),
            "identity_fingerprint": self.identity_fingerprint,
            "software_version": self.software_version,
            "labels": self.labels,
            "enrolled_at": timestamp(self.enrolled_at),
            "revoked_at": timestamp(self.revoked_at),
            "certificate_until": timestamp(self.certificate_until),
            "lost": self.attendance.lost if self.attendance else 0,
            "late": self.attendance.late if self.attendance else 0,
        }


@dataclass(frozen=True, slots=True)
class MemberList:
    """All members, those first who need their operator, revoked ones last."""

    members: tuple[MemberView, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [member.to_json() for member in self.members]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        if not self.members:
            return ["No members yet. Next: onlysum coordinator invite NAME"]
        rows = [
            (
                member.name,
                member.role,
                member.state,
                moment(member.last_seen),
                member.software_version or "-",
                moment(member.certificate_until)[:10],
                member.missed or "-",
            )
            for member in self.members
        ]
        return table(("NAME", "ROLE", "STATE", "SEEN (UTC)", "VERSION", "CERTIFICATE", "LAST ROUNDS"), rows)


@dataclass(frozen=True, slots=True)
class MemberDetails:
    """One member, with the datasets that it announced and their public sizes."""

    member: MemberView
    datasets: tuple[DatasetOffer, ...]
    ledgers: tuple[LedgerSeen, ...]  # more than one: another identity came under this name

    def to_json(self) -> Json:
        """Return it for programs."""
        datasets: list[Json] = [{"name": dataset.name, "units": dataset.units} for dataset in self.datasets]
        ledgers: list[Json] = [
            {"identity_fingerprint": fingerprint(seen.identity_key), "sequence": seen.sequence, "seen_at": seen.at}
            for seen in self.ledgers
        ]
        return {**self.member.to_json(), "datasets": datasets, "ledgers": ledgers}

    def to_lines(self) -> list[str]:
        """Return it for people."""
        member = self.member
        facts = (
            ("name", f"{member.name} ({member.role}), {member.state}"),
            ("fingerprint", member.identity_fingerprint),
            ("software", member.software_version or "-"),
            ("labels", member.labels or "-"),
            ("seen", f"{moment(member.last_seen)} UTC" if member.last_seen is not None else "-"),
            ("certificate", f"until {moment(member.certificate_until)} UTC" if member.certificate_until else "-"),
            *((("last rounds", member.missed),) if member.missed else ()),
            ("enrolled", f"{moment(member.enrolled_at)} UTC"),
            *((("revoked", f"{moment(member.revoked_at)} UTC"),) if member.revoked_at is not None else ()),
            *(("dataset", f"{dataset.name}, {dataset.units} units") for dataset in self.datasets),
            *(
                ("ledger", f"record {seen.sequence} on {moment(seen.at)} UTC, of {fingerprint(seen.identity_key)}")
                for seen in self.ledgers
            ),
        )
        anew = "another identity under this name: whether its ledger is the same one cannot be seen from here"
        return [*(f"{name:<13}{text}" for name, text in facts), *([anew] if len(self.ledgers) > 1 else [])]


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Whose key is recognised by what."""

    authority: str
    operator: str
    members: Mapping[str, str]

    def to_json(self) -> Json:
        """Return it for programs."""
        return {"authority": self.authority, "operator": self.operator, "members": dict(self.members)}

    def to_lines(self) -> list[str]:
        """Return it for people."""
        rows = (("authority", self.authority), ("operator", self.operator), *self.members.items())
        return [f"{name:<20} {digits}" for name, digits in rows]


def member_list(opened: OpenHome) -> MemberList:
    """Read all members."""
    known = _read_known(opened)
    with opened.store.read() as connection:
        members = member_rows.list_members(connection)
    views = [_view(member, known) for member in members]
    order = list(Presence)

    def worst_first(view: MemberView) -> tuple[int, int, str]:
        missed = view.attendance.late + view.attendance.lost if view.attendance else 0
        return order.index(view.presence), -missed, view.name

    return MemberList(tuple(sorted(views, key=worst_first)))


def member_details(opened: OpenHome, name: str) -> MemberDetails:
    """Read one member.

    Raises:
        LocalError: ``E-NOT-FOUND``.
    """
    known = _read_known(opened)
    with opened.store.read() as connection:
        member = member_rows.find_member(connection, name)
        datasets, ledgers = member_rows.announced(connection, name), member_rows.ledgers_seen(connection, name)
    if member is None:
        raise LocalError("E-NOT-FOUND", f"no member {name}")
    return MemberDetails(_view(member, known), tuple(datasets), ledgers)


def fingerprints(opened: OpenHome) -> Fingerprints:
    """Read the authority's, the operator's and the active members' fingerprints."""
    authority = opened.authority()
    with opened.store.read() as connection:
        members = [member for member in member_rows.list_members(connection) if member.active]
    identities = {member.name: fingerprint(member.identity_key) for member in members}
    return Fingerprints(authority.fingerprint, fingerprint(authority.operator.public), identities)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the rows and the running daemon tell of all members at once."""

    live: frozenset[str]
    stuck: Mapping[str, str]  # member -> code of why
    paused: frozenset[str]
    refused: Mapping[str, SecurityRow]  # by the service, lately
    turnout: Turnout | None


def _read_known(opened: OpenHome) -> _Known:
    stuck: dict[str, str] = {}
    paused: set[str] = set()
    with opened.store.read() as connection:
        live = live_anywhere(connection, live_members(opened.home))
        runs = run_rows.list_runs(connection)
        going_on = [run for run in runs if not run.state.ended]
        for run in going_on:
            attempts = attempt_rows.list_attempts(connection, run.run_id)
            for round_number, attempt, event in attempt_rows.last_of_each(connection, run.run_id, ABSTAINED):
                code, last = abstention_code(event), attempts[-1]
                if code == PAUSED:
                    paused.add(event.sender)
                elif (round_number, attempt, "open") == (last.round, last.attempt, last.state):
                    stuck[event.sender] = code
            stuck |= {late.member: LATE_CODE for late in standing_rows.late_now(connection, run.run_id)}
        refused = member_rows.newest_security(connection, REFUSALS)
        newest = newest_run(runs)
        turnout = read_turnout(connection, newest.run_id, newest.parsed()) if newest else None
    return _Known(live, stuck, frozenset(paused), {row.subject: row for row in refused}, turnout)


def newest_run(runs: Sequence[RunRecord]) -> RunRecord | None:
    """Return the run whose rounds tell how members do now: the newest that is running, or else that has ended."""
    begun = [run for run in runs if run.state not in (RunState.CREATED, RunState.REFUSED)]
    return max(begun, key=lambda run: (not run.state.ended, run.created_at), default=None)


def _view(member: MemberRecord, known: _Known) -> MemberView:
    presence, code = _presence(member, known)
    return MemberView(
        name=member.name,
        role=member.role.value,
        active=member.active,
        live=member.name in known.live,
        presence=presence,
        code=code,
        last_seen=member.last_seen,
        identity_fingerprint=fingerprint(member.identity_key),
        software_version=member.software_version,
        labels=member.labels,
        enrolled_at=member.enrolled_at,
        revoked_at=member.revoked_at,
        certificate_until=expires_at(member.certificate) if member.certificate else None,
        attendance=known.turnout.of(member.name) if known.turnout else None,
    )


def _presence(member: MemberRecord, known: _Known) -> tuple[Presence, str]:
    """Return where a member is and, if it is stuck or refused, why."""
    if not member.active:
        return Presence.REVOKED, ""
    if member.name in known.live:
        code = known.stuck.get(member.name, "")
        return (Presence.STUCK if code else Presence.HERE), code
    if member.name in known.paused:
        return Presence.PAUSED, ""
    row = known.refused.get(member.name)
    if row is not None and row.at > (member.last_seen or member.enrolled_at):
        return Presence.REFUSED, row.detail
    return Presence.AWAY, ""
