"""Joining a federation: keys are made here, the invitation is spent, and the directory is written.

Guarantees: keys are on disk before the token is spent, so that a crash in between is mended by running the same command
again; nothing that is there is overwritten; the policy that is written allows nothing.
Leaves to others: the network (``channel``), what files say (``config``, ``policy``).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from host import durable
from host.fingerprints import fingerprint
from host.state_format import write_format
from participant.config import FORMAT, settings_template
from participant.home import Home
from participant.link.channel import enrol
from participant.link.identity import (
    Identity,
    accept_membership,
    enrolment_request,
    has_keys,
    load_keys,
    new_keys,
    save_identity,
    save_keys,
)
from participant.link.introduction import introduced
from participant.owner.ledger_directory import (
    SHARED,
    LedgerDirectory,
    LedgerMember,
    Newcomer,
    default_directory,
)
from participant.owner.policy import policy_template
from privacy import patterns
from privacy.errors import LocalError
from privacy.interfaces import Clock, RandomSource
from protos.envelope import Role
from protos.invitation import decode_invitation


@dataclass(frozen=True, slots=True)
class Joined:
    """A new membership, and the ledger that it charges to."""

    identity: Identity
    ledgers: LedgerDirectory
    member: LedgerMember

    @property
    def sharing(self) -> tuple[LedgerMember, ...]:
        """The other members that charge to the same ledger."""
        return tuple(other for other in self.ledgers.beside(self.member) if other.ledger == self.member.ledger)

    @property
    def apart(self) -> tuple[str, ...]:
        """Why this member has a ledger of its own, in sentences for people, where a participant has one."""
        if self.identity.role is not Role.PARTICIPANT or self.member.ledger == SHARED:
            return ()
        federation = self.identity.federation
        other = (
            f"Another participant of {federation} on this machine charges to the shared ledger, so this has its own:"
        )
        return (f"{other} their data must be of different people.",)


def join(
    line: str,
    directory: Path,
    *,
    clock: Clock,
    random: RandomSource,
    ledgers: Path | None = None,
    proxy: str = "",
) -> Joined:
    """Enrol with an invitation and write the participant's directory.

    Args:
        line: the invitation as the operator sent it.
        directory: where everything will lie; made if it is not there.
        clock: for the ledger's first record.
        random: source of keys.
        ledgers: where this machine's ledgers lie; by default in this user's directory of states.
        proxy: an HTTPS CONNECT proxy on the way to the coordinator, or empty.

    Returns:
        Who has joined, and the ledger that it charges to.

    Raises:
        LocalError: ``E-TOKEN-INVALID``, ``E-USAGE``: a proxy of another kind, or ``E-EXISTS``: the directory belongs to
            a member already.
        PeerError: ``E-TOKEN-*``, ``E-VERSION``.
        NetworkError: the coordinator cannot be reached; running the command again goes on.
    """
    _check_proxy(proxy)
    short = decode_invitation(line)
    home = Home(directory)
    if home.membership.exists():
        raise LocalError("E-EXISTS", f"{directory} belongs to a member already; choose another --config DIR")
    home.make()
    place = _ledgers(ledgers)
    if has_keys(home.identity):
        keys = load_keys(home.identity)  # an earlier try got as far as the keys
    else:
        keys = new_keys(random)
        save_keys(home.identity, keys)
    invitation = introduced(short, proxy=proxy)
    membership = enrol(invitation, enrolment_request(invitation, keys), proxy=proxy)
    identity = accept_membership(invitation, keys, membership)
    write_format(home.directory, FORMAT)
    if not home.config.exists():
        durable.write(home.config, _settings(identity.name, str(place.path), proxy).encode())
    if not home.policy.exists():
        durable.write(home.policy, policy_template(fingerprint(identity.authority_der)).encode())
    member = _admitted(place, identity, home, random=random, at=int(clock.now()))
    save_identity(home.identity, identity)  # last: with the membership the directory is whole
    return Joined(identity, place, member)


def _admitted(place: LedgerDirectory, identity: Identity, home: Home, *, random: RandomSource, at: int) -> LedgerMember:
    newcomer = Newcomer(
        identity=identity.signing.public,
        name=identity.name,
        federation=identity.federation,
        authority=hashlib.sha256(identity.authority_der).hexdigest(),
        home=home,
        charges=identity.role is Role.PARTICIPANT,
    )
    return place.admit(newcomer, random=random, at=at)


def _ledgers(path: Path | None) -> LedgerDirectory:
    """Return the directory of ledgers, made before a token is spent.

    Raises:
        LocalError: ``E-DISK-*``, ``E-PERMISSIONS`` or ``E-USAGE``, there is no place unless one is named.
    """
    place = LedgerDirectory((path or default_directory()).absolute())
    try:
        place.make()
    except LocalError as error:
        raise LocalError(error.code, f"{error.detail}; another place for the ledger: --ledgers DIR") from None
    return place


def _check_proxy(proxy: str) -> None:
    if not re.fullmatch(patterns.PROXY, proxy):
        raise LocalError("E-USAGE", f"--proxy: {patterns.WORDS[patterns.PROXY]}")


def _settings(name: str, ledgers: str, proxy: str) -> str:
    text = settings_template(name, ledgers)
    return text.replace('# proxy = "http://proxy.example:3128"', f'proxy = "{proxy}"') if proxy else text
