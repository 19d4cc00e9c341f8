"""What the coordinator asks of a participant in a round, and in which attempt.

Leaves to others: their form on the wire (``protos``), the answers (``participation``).
"""

from __future__ import annotations

from privacy.secagg.messages import Position
from protos.envelope import (
    AttemptAborted,
    AttemptOpened,
    KeysAdvertised,
    RoundCompleted,
    RoundVoided,
    SharesDealt,
    SurvivorsProposed,
    UnmaskRequested,
)

RoundTask = (
    AttemptOpened
    | KeysAdvertised
    | SharesDealt
    | SurvivorsProposed
    | UnmaskRequested
    | RoundCompleted
    | RoundVoided
    | AttemptAborted
)


def position_of(task: RoundTask) -> Position:
    """Return the attempt that a task belongs to."""
    match task:
        case AttemptOpened():
            return task.offer.position
        case KeysAdvertised():
            return task.advertisements[0].offer.position
        case SurvivorsProposed():
            return task.proposal.position
        case UnmaskRequested():
            return task.request.proposal.position
        case RoundCompleted():
            return task.certificate.position
        case RoundVoided():
            return task.voided.position
        case SharesDealt() | AttemptAborted():
            return task.position
