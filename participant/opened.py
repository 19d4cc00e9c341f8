"""A participant's directory, checked and read: what commands, views and the daemon start from.

Guarantees: the directory's permissions and the names in configuration, certificate and ledger are compared.
Leaves to others: the daemon (``participant.daemon.assembly``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from host.system import SystemClock
from participant.config import Settings, load_settings
from participant.home import Home
from participant.link.identity import Identity, load_identity
from participant.owner.approval import Owner, PlanReview
from participant.owner.ledger import Ledger
from participant.owner.ledger_directory import LedgerDirectory, LedgerMember
from participant.owner.plan_store import PlanStore
from participant.owner.policy import Policy, load_policy
from participant.owner.registry import Beside, Registry
from participant.owner.reservations import Reservations
from privacy.errors import LocalError
from protos.envelope import Role


@dataclass(frozen=True, slots=True)
class OpenHome:
    """A participant's directory, checked and read; what commands and the daemon start from."""

    home: Home
    settings: Settings
    identity: Identity
    owner: Owner
    ledger: Ledger
    review: PlanReview
    ledgers: LedgerDirectory
    member: LedgerMember  # as the ledgers know it


def open_home(directory: Path) -> OpenHome:
    """Check and read a participant's directory.

    Raises:
        LocalError: ``E-CONFIG-*`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    home.check()
    settings, identity = load_settings(home), load_identity(home.identity)
    if settings.name != identity.name:
        detail = f"participant.toml says {settings.name}, the certificate {identity.name}"
        raise LocalError("E-CONFIG-INVALID", detail)
    authority = hashlib.sha256(identity.authority_der).hexdigest()
    owner = Owner(identity.name, identity.federation, identity.signing, authority)
    ledgers = LedgerDirectory(settings.ledger_directory(home))
    member = ledgers.member(owner.identity.public, home)
    ledger = ledgers.open(member)
    plans = PlanStore(home, identity.operator_key, decisions=ledgers.decisions)
    beside = partial(reserved_beside, ledgers, member, ledger)
    review = PlanReview(home, owner, plans, ledger, SystemClock(), beside=beside)
    return OpenHome(home, settings, identity, owner, ledger, review, ledgers, member)


def registered_beside(opened: OpenHome) -> Iterator[Beside]:
    """Yield what the other participants on this machine have registered.

    Raises:
        LocalError: a directory of theirs does not parse.
    """
    for other in opened.ledgers.beside(opened.member):
        with other.named():
            if load_identity(other.directory.identity).role is not Role.PARTICIPANT:
                continue
            datasets, policy = Registry(other.directory).datasets(), load_policy(other.directory)
        populations = {name: section.population for name, section in policy.dataset.items()}
        same = other.ledger == opened.member.ledger
        yield Beside(f"{other.name} of {other.federation}", same, datasets, populations)


def reserved_beside(
    ledgers: LedgerDirectory, member: LedgerMember, ledger: Ledger
) -> Iterator[tuple[Reservations, Policy]]:
    """Yield where the reservations of the other members lie that charge to the same ledger.

    Raises:
        LocalError: a directory of theirs does not parse, so that nobody knows what they reserve.
    """
    for other in ledgers.beside(member):
        if other.ledger == member.ledger:
            with other.named():
                plans = PlanStore(other.directory, load_identity(other.directory.identity).operator_key)
                policy = load_policy(other.directory)
            yield Reservations(plans, ledger, other.name), policy
