"""Who is enrolled, as the coordinator says, and whether the owner has pinned the same keys.

Guarantees: a member whose key is not the pinned one stands out; nobody counts as pinned whose key does not match.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from host.fingerprints import fingerprint, matches
from host.rendering import Json, Line, table
from participant.daemon.status import read_status
from participant.opened import OpenHome
from participant.owner.policy import load_policy
from privacy.errors import LocalError, NetworkError
from protos.envelope import MemberEntry, Role


class PinState(StrEnum):
    """What the owner's policy says of a member's key."""

    SELF = "you"
    PINNED = "pinned"
    NOT_PINNED = "not pinned"
    DIFFERS = "DIFFERS FROM YOUR PIN"


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as the coordinator lists it."""

    name: str
    role: str
    fingerprint: str
    state: PinState

    def to_json(self) -> Json:
        """Return it for programs."""
        return {"name": self.name, "role": self.role, "identity": self.fingerprint, "state": self.state.value}


@dataclass(frozen=True, slots=True)
class MemberList:
    """Everybody who is enrolled."""

    members: tuple[MemberView, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [member.to_json() for member in self.members]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        rows = [(member.name, member.role, member.fingerprint, member.state.value) for member in self.members]
        lines = table(("MEMBER", "ROLE", "IDENTITY FINGERPRINT", ""), rows)
        if any(member.state is PinState.NOT_PINNED for member in self.members):
            lines.append("Compare by telephone and pin: onlysum participant member pin --all")
        return lines


@dataclass(frozen=True, slots=True)
class OwnFingerprints:
    """What this participant reads to others, and what it pinned at joining."""

    name: str
    identity: str
    authority: str

    def to_json(self) -> Json:
        """Return it for programs."""
        return {"name": self.name, "identity": self.identity, "authority": self.authority}

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        return table(("WHOSE", "FINGERPRINT"), ((self.name, self.identity), ("authority", self.authority)))


def member_list(opened: OpenHome) -> MemberList:
    """Read whom the coordinator listed last.

    Raises:
        LocalError: ``E-NOT-FOUND``, no daemon has run yet; ``E-CONFIG-*`` of the policy.
    """
    daemon = read_status(opened.home)
    if daemon is None:
        detail = "no daemon has run here yet; `onlysum participant start` learns who is enrolled"
        raise LocalError("E-NOT-FOUND", detail)
    pins = load_policy(opened.home).coordinator.roster
    return MemberList(tuple(_view(entry, pins.get(entry.name), opened.owner.name) for entry in daemon.members))


def own_fingerprints(opened: OpenHome) -> OwnFingerprints:
    """Read this participant's own fingerprint and the authority's."""
    identity = opened.identity
    return OwnFingerprints(identity.name, identity.fingerprint, fingerprint(identity.authority_der))


def _view(entry: MemberEntry, pin: str | None, own_name: str) -> MemberView:
    state = PinState.NOT_PINNED if pin is None else PinState.PINNED
    if entry.name == own_name:
        state = PinState.SELF
    if pin is not None and not matches(entry.identity_key, pin):
        state = PinState.DIFFERS
    return MemberView(entry.name, entry.role.value, fingerprint(entry.identity_key), state)


def listed_key(opened: OpenHome, name: str) -> bytes:
    """Return the identity key that the coordinator lists for a member.

    Raises:
        LocalError: ``E-NOT-FOUND``: no daemon has run yet, or nobody of this name is enrolled.
    """
    daemon = read_status(opened.home)
    entry = next((entry for entry in daemon.members if entry.name == name), None) if daemon else None
    if entry is None:
        raise LocalError(
            "E-NOT-FOUND", f"the coordinator lists no member {name}; see `onlysum participant member list`"
        )
    return entry.identity_key


def participant_keys(opened: OpenHome) -> dict[str, bytes]:
    """Return the identity keys of all participants by name, as the coordinator lists them now.

    It is asked; if it cannot be reached, what the daemon heard last has to do.

    Raises:
        LocalError: ``E-NOT-FOUND``: it cannot be reached, and no daemon has run yet.
    """
    from participant.daemon.doctor import first_words
    from participant.link.channel import Channel

    try:
        with Channel(opened.identity, proxy=opened.settings.proxy) as channel:
            members = channel.handshake(first_words(opened)).members
    except NetworkError:
        daemon = read_status(opened.home)
        if daemon is None:
            detail = "the coordinator cannot be reached, and no daemon has run here yet"
            raise LocalError("E-NOT-FOUND", detail) from None
        members = daemon.members
    return {entry.name: entry.identity_key for entry in members if entry.role is Role.PARTICIPANT}
