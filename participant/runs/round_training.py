"""A run's trainer, from loading it to letting go of it.

Guarantees: base and data are loaded and checked once per process, before anything is charged; what fails once data has
been looked at is told by the type of its error alone.
Leaves to others: when a round is trained (``round_update``), what training does (``participant.training``).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from host.logs import get_logger
from participant.runs.context import DaemonContext, TrainingJob
from participant.training.record import RunRecord
from participant.training.trainer import Sums, Trainer
from privacy.errors import LocalError

# What the key of a round's coins and noise fails with: it is made before a batch is drawn, so this tells of no data.
BEFORE_DATA: Final = frozenset({"E-RANDOM-REPEATED", "E-DISK-FULL", "E-DISK-FAILED"})

_log = get_logger("onlysum.participant")


class RoundTraining:
    """The trainer of one run, and the global adapter that its round starts from."""

    def __init__(self, work: DaemonContext, job: TrainingJob) -> None:
        self._work = work
        self._job = job
        self._trainer: Trainer | None = None
        self._adapter: NDArray[np.float32] | None = None

    @property
    def kept(self) -> NDArray[np.float32] | None:
        """What stays at home: see :class:`~participant.training.trainer.Trainer`."""
        return None if self._trainer is None else self._trainer.kept

    @kept.setter
    def kept(self, value: NDArray[np.float32] | None) -> None:
        if self._trainer is not None:
            self._trainer.kept = value

    @property
    def earlier(self) -> Sums:
        """The kept sums of a round that is about to train."""
        return () if self._trainer is None else self._trainer.earlier

    @earlier.setter
    def earlier(self, value: Sums) -> None:
        if self._trainer is not None:
            self._trainer.earlier = value

    @property
    def summed(self) -> NDArray[np.int64] | None:
        """The clamped sum of the round that was trained last, where later ones mask it again."""
        return None if self._trainer is None else self._trainer.summed

    def prepare(self) -> None:
        """Load base and data and run the self-check, once per process; nothing is charged."""
        if self._trainer is None:
            trainer = self._work.make_trainer(self._job)
            trainer.prepare()
            self._trainer = trainer

    def start_from(self, adapter: NDArray[np.float32]) -> None:
        """Take the global adapter that the round in progress starts from."""
        self._adapter = adapter

    def train(self, number: int) -> NDArray[np.int64]:
        """Return the encoded update of the round in progress.

        Raises:
            LocalError: ``E-BUG`` with the type of what went wrong, or what fails before data is looked at.
        """
        if self._trainer is None or self._adapter is None:
            raise LocalError("E-BUG", "a round reached training without a trainer or an adapter")
        progress = self._work.show_progress(run_id=self._job.verified.plan.run_id, round_number=number)
        try:
            update = self._trainer.train(number, self._adapter, progress)
        except Exception as error:  # whatever happened there may depend on the data
            if isinstance(error, LocalError) and error.code in BEFORE_DATA:
                raise
            _log.error("training failed", run=self._job.verified.plan.run_id, round=number, kind=type(error).__name__)
            RunRecord(self._work.home.runs / self._job.verified.plan.run_id).failed(number, type(error).__name__)
            raise LocalError("E-BUG", f"training failed with {type(error).__name__}: abstaining") from None
        self._adapter = None  # a round is not trained twice, and an adapter may be long
        return update

    def close(self) -> None:
        """Let go of the trainer: the run is over."""
        self._trainer = self._adapter = None
