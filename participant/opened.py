"""A participant's directory, checked and read: what commands, views and the daemon start from.

Guarantees: the directory's permissions and the names in configuration, certificate and ledger are compared.
Leaves to others: the daemon (``participant.daemon.assembly``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from host.system import SystemClock
from participant.config import Settings, load_settings
from participant.home import Home
from participant.link.identity import Identity, load_identity
from participant.owner.approval import Owner, PlanReview
from participant.owner.ledger import Ledger
from participant.owner.plan_store import PlanStore
from privacy.errors import LocalError


@dataclass(frozen=True, slots=True)
class OpenHome:
    """A participant's directory, checked and read; what commands and the daemon start from."""

    home: Home
    settings: Settings
    identity: Identity
    owner: Owner
    ledger: Ledger
    review: PlanReview


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
    ledger = Ledger.open(settings.ledger_path(home), key=owner.identity)
    plans = PlanStore(home, identity.operator_key)
    return OpenHome(home, settings, identity, owner, ledger, PlanReview(home, owner, plans, ledger, SystemClock()))
