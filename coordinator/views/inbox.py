"""What waits for an operator: plans without an answer, invitations and certificates that end soon, disk, backup.

Guarantees: read from rows and files, so it is the same whether or not the daemon runs; every item says since or until
when, and what to do.
Leaves to others: how runs do (``sentence``), who is there (``members``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy.engine import Connection

from coordinator.database import member_rows, run_rows
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.database.store import sqlite_path
from coordinator.opened import OpenHome
from host.certificates import RENEW_SECONDS, expires_at, issued_by, renewal_overdue
from host.checkup import FREE_BYTES
from host.rendering import Json, moment, timestamp
from protos.envelope import Role

DAY: Final = 86_400
INVITATION_SECONDS: Final = 2 * DAY  # an invitation that ends within this time is reported
BACKUP_SECONDS: Final = 7 * DAY  # and an older backup than this
MOST_NAMED: Final = 8
BACKED_UP: Final = "backed-up"  # kind in the security log
RENEWED: Final = "the running service renews it by itself; or: onlysum coordinator renew"
ROTATED: Final = "onlysum coordinator renew --authority"
MEMBERS_CERTIFICATE: Final = (
    "its daemon renews it when connected; once it has ended: onlysum coordinator invite {} --again"
)


@dataclass(frozen=True, slots=True)
class Item:
    """Something that waits."""

    kind: str  # approval, refusal, held, invitation, certificate, disk or backup
    urgent: bool
    text: str
    at: int | None  # since when it waits, or when it ends
    next_step: str
    subject: str = ""  # a run's id or a member's name

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "kind": self.kind,
            "urgent": self.urgent,
            "text": self.text,
            "at": timestamp(self.at),
            "next": self.next_step,
            "subject": self.subject,
        }


@dataclass(frozen=True, slots=True)
class Inbox:
    """All that waits, what is urgent first."""

    items: tuple[Item, ...]
    backed_up_at: int | None
    free_bytes: int

    def to_json(self) -> Json:
        """Return it for programs."""
        items: list[Json] = [item.to_json() for item in self.items]
        return {"items": items, "backed_up_at": timestamp(self.backed_up_at), "free_bytes": self.free_bytes}

    def to_lines(self) -> list[str]:
        """Return it for people."""
        lines = [f"{'! ' if item.urgent else '  '}{item.text}. Next: {item.next_step}" for item in self.items]
        free = f"{self.free_bytes / 2**30:.1f} GiB free; last backup {moment(self.backed_up_at)}"
        return [*(lines or ["Nothing waits for you."]), free]


def inbox(opened: OpenHome, now: int) -> Inbox:
    """Read what waits at a time, in seconds since the Unix epoch."""
    with opened.store.read() as connection:
        runs = run_rows.list_runs(connection)
        items = [item for run in runs if not run.state.ended for item in _plan(connection, run)]
        tokens = [token for token in member_rows.list_tokens(connection) if token.used_at is None]
        members = [member for member in member_rows.list_members(connection) if member.active and member.certificate]
        backups = [row.at for row in member_rows.newest_security(connection, (BACKED_UP,))]
    for token in tokens:
        again = any(member.name == token.name for member in members)
        items += _invitation(token, now, again=again)
    authority = opened.authority()
    for whose, pem, step in (
        ("the authority", authority.ca_certificate, ROTATED),
        ("the service", authority.server_certificate, RENEWED),
    ):
        items += _certificate(whose, expires_at(pem), now, step, since=expires_at(pem) - RENEW_SECONDS)
    for member in members:
        step, since = MEMBERS_CERTIFICATE.format(member.name), renewal_overdue(member.certificate)
        items += _certificate(member.name, expires_at(member.certificate), now, step, since=since)
    if (handover := authority.overlapping(now)) is not None:
        behind = [member.name for member in members if not issued_by(member.certificate, authority.ca_certificate)]
        items += _followers(behind, handover.ends)
    free, backed_up_at = shutil.disk_usage(opened.home.directory).free, max(backups, default=None)
    items += _disk(free)
    items += _backup(opened, backed_up_at, now)
    order = sorted(items, key=lambda item: (not item.urgent, item.at or 0, item.text))
    return Inbox(tuple(order), backed_up_at, free)


def _plan(connection: Connection, run: RunRecord) -> Iterator[Item]:
    short = run.run_id[:8]
    if run.held:
        yield Item("held", True, f"run {short} is held: {run.code}", None, f"onlysum coordinator run show {short}",
                   run.run_id)  # fmt: skip
    answers = {answer.member: answer for answer in run_rows.list_approvals(connection, run.run_id)}
    for answer in answers.values():
        if not answer.approved:
            text = f"{answer.member} refuses run {short}: {answer.because or answer.code}"
            yield Item("refusal", True, text, answer.at, f"talk to {answer.member}", run.run_id)
    if run.state is RunState.CREATED:
        missing = [member.id for member in run.parsed().roster if member.id not in answers]
        if missing:
            more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
            names = ", ".join(missing[:MOST_NAMED]) + more
            text = f"run {short} waits for the approval of {names} since {moment(run.created_at)} UTC"
            yield Item("approval", False, text, run.created_at, "remind them", run.run_id)


def _invitation(token: member_rows.TokenRecord, now: int, *, again: bool) -> Iterator[Item]:
    name, until = token.name, token.expires_at
    if until <= now:
        text = f"the invitation of {name} has expired at {moment(until)} UTC"
    elif until - now < INVITATION_SECONDS:
        text = f"the invitation of {name} ends at {moment(until)} UTC"
    else:
        return
    options = f"{' --role evaluator' if token.role is Role.EVALUATOR else ''}{' --again' if again else ''}"
    yield Item("invitation", until <= now, text, until, f"onlysum coordinator invite {name}{options}", name)


def _certificate(whose: str, until: int, now: int, next_step: str, *, since: int) -> Iterator[Item]:
    if now >= since:
        text = f"the certificate of {whose} {'ended' if until <= now else 'ends'} at {moment(until)} UTC"
        yield Item("certificate", until - now < 7 * DAY, text, until, next_step, whose)


def _followers(behind: list[str], until: int) -> Iterator[Item]:
    """Report who has not followed to the new authority yet."""
    if behind:
        more = f" and {len(behind) - MOST_NAMED} more" if len(behind) > MOST_NAMED else ""
        text = f"the authority before counts until {moment(until)} UTC, and {', '.join(behind[:MOST_NAMED])}{more} "
        text += "have not followed to the new one yet"
        yield Item("certificate", False, text, until, "their daemons follow when they are connected")


def _disk(free: int) -> Iterator[Item]:
    if free < FREE_BYTES:
        yield Item("disk", True, f"{free // 2**20} MiB free", None, "free space: a full disk stops every round")


def _backup(opened: OpenHome, backed_up_at: int | None, now: int) -> Iterator[Item]:
    if sqlite_path(opened.settings.database_url(opened.home)) is None:
        return  # pg_dump's copies are not known here
    if backed_up_at is None or now - backed_up_at > BACKUP_SECONDS:
        when = "there is no backup yet" if backed_up_at is None else f"the last backup is of {moment(backed_up_at)} UTC"
        yield Item("backup", False, when, backed_up_at, "onlysum coordinator backup FILE")
