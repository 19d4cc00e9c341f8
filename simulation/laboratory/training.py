"""All participants' training on one base: what a process loads once, and then does for whoever is asked.

Guarantees: an update follows from plan, base, rows, seed, participant, round, adapter and what stayed at home alone,
whichever process computes it and whatever was computed before; it is the daemons' trainer that computes it.
Leaves to others: where it is computed (``engines``, ``ray_engine``), sums (``sums``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from participant.training.adapters.prefix import KeptActivations
from participant.training.data import Columns, task_columns
from participant.training.torch_trainer import Materials, TorchTrainer
from privacy.plan import Plan
from simulation.seeded import SeededSource

Integers = NDArray[np.int64]
Vector = NDArray[np.float32]
SOURCE: Final = "onlysum simulation"
KEPT: Final = KeptActivations()  # of this process: the runs of a sweep read the same rows through the same base


@dataclass(frozen=True, slots=True)
class Update:
    """A participant's encoded update, shape (entries,), and the processor seconds that it took.

    ``kept`` is what stays at home if the update is in its round's sum, and ``summed`` the sum that later rounds then
    mask again; ``None``: nothing.
    """

    entries: Integers
    seconds: float
    kept: Vector | None = None
    summed: Integers | None = None


@dataclass(frozen=True, slots=True)
class AtHome:
    """What a participant has from earlier rounds whose sums have its updates.

    ``kept`` is what stays at home; ``sums`` are its own sums of some rounds, where noise is correlated over them.
    """

    kept: Vector | None = None
    sums: tuple[tuple[int, Integers], ...] = ()


NOTHING: Final = AtHome()


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What every process needs to train for anybody; small beside what it loads.

    Attributes:
        plan: its canonical bytes.
        model: folder of the base.
        rows: file with everybody's rows.
        initial: the initial adapter's bytes.
        parts: the rows of each participant, ascending.
        seed: of coins and noise.
        user_column: who a row is about, for the user unit.
        device: as ``participant.toml`` has it.
    """

    plan: bytes
    model: Path
    rows: Path
    initial: bytes
    parts: Mapping[str, Integers]
    seed: int
    user_column: str | None = None
    device: str = "cpu"

    def load(self, directory: Path) -> Training:
        """Load base and rows and run the self-check.

        Args:
            directory: where the initial adapter is written, for the trainer to read.

        Raises:
            LocalError: as :meth:`~participant.training.torch_trainer.TorchTrainer.prepare`.
        """
        plan = Plan.from_bytes(self.plan)
        initial = directory / "initial_adapter.safetensors"
        initial.write_bytes(self.initial)
        materials = Materials(
            plan=plan,
            me=plan.roster[0].id,
            model=self.model,
            dataset=self.rows,
            columns=self.columns(plan),
            initial_adapter=initial,
            device=self.device,
            strict=True,
            kept=KEPT,
        )
        trainer = TorchTrainer(materials, SeededSource(SOURCE))
        trainer.prepare()
        return Training(self, trainer)

    def columns(self, plan: Plan) -> Columns:
        """Return which columns of the rows are read."""
        return task_columns(plan.recipe.task, user_column=self.user_column)


@dataclass(frozen=True, slots=True)
class Training:
    """Base and rows, loaded."""

    of: TrainingSet
    trainer: TorchTrainer

    def update(self, name: str, number: int, adapter: Vector, at_home: AtHome = NOTHING) -> Update:
        """Return what a participant contributes to a round.

        Args:
            name: on the roster.
            number: of the round.
            adapter: the global adapter at the round's start, shape (state entries,).
            at_home: what it has from earlier rounds.
        """
        started = time.thread_time()
        random = SeededSource(f"{SOURCE} {self.of.seed} {name} round {number}")
        trainer = self.trainer.of_participant(name, self.of.parts[name], random)
        trainer.kept, trainer.earlier = at_home.kept, at_home.sums
        entries = trainer.train(number, adapter, _silent)
        return Update(entries, time.thread_time() - started, trainer.kept, trainer.summed)


def _silent(_done: int, _total: int) -> None:
    """A step's own progress is too fine to show."""
