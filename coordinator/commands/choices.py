"""Options that are choices: typer lists them in the help and refuses everything else.

Guarantees: needs no numerics, so help stays fast; the words are those of plans, which a test compares.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class MemberRole(StrEnum):
    """What a newcomer will be; the words of ``protos.envelope.Role``."""

    PARTICIPANT = "participant"
    EVALUATOR = "evaluator"


class UserRole(StrEnum):
    """What a user of the dashboard may do; the words of ``coordinator.database.user_rows.UserRole``."""

    OPERATOR = "operator"
    AUDITOR = "auditor"


class Weights(StrEnum):
    """How members weigh in a sum."""

    EQUAL = "equal"
    UNITS = "units"

    @property
    def rule(self) -> Literal["equal", "units"]:
        """The word of a run request."""
        return "units" if self is Weights.UNITS else "equal"


class GraphKind(StrEnum):
    """Who masks with whom."""

    COMPLETE = "complete"
    K_REGULAR = "k-regular"

    @property
    def kind(self) -> Literal["complete", "k-regular"]:
        """The word of a plan."""
        return "k-regular" if self is GraphKind.K_REGULAR else "complete"


class Suite(StrEnum):
    """How keys are agreed: X25519, or X25519 with ML-KEM-768 against quantum computers."""

    CLASSICAL = "1"
    HYBRID = "2"

    @property
    def number(self) -> Literal[1, 2]:
        """The number of a plan."""
        return 2 if self is Suite.HYBRID else 1
