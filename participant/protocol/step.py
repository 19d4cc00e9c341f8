"""What follows from what a participant is told: the next state, what it keeps, and what it sends.

Guarantees: what is kept and what is sent are different types, made in the same call; no message holds a share, a seed,
or a private key in the clear but those of UNMASK.
Leaves to others: doing it (the daemon, or whoever drives the machine).
Source: docs/protocol.md section 5.7.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from participant.protocol.memory import Record
from participant.protocol.states import State
from privacy.secagg.fixed_point import Buffer
from privacy.secagg.messages import (
    Advertisement,
    Complaint,
    MaskedUpload,
    ShareBundle,
    SurvivorSignature,
    UnmaskShares,
)

Message = Advertisement | ShareBundle | Complaint | MaskedUpload | SurvivorSignature | UnmaskShares
StateT = TypeVar("StateT", bound=State, covariant=True)  # noqa: PLC0105  # "StateT" reads better at each use


@dataclass(frozen=True, slots=True)
class RoundFile:
    """Bytes too many, or too secret, for the journal: they are erased when the round closes."""

    name: str
    data: Buffer = field(repr=False)


@dataclass(frozen=True, slots=True)
class Step(Generic[StateT]):
    """The next state, and what the caller must do about it, in this order.

    1. Make each of ``files`` durable, then ``record``, which relies on them, and apply it to the memory.
    2. Go on from ``state``.
    3. Send ``message``.

    If the first fails, the state is the one before and nothing is sent. A repeated message gives the same bytes again
    and no record.
    """

    state: StateT
    record: Record | None = None
    message: Message | None = None
    files: tuple[RoundFile, ...] = ()
