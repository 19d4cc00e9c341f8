"""What secure aggregation has to know of a plan, and nothing else of it.

Guarantees: everything here was fixed, approved and signed with the plan; no message changes it.
Leaves to others: what these numbers must be to each other (``privacy.plan``), the vector's form (``layout``).
Source: docs/protocol.md section 2.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from privacy.secagg.suites import Suite

_id: Final = attrgetter("id")


@dataclass(frozen=True, slots=True)
class RosterMember:
    """A participant: its name, its Ed25519 identity key (32 bytes), and the public weight of its update."""

    id: str
    identity_key: bytes
    weight: int


@dataclass(frozen=True, slots=True)
class Parameters:
    """The rules of every round of a run.

    Attributes:
        protocol_version: enters every signed string.
        suite: of key agreement.
        roster: sorted by id; a participant's Shamir x-coordinate is its position, counted from 1.
        share_threshold: how many shares rebuild a participant's secrets.
        quorum: T, how many must sign the survivors.
        min_survivors: least size of U1, U2 and S.
        neighbours: of each participant at most in a k-regular graph; 0 for the complete graph.
        rounds: of the run.
        max_attempts: at one round.
    """

    protocol_version: int
    suite: Suite
    roster: tuple[RosterMember, ...]
    share_threshold: int
    quorum: int
    min_survivors: int
    neighbours: int
    rounds: int
    max_attempts: int

    @property
    def ids(self) -> list[str]:
        """Everybody on the roster, sorted."""
        return [member.id for member in self.roster]

    def index(self, participant: str) -> int:
        """Return a participant's position on the roster, from 0.

        Raises:
            KeyError: it is not on the roster.
        """
        position = bisect_left(self.roster, participant, key=_id)
        if position == len(self.roster) or self.roster[position].id != participant:
            raise KeyError(participant)
        return position

    def member(self, participant: str) -> RosterMember:
        """Return the roster's entry of a participant, or raise ``KeyError``."""
        return self.roster[self.index(participant)]
