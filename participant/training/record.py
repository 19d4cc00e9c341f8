"""What became of a run's training: for the owner's own eyes.

Guarantees: one small file in the run's directory, written when the rows have been read and when a step fails, and never
sent, signed or reported; it names rounds, the class of what went wrong, and how many rows the plan cannot use, with the
first one's place: never what is in a row.
Leaves to others: its form and its words (``audit.training_record``), what leaves the machine, which a failure does not
change (``participant.training.torch_trainer``).
Source: docs/threat-model.md; ADR 0011.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from audit.training_record import RECORD_FILE, FailedRound, RowsRead, TrainingRecord, read_record
from host import durable
from host.credentials import DIRECTORY_MODE
from host.logs import get_logger
from privacy import canonical
from privacy.errors import LocalError

_log = get_logger("onlysum.participant")


class OwnersRecord(Protocol):
    """Where a trainer writes down what its owner, and nobody else, should know."""

    def failed(self, number: int, cause: str) -> None:
        """Take a round in which a step failed, and the class of the error."""
        ...

    def read(self, rows: int, unusable: int, cause: str) -> None:
        """Take how many rows were read, how many the plan cannot use, and why not the first of them."""
        ...


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record in a run's directory; that it cannot be written is logged, for nothing sent may depend on it."""

    run: Path

    def failed(self, number: int, cause: str) -> None:
        """Write down that training failed in a round; the first failure of a round counts."""
        with self._logged(number):
            note_failure(self.run, number, cause)

    def read(self, rows: int, unusable: int, cause: str) -> None:
        """Write down what the dataset's rows are to the plan, in place of what was written before."""
        with self._logged(0):
            known = read_record(self.run)
            found = RowsRead(rows=rows, unusable=unusable, cause=cause)
            _write(self.run, known.model_copy(update={"read": found}))

    @contextmanager
    def _logged(self, number: int) -> Iterator[None]:
        try:
            yield
        except LocalError as error:
            _log.error("a failure of training was not recorded", round=number, code=error.code, detail=error.detail)


def note_failure(run: Path, number: int, cause: str) -> None:
    """Write down that training failed in a round; the first failure of a round counts."""
    record = read_record(run)
    if any(failure.round == number for failure in record.failed):
        return
    _write(run, record.model_copy(update={"failed": (*record.failed, FailedRound(round=number, cause=cause))}))


def _write(run: Path, record: TrainingRecord) -> None:
    durable.make_directory(run, mode=DIRECTORY_MODE)
    durable.write(run / RECORD_FILE, canonical.encode(record.model_dump()) + b"\n")
