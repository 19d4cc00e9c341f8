"""A federation of daemons on loopback whose trainer contributes a unit vector and notes when it is asked.

Guarantees: everything else is that of daemons (``simulation.laboratory.loopback``). Leaving the block ends everything.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bench import plans
from participant.runs.context import TrainingJob
from participant.training.trainer import OneHotTrainer, Progress, Trainer
from privacy.draft import Draft, PrivacyTarget
from privacy.plan import Plan
from simulation.laboratory.loopback import Loopback

UNITS = 100  # that each participant announces


@dataclass(slots=True)
class _Timed:
    """A one-hot trainer that notes when each round asks for training."""

    inner: OneHotTrainer
    started: dict[int, float]
    kept: NDArray[np.float32] | None = None

    def prepare(self) -> None:
        self.inner.prepare()

    def train(self, round_number: int, adapter: NDArray[np.float32], progress: Progress) -> NDArray[np.int64]:
        self.started.setdefault(round_number, time.monotonic())
        return self.inner.train(round_number, adapter, progress)


@dataclass
class Daemons:
    """A coordinator and its participants; a context manager."""

    directory: Path
    participants: int
    entries: int
    rounds: int
    started: dict[int, float] = field(default_factory=dict)  # when the first participant trained, by round

    def __enter__(self) -> Self:
        units = dict.fromkeys(plans.members(self.participants), UNITS)
        self._loopback = Loopback(self.directory, self._draft(), units, self._trainer).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loopback.__exit__(kind, error, trace)

    def run(self) -> Plan:
        """Run the plan to its end; ``started`` then holds the rounds' times."""
        return self._loopback.run()

    def _trainer(self, job: TrainingJob) -> Trainer:
        return _Timed(OneHotTrainer(job.verified.plan, job.me), self.started)

    def _draft(self) -> Path:
        initial = save(
            {name: np.zeros(shape, dtype=np.float32) for name, shape in plans.tensor_shapes(self.entries).items()}
        )
        recipe = plans.recipe(self.entries, rounds=self.rounds, initial_hash=hashlib.sha256(initial).hexdigest())
        target = PrivacyTarget(
            mode="none",
            unit="none",
            epsilon="0",
            delta="0",
            sampling_rate="1",
            local_steps=1,
            clip_norm="1",
            update_bound="1",
        )
        draft = self.directory / "draft"
        draft.mkdir()
        (draft / "draft.json").write_bytes(Draft(recipe=recipe, privacy=target, evaluation_data="none").to_bytes())
        (draft / "initial_adapter.safetensors").write_bytes(initial)
        (draft / "adapter_config.json").write_text('{"peft_type":"LORA"}')
        return draft
