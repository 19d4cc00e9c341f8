"""What a daemon's parts share: seams to trainers and people, and the values that a run's work is made from.

Guarantees: values only; a trainer learns of one plan, one dataset and one base model.
Leaves to others: making trainers (``training``), the work (``participation``, ``evaluator``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from participant.config import Settings
from participant.home import Home
from participant.link.delivery import Sender
from participant.owner.approval import Owner, PlanReview
from participant.owner.ledger import Ledger
from participant.owner.registry import DatasetEntry, ModelEntry
from participant.training.bases.memory import Memory
from participant.training.trainer import EngineName, Precision, Progress, Trainer
from privacy.interfaces import Clock, RandomSource
from privacy.plan import VerifiedPlan


@dataclass(frozen=True, slots=True)
class TrainingJob:
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
    memory: Memory = field(default_factory=Memory)


class ShowProgress(Protocol):
    """Makes the callback that shows how far a round's training is: a bar on a terminal, nothing elsewhere."""

    def __call__(self, *, run_id: str, round_number: int) -> Progress:
        """Return the callback."""
        ...


@dataclass(frozen=True, slots=True)
class DaemonContext:
    """What all runs of a daemon share."""

    home: Home
    settings: Settings
    owner: Owner
    review: PlanReview
    ledger: Ledger
    sender: Sender
    clock: Clock
    random: RandomSource
    make_trainer: Callable[[TrainingJob], Trainer]
    show_progress: ShowProgress
