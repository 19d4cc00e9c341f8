"""What became of a run's training, as its owner keeps it beside the report: read, and put into words.

The record depends on data. It is no part of a report, in nothing that is signed or sent, and shown only where the
report lies in its owner's own directory, marked as what it is.

Guarantees: names rounds, the class of what went wrong, and how many rows a plan cannot use, with the first one's place:
never what is in a row.
Leaves to others: writing it (``participant.training.record``).
Source: docs/threat-model.md; ADR 0011, ADR 0046.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from privacy.errors import LocalError
from privacy.plan_parts import Count, Positive

RECORD_FILE: Final = "training.json"  # no dash in its name: it outlives a round's updates
OWNER_FILE: Final = "participant.toml"  # in a participant's directory, and in no other
MARK: Final = "For the owner alone, unsigned and no part of the report"


class FailedRound(BaseModel):
    """A round in which a step of training failed, and the class of the first error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: Positive
    cause: str


class RowsRead(BaseModel):
    """How many of a dataset's rows the plan cannot use, and why the first of them cannot be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Count = 0
    unusable: Count = 0
    cause: str = ""


class TrainingRecord(BaseModel):
    """The rounds in which training failed, and the rows as they were last read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: tuple[FailedRound, ...] = ()
    read: RowsRead = RowsRead()

    @property
    def trains_on_nothing(self) -> bool:
        """Whether no row of the dataset is usable: every round is noise alone."""
        return 0 < self.read.rows == self.read.unusable

    def too_many(self, most: int) -> bool:
        """Return whether training failed in so many rounds, or fails in all of them since no row is usable."""
        return len(self.failed) >= most or self.trains_on_nothing

    def summary(self, rounds: int) -> str:
        """Return it in a sentence, or nothing if no training failed and every row is usable.

        Args:
            rounds: of the plan.
        """
        said = []
        if self.failed:
            causes = ", ".join(sorted({failure.cause for failure in self.failed}))
            said.append(f"training failed in {len(self.failed)} of {rounds} rounds ({causes})")
        if self.read.unusable:
            said.append(unusable_words(self.read.unusable, self.read.rows, self.read.cause))
        return "; ".join(said)


def read_record(run: Path) -> TrainingRecord:
    """Return the record in a run's directory; an empty one if there is none.

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


def unusable_words(count: int, rows: int, cause: str) -> str:
    """Return in a sentence how many rows cannot be used, and why the first cannot."""
    return f"{count} of {rows} rows cannot be used; the first: {cause}"


def owners_line(report: Path, rounds: int) -> str:
    """Return what the owner should know beside a report in its own directory; elsewhere, and of success, nothing.

    Args:
        report: the file that is shown.
        rounds: of its plan.
    """
    run = report.resolve().parent
    if not (run.parent.parent / OWNER_FILE).is_file():
        return ""
    try:
        said = read_record(run).summary(rounds)
    except LocalError as error:
        said = f"{error.code}: {error.detail}"
    return f"{MARK}: {said}" if said else ""
