"""Who takes part, in what, and how a participant refuses.

Leaves to others: every check (``checks``), what follows from one (``round``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from participant.protocol.memory import Phase
from privacy.errors import PeerError
from privacy.plan import Plan, VerifiedPlan
from privacy.secagg import keys
from privacy.secagg.keys import SigningKey

COORDINATOR: Final = "coordinator"


@dataclass(frozen=True, slots=True)
class Participant:
    """An approved plan, this participant's place in it and its identity key."""

    plan: VerifiedPlan
    me: str
    identity: SigningKey

    @property
    def rules(self) -> Plan:
        """The plan's fields."""
        return self.plan.plan

    def signed_by(self, sender: str, signature: bytes, signed: bytes) -> bool:
        """Say whether a member of the roster signed these bytes."""
        return keys.verify(bytes.fromhex(self.rules.member(sender).identity_key), signature, signed)


def refuse(code: str, phase: Phase, rule: str, *, by: str = COORDINATOR) -> PeerError:
    """Return the refusal of a message that breaks a rule of its phase."""
    return PeerError(code, participant=by, phase=phase.name, rule=rule)
