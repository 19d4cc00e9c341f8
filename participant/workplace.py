"""What a daemon's parts share: seams to trainers and people, and the values that a run's work is made from.

Guarantees: values only; a trainer learns of one plan, one dataset and one base model.
Leaves to others: making trainers (``training``), the work (``participation``, ``evaluator``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from participant.approval import Desk, Owner
from participant.config import Settings
from participant.courier import Courier
from participant.home import Home
from participant.ledger import Ledger
from participant.registry import DatasetEntry, ModelEntry
from participant.trainer import EngineName, Precision, Progress, Trainer
from privacy.plan import VerifiedPlan
from privacy.seams import Clock, RandomSource


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is trained, or measured, with what: all that a trainer is made from."""

    verified: VerifiedPlan
    me: str
    dataset: DatasetEntry
    model: ModelEntry
    initial_adapter: Path
    device: str
    threads: int
    engine: EngineName = "fast"
    precision: Precision = "float32"


class ShowProgress(Protocol):
    """Makes the callback that shows how far a round's training is: a bar on a terminal, nothing elsewhere."""

    def __call__(self, *, run_id: str, round_number: int) -> Progress:
        """Return the callback."""
        ...


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all runs of a daemon share."""

    home: Home
    settings: Settings
    owner: Owner
    desk: Desk
    ledger: Ledger
    courier: Courier
    clock: Clock
    random: RandomSource
    make_trainer: Callable[[Assignment], Trainer]
    show_progress: ShowProgress
