"""In which rounds of a run training failed: for the owner's own eyes.

Guarantees: one small file in the run's directory, written when a step fails and never sent, signed or reported; it
names rounds and the class of what went wrong, never its words, which may be the data's.
Leaves to others: what leaves the machine, which a failure does not change (``participant.training.torch_trainer``).
Source: docs/threat-model.md; ADR 0011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from host import durable
from privacy import canonical
from privacy.errors import LocalError
from privacy.plan_parts import Positive

_log = structlog.get_logger("onlysum.participant")

RECORD_FILE: Final = "training.json"  # no dash in its name: it outlives a round's updates


class FailedRound(BaseModel):
    """A round in which a step of training failed, and the class of the first error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: Positive
    cause: str


class TrainingRecord(BaseModel):
    """The rounds in which training failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: tuple[FailedRound, ...] = ()

    def summary(self, rounds: int) -> str:
        """Return it in a sentence, or nothing if no training failed.

        Args:
            rounds: of the plan.
        """
        if not self.failed:
            return ""
        causes = ", ".join(sorted({failure.cause for failure in self.failed}))
        return f"training failed in {len(self.failed)} of {rounds} rounds ({causes})"


def read_record(run: Path) -> TrainingRecord:
    """Return the record in a run's directory; an empty one if no training failed there.

    Raises:
        LocalError: ``E-STATE-DAMAGED``.
    """
    path = run / RECORD_FILE
    if not path.exists():
        return TrainingRecord()
    try:
        return TrainingRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise LocalError("E-STATE-DAMAGED", f"{path} does not parse; remove it, and its counts with it") from None


def record_failure(run: Path, number: int, cause: str) -> None:
    """Write a failure down; that this fails too is logged alone, for nothing that is sent may depend on it."""
    try:
        note_failure(run, number, cause)
    except LocalError as error:
        _log.error("a failure of training was not recorded", round=number, code=error.code, detail=error.detail)


def note_failure(run: Path, number: int, cause: str) -> None:
    """Write down that training failed in a round; the first failure of a round counts."""
    record = read_record(run)
    if any(failure.round == number for failure in record.failed):
        return
    failed = (*record.failed, FailedRound(round=number, cause=cause))
    durable.write(run / RECORD_FILE, canonical.encode(TrainingRecord(failed=failed).model_dump()) + b"\n")
