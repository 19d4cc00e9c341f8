"""A cell over real gRPC on loopback: a coordinator's process and every participant's runner, with seeded training.

Guarantees: the rounds are those of daemons, certificates, journals, ledgers and database included; what trains is the
cell's own, so that the released adapters have the bits of the same cell in memory. Daemons' directories go at the end.
Leaves to others: daemons (``loopback``). Nobody is lost on purpose here, and an interrupted cell begins again.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coordinator.database.run_rows import RoundRecord
from host.logs import Log, logging_to
from methods.global_adapter import VECTOR_TYPE
from participant.runs.context import TrainingJob
from participant.training import trainer
from privacy.plan import Plan
from simulation.laboratory.engines import Engine, Prepare
from simulation.laboratory.loopback import Loopback
from simulation.laboratory.setup import tolerance
from simulation.laboratory.training import AtHome, Integers, Vector
from simulation.laboratory.trial import Trained, Trial

DAEMONS: Final = "daemons"  # their directories, within the cell's; they stay where something goes wrong
LOG: Final = "participants.log"


@dataclass(slots=True)
class _Seeded:
    """A daemon's trainer that lets an engine train; one at a time, because they share what is loaded."""

    me: str
    engine: Engine
    one_at_a_time: threading.Lock
    took: Callable[[float], None]
    kept: Vector | None = None
    earlier: trainer.Sums = ()
    summed: Integers | None = None

    def prepare(self) -> None:
        """The engine is prepared."""

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: trainer.Progress) -> NDArray[np.int64]:
        """Return the update of the cell's participant of this name."""
        with self.one_at_a_time:
            at_home = AtHome(self.kept, tuple(self.earlier))
            (update,) = self.engine.updates(round_number, adapter, [self.me], {self.me: at_home})
            self.took(update.seconds)
        self.kept, self.summed = update.kept, update.summed
        progress(1, 1)
        return update.entries


class WireTrial(Trial):
    """A cell whose rounds go over the wire."""

    def run(self, prepare: Prepare, trained: Trained) -> None:
        """Run all rounds, as :meth:`Trial.run`."""
        if self.over:
            return
        evaluator, lock, started = self._setup.evaluator(), threading.Lock(), time.process_time()
        if not self.progress.measured:
            self._measure(evaluator)

        def took(seconds: float) -> None:
            self.progress.training_seconds += seconds
            trained(1)

        def make(job: TrainingJob) -> trainer.Trainer:
            return _Seeded(job.me, engine, lock, took)

        units = {member.id: member.units for member in self.plan.roster}
        directory = self._directory / DAEMONS
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        with (
            prepare(self._setup.work, directory) as engine,
            logging_to(Log(file=LOG), directory, tracebacks=True),
            Loopback(directory, self._setup.draft, units, make) as daemons,
        ):
            plan = daemons.run(tolerance(self._cell.simulation))
            self.progress.sum_seconds = time.process_time() - started - self.progress.training_seconds
            for record in daemons.rounds(plan):
                self._take(plan, record)
                if record.round % plan.evaluation.every == 0 or record.round == plan.recipe.rounds:
                    released = daemons.files(plan).released(record.round).read_bytes()
                    vector = np.frombuffer(released, dtype=VECTOR_TYPE).copy()
                    self.state = replace(self.state, round=record.round, iterate=vector, average=vector)
                    self._measure(evaluator)
        shutil.rmtree(directory)
        self._keep()

    def _take(self, plan: Plan, record: RoundRecord) -> None:
        """Take the row of a round that is over."""
        self.progress.trace.append(record.released_sha256.hex())
        if record.voided:
            self.progress.voided.append(record.round)
            return
        self._count(record.round, record.survivors, record.attempt)
        self.progress.sent += record.survivors * plan.layout(record.round).bytes
