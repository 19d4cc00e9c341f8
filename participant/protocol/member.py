"""Who takes part, and in what.

Leaves to others: every check (``checks``), what follows from one (``round``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privacy.plan import VerifiedPlan
from privacy.secagg import keys
from privacy.secagg.keys import SigningKey
from privacy.secagg.layout import Words
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

    def encode(self, round_number: int, update: NDArray[np.int64]) -> Words:
        """Return the ring words of a round's update, shape (entries of its turn,), with this participant's weight."""
        return self.plan.plan.layout(round_number).encode(update, self.parameters.member(self.me).weight)
