"""Pins: the identity keys of the other owners, compared over another channel and written into policy.toml.

Guarantees: a roster has this participant's own key as this directory has it, or there is no fingerprint of it; what was
heard is compared to its last digit before anything is written; a member that is pinned is never pinned anew.
Leaves to others: hearing it (a person, by telephone or face to face), what pins mean for a plan
(``participant.owner.rules``).
Source: docs/adr/0054-one-fingerprint-of-a-roster.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from host import configuration, durable
from host.fingerprints import ROSTER_DIGITS, digits_of, matches, roster_fingerprint
from participant.home import Home
from participant.owner.approval import Owner
from participant.owner.policy import parse_policy
from privacy.errors import LocalError, VerificationError

PIN_DIGITS = 32  # of a key that is pinned; as many as its fingerprint shows


@dataclass(frozen=True, slots=True)
class ComparedRoster:
    """The participants whom one fingerprint covers, this one among them."""

    keys: Mapping[str, bytes]  # Ed25519 identity keys by name
    me: str
    fingerprint: str  # 64 hex digits in groups of four

    @property
    def others(self) -> tuple[str, ...]:
        """The names of the other participants."""
        return tuple(name for name in sorted(self.keys) if name != self.me)

    def lines(self) -> list[str]:
        """Return the fingerprint as people read it aloud, four groups a line."""
        groups = self.fingerprint.split()
        return [f"  {' '.join(groups[start : start + 4])}" for start in range(0, len(groups), 4)]

    def unpinned(self, pins: Mapping[str, str]) -> dict[str, bytes]:
        """Return the keys of the others that a policy does not pin yet.

        Raises:
            VerificationError: ``E-IDENTITY-DIFFERS``: a pinned member has another key here.
        """
        differing = [name for name in self.others if name in pins and not matches(self.keys[name], pins[name])]
        if differing:
            detail = f"{', '.join(differing)} has another key than the one that you pinned; nothing was pinned"
            raise VerificationError("E-IDENTITY-DIFFERS", detail)
        return {name: self.keys[name] for name in self.others if name not in pins}

    def require_heard(self, heard: str) -> None:
        """Compare what the other owners read aloud with the fingerprint.

        Raises:
            LocalError: ``E-USAGE``: it has not all the digits.
            VerificationError: ``E-IDENTITY-DIFFERS``: they see another roster.
        """
        digits = digits_of(heard)
        if not re.fullmatch(rf"[0-9a-f]{{{ROSTER_DIGITS}}}", digits):
            raise LocalError(
                "E-USAGE", f"the fingerprint of a roster has {ROSTER_DIGITS} hexadecimal digits: all count"
            )
        if digits != digits_of(self.fingerprint):
            detail = "the other owners see another roster than this machine; nothing was pinned"
            raise VerificationError("E-IDENTITY-DIFFERS", detail)


def compared_roster(owner: Owner, keys: Mapping[str, bytes]) -> ComparedRoster:
    """Return the fingerprint of a list of participants.

    Args:
        owner: of this directory.
        keys: the identity keys of all participants by name, as the coordinator or a plan lists them.

    Raises:
        VerificationError: ``E-IDENTITY-DIFFERS``: this participant is missing there, or has a key that is not its own.
    """
    if keys.get(owner.name) != owner.identity.public:
        detail = f"the list does not have {owner.name} with this directory's identity key; nothing was pinned"
        raise VerificationError("E-IDENTITY-DIFFERS", detail)
    shown = roster_fingerprint(owner.federation, bytes.fromhex(owner.ca_fingerprint), keys)
    return ComparedRoster(dict(keys), owner.name, shown)


def pin(home: Home, keys: Mapping[str, bytes]) -> None:
    """Write members' fingerprints under [coordinator.roster] of policy.toml.

    Raises:
        LocalError: as :func:`with_pins`.
    """
    durable.write(home.policy, with_pins(configuration.read_text(home.policy), keys).encode())


def with_pins(text: str, keys: Mapping[str, bytes]) -> str:
    """Return the text of a policy with members pinned, everything else as it was.

    Args:
        text: of policy.toml.
        keys: identity keys by name.

    Raises:
        LocalError: ``E-EXISTS``, one is pinned already; ``E-CONFIG-*``: the text does not parse.
    """
    before = parse_policy(text).coordinator.roster
    if already := sorted(keys.keys() & before.keys()):
        raise LocalError("E-EXISTS", f"{already[0]} is pinned already; to change it, edit policy.toml")
    if not keys:
        return text
    lines = "".join(f'{_key(name)} = "{_digits(keys[name])}"\n' for name in sorted(keys))
    header = re.search(r"^\[coordinator\.roster\][^\n]*\n", text, re.MULTILINE)
    if header is None:
        changed = f"{text.rstrip()}\n\n[coordinator.roster]\n{lines}"
    else:
        changed = f"{text[: header.end()]}{lines}{text[header.end() :]}"
    if parse_policy(changed).coordinator.roster.keys() != {*before, *keys}:
        raise LocalError("E-CONFIG-INVALID", "policy.toml: the pins could not be added; write them there yourself")
    return changed


def _digits(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:PIN_DIGITS]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
