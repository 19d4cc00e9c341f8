"""A federation of daemons on loopback: a real coordinator process, participants' real runners in threads of this one.

Guarantees: enrolment, approval, journals, ledgers, the database, mutual TLS and the polls are those of daemons; only
the trainer is not: it contributes a unit vector. Leaving the block ends everything.
Leaves to others: the coordinator's process (``bench.coordination``).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from bench import plans
from bench.coordination import Coordination, coordinate, until
from coordinator.config import Settings
from coordinator.enrolment.invitations import make_invitation
from coordinator.opened import OpenHome
from host import garbage
from host.system import SystemClock, SystemRandom
from participant.daemon import assembly as participant_daemon
from participant.daemon.joining import join
from participant.opened import open_home
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.runs.context import TrainingJob
from participant.training.trainer import OneHotTrainer, Progress, Sums, Trainer
from privacy.plan import Plan
from protos.envelope import Role

POLICY: Final = """
[approval]
mode = "by-policy"
unverified_roster = true
[coordinator]
ca_fingerprint = "{authority}"
[population.nobody]
unit = "example"
lifetime_epsilon = 10
lifetime_delta = 1e-6
per_run_epsilon = 8
per_run_delta = 1e-5
[dataset.digits]
population = "nobody"
modes = ["none"]
bases = ["{base}"]
methods = ["ffa-lora"]
"""


@dataclass(slots=True)
class _Timed:
    """A one-hot trainer that notes when each round asks for training."""

    inner: OneHotTrainer
    started: dict[int, float]
    kept: NDArray[np.float32] | None = None
    earlier: Sums = ()
    summed: NDArray[np.int64] | None = None

    def prepare(self) -> None:
        self.inner.prepare()

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        self.started.setdefault(round_number, time.monotonic())
        return self.inner.train(round_number, adapter, progress)


@dataclass
class Daemons:
    """A coordinator and its participants; a context manager.

    Args:
        directory: where all directories lie.
        participants: how many.
        entries: of the vector.
        advertised: where participants dial, where that is not the coordinator's own listener: a proxy's.
    """

    directory: Path
    participants: int
    entries: int
    advertised: str = ""
    started: dict[int, float] = field(default_factory=dict)  # when the first participant trained, by round

    def __enter__(self) -> Self:
        self.coordination = Coordination(self.directory, self.advertised, self.coordinate)
        garbage.look_seldom()  # a participant's own process has a small heap, not everybody's
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.coordination.__enter__()
        for name in plans.members(self.participants):
            self._enrol(name)
        until(lambda: len(self.coordination.live()) == self.participants, "everybody polls")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        self.coordination.__exit__(kind, error, trace)

    def _enrol(self, name: str) -> None:
        path, recipe = self.directory / name, plans.recipe(self.entries)
        join(self._invite(name), path, ledgers=path / "ledgers", clock=SystemClock(), random=SystemRandom())
        registry = Registry(open_home(path).home)
        registry.add(DatasetEntry(name=recipe.task.data, path=os.devnull, added_at=0, rows=100))
        registry.add(ModelEntry(name=recipe.base.name, path=os.devnull, added_at=0, files=recipe.base.files))
        policy = POLICY.format(authority=self.coordination.authority.fingerprint, base=recipe.base.hash)
        (path / "policy.toml").write_text(policy)
        self.take_part(path)

    @property
    def coordinate(self) -> Callable[[Path, Settings], None]:
        """The body of the coordinator's process."""
        return coordinate

    def take_part(self, path: Path) -> None:
        """Let a participant that has joined run, until the block is left."""
        runner = participant_daemon.assemble(path, self._stop, make_trainer=self._trainer)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _trainer(self, job: TrainingJob) -> Trainer:
        return _Timed(OneHotTrainer(job.verified.plan, job.me), self.started)

    def _invite(self, name: str) -> str:
        coordination, now = self.coordination, int(time.time())
        opened = OpenHome(coordination.home, coordination.settings, coordination.store)
        return make_invitation(opened, name=name, role=Role.PARTICIPANT, labels=(), now=now, until=now + 3600)

    def run(self, rounds: int) -> Plan:
        """Run a plan of some rounds to its end; ``started`` then holds their times."""
        plan = self.coordination.begin(self.participants, self.entries, rounds)
        self.coordination.finish(plan)
        return plan
