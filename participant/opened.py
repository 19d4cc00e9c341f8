"""A participant's directory, checked and read: what commands, views and the daemon start from.

Guarantees: the directory's permissions and the names in configuration, certificate and ledger are compared.
Leaves to others: the daemon (``participant.daemon.assembly``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from host.system import SystemClock
from participant.config import Settings, load_settings
from participant.home import Home
from participant.link.identity import Identity, load_identity
from participant.owner.approval import Owner, PlanReview
from participant.owner.ledger import Ledger
from participant.owner.ledger_directory import LedgerDirectory, LedgerMember
from participant.owner.plan_store import PlanStore
from participant.owner.policy import load_policy
from participant.owner.registry import Beside, Registry
from participant.owner.reservations import Reservation, Reservations
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
    neighbours: MachineNeighbours


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
    owner = Owner(identity.name, identity.federation, identity.signing, identity.authority_sha256, identity.followed)
    ledgers = LedgerDirectory(settings.ledger_directory(home))
    member = ledgers.member(owner.identity.public, home)
    ledger = ledgers.open(member)
    plans = PlanStore(home, identity.operator_key, decisions=ledgers.decisions)
    neighbours = MachineNeighbours(ledgers, member, ledger)
    review = PlanReview(home, owner, plans, ledger, SystemClock(), neighbours=neighbours)
    return OpenHome(home, settings, identity, owner, ledger, review, ledgers, member, neighbours)


@dataclass(frozen=True, slots=True)
class MachineNeighbours:
    """The other members on this machine, as far as they bear on what one of them does.

    Raises, in each method:
        LocalError, VerificationError: a directory of theirs, or a ledger, does not parse; it is named.
    """

    ledgers: LedgerDirectory
    member: LedgerMember
    ledger: Ledger

    def reserved(self, population: str, *, now: float) -> tuple[Reservation, ...]:
        """Return what approved runs of those that charge to the same ledger reserve of a population's budget."""
        found: list[Reservation] = []
        for other in self.ledgers.beside(self.member):
            if other.ledger == self.member.ledger:
                with other.named():
                    plans = PlanStore(other.directory, load_identity(other.directory.identity).operator_key)
                    reservations = Reservations(plans, self.ledger, other.name, strict=True)
                    found += reservations.of(population, load_policy(other.directory), now=now)
        return tuple(found)

    def charged_apart(self, sha256: str) -> tuple[str, ...]:
        """Return which populations were charged for the data of a hash on this machine's other ledgers, in words."""
        return self.ledgers.charged_apart(self.member, sha256) if sha256 else ()

    def registered(self) -> tuple[Beside, ...]:
        """Return what the other participants have registered."""
        found: list[Beside] = []
        for other in self.ledgers.beside(self.member):
            with other.named():
                if load_identity(other.directory.identity).role is Role.PARTICIPANT:
                    sections = load_policy(other.directory).dataset
                    populations = {name: section.population for name, section in sections.items()}
                    same = other.ledger == self.member.ledger
                    found.append(Beside(other.words, same, Registry(other.directory).datasets(), populations))
        return tuple(found)
