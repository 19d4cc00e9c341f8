"""Who is enrolled: all members, one of them, and the fingerprints that owners compare by telephone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.daemon.status import live_members
from coordinator.database import member_rows
from coordinator.database.member_rows import LedgerSeen, MemberRecord
from coordinator.opened import OpenHome
from host.fingerprints import fingerprint
from host.rendering import Json, Line, moment, table, timestamp
from privacy.errors import LocalError
from protos.envelope import DatasetOffer


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member, what its key is recognised by, and whether its daemon is connected."""

    name: str
    role: str
    active: bool
    live: bool
    identity_fingerprint: str
    software_version: str
    labels: str
    enrolled_at: int
    revoked_at: int | None

    @property
    def state(self) -> str:
        """One word: ``revoked``, ``live`` or ``away``."""
        if not self.active:
            return "revoked"
        return "live" if self.live else "away"

    def to_json(self) -> dict[str, Json]:
        """Return it for programs."""
        return {
            "name": self.name,
            "role": self.role,
            "active": self.active,
            "live": self.live,
            "identity_fingerprint": self.identity_fingerprint,
            "software_version": self.software_version,
            "labels": self.labels,
            "enrolled_at": timestamp(self.enrolled_at),
            "revoked_at": timestamp(self.revoked_at),
        }


@dataclass(frozen=True, slots=True)
class MemberList:
    """All members, revoked ones too."""

    members: tuple[MemberView, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [member.to_json() for member in self.members]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        if not self.members:
            return ["No members yet. Next: onlysum coordinator invite NAME"]
        rows = [
            (member.name, member.role, member.state, member.software_version or "-", moment(member.enrolled_at))
            for member in self.members
        ]
        return table(("NAME", "ROLE", "STATE", "VERSION", "ENROLLED (UTC)"), rows)


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
    live = live_members(opened.home)
    with opened.store.read() as connection:
        members = member_rows.list_members(connection)
    return MemberList(tuple(_view(member, live) for member in members))


def member_details(opened: OpenHome, name: str) -> MemberDetails:
    """Read one member.

    Raises:
        LocalError: ``E-NOT-FOUND``.
    """
    live = live_members(opened.home)
    with opened.store.read() as connection:
        member = member_rows.find_member(connection, name)
        datasets, ledgers = member_rows.announced(connection, name), member_rows.ledgers_seen(connection, name)
    if member is None:
        raise LocalError("E-NOT-FOUND", f"no member {name}")
    return MemberDetails(_view(member, live), tuple(datasets), ledgers)


def fingerprints(opened: OpenHome) -> Fingerprints:
    """Read the authority's, the operator's and the active members' fingerprints."""
    authority = opened.authority()
    with opened.store.read() as connection:
        members = [member for member in member_rows.list_members(connection) if member.active]
    identities = {member.name: fingerprint(member.identity_key) for member in members}
    return Fingerprints(authority.fingerprint, fingerprint(authority.operator.public), identities)


def _view(member: MemberRecord, live: tuple[str, ...]) -> MemberView:
    return MemberView(
        name=member.name,
        role=member.role.value,
        active=member.active,
        live=member.name in live,
        identity_fingerprint=fingerprint(member.identity_key),
        software_version=member.software_version,
        labels=member.labels,
        enrolled_at=member.enrolled_at,
        revoked_at=member.revoked_at,
    )
