"""Who takes part, and in what.

Leaves to others: every check (``checks``), what follows from one (``round``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from privacy.plan import VerifiedPlan
from privacy.secagg import keys
from privacy.secagg.keys import SigningKey
from privacy.secagg.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Participant:
    """An approved plan, this participant's place in it and its identity key."""

    plan: VerifiedPlan
    me: str
    identity: SigningKey
    parameters: Parameters = field(init=False)  # the rules of every round

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", self.plan.plan.parameters())

    def signed_by(self, sender: str, signature: bytes, signed: bytes) -> bool:
        """Return whether a member of the roster signed these bytes."""
        return keys.verify(self.parameters.member(sender).identity_key, signature, signed)
