"""The trainer of a measurement: the owner's rows are counted and nothing trains; noise and clamp are those of training.

Guarantees: as :class:`~participant.training.torch_trainer.TorchTrainer`, of which it keeps reading, sampling, noise,
pace and what happens where a round fails; what leaves is a sum of units that are each held to the plan's D.
Leaves to others: what a row adds (``contributions``), that this holds on the very model (``check``).
Source: docs/privacy-accounting.md section 12.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from participant.training.adapters.sums import joined
from participant.training.measuring.check import MeasureCheck
from participant.training.measuring.contributions import Contributions
from participant.training.selfcheck import SelfCheck, check_modules
from participant.training.timing import FixedDuration, max_micro_batches
from participant.training.torch_trainer import REHEARSALS, SPARE_TIME, TorchTrainer
from participant.training.trainer import Progress
from privacy.dp.clipping import clamp
from privacy.errors import LocalError
from privacy.measure_parts import Measurement
from privacy.plan import measured_step
from privacy.secagg.fixed_point import fixed

Integers = NDArray[np.int64]
Vector = NDArray[np.float32]
Wide = NDArray[np.float64]


class MeasuringTrainer(TorchTrainer):
    """Implements ``participant.training.trainer.Trainer`` for a plan that measures."""

    def step_on_rows(self) -> tuple[str, ...]:
        """Measure the owner's rows, keep nothing, and say how many of them counted.

        Raises:
            LocalError: ``E-DATA-MISMATCH``, no row fits the plan; ``E-TRAINING``, with the class of what failed.
        """
        batch = self._largest_batch()
        fit = np.isin(joined(batch), self._contributions().examples.unusable, invert=True).sum()
        if not fit:
            raise LocalError("E-DATA-MISMATCH", "no row fits the plan: nothing can be measured")
        try:
            total = self._plain_sum(self._start[: self._plan.recipe.state_entries], batch)
        except Exception as error:  # noqa: BLE001  whatever the rows bring about; its words may be theirs
            raise LocalError("E-TRAINING", f"measuring: {type(error).__name__}") from None
        counts = "went well" if total.any() else "counts nothing"
        return (f"measuring {fit} of {len(self._examples or ())} rows {counts}",)

    def _checked(self, check: SelfCheck) -> MeasureCheck:
        privacy, adapted = self._plan.privacy, check.engines.adapted.as_released()
        check_modules(adapted.model, privacy.mode)
        return MeasureCheck(
            recipe=self._plan.recipe,
            measured=self._measured,
            privacy=privacy,
            step=self._step,
            adapted=adapted,
            synthetic=check.synthetic,
            slot_rows=check.slot_rows or check.synthetic,
        )

    @property
    def _measured(self) -> Measurement:
        measured = self._plan.recipe.measured
        if measured is None:
            raise LocalError("E-BUG", "a plan that trains reached the trainer of measurements")
        return measured

    @property
    def _step(self) -> int:
        return measured_step(self._plan.privacy, self._plan.encoding, self._plan.recipe.entries)

    def _update(self, round_number: int, adapter: Vector, progress: Progress) -> Integers:
        plan = self._plan
        if not plan.privacy.noised:
            shares = self._plain_sum(adapter, self._batch())
            progress(1, 1)
            return fixed(shares, scale_exponent=plan.encoding.scale_exponent, clamp=plan.encoding.clamp)
        noise = self._noise(plan.recipe.entries)  # drawn before a batch is read
        batch = self._batch()
        try:
            counted = self._whole_sum(adapter, batch)
        except Exception as error:  # noqa: BLE001  that it failed might tell something of the data
            self._note_failure(error)
            counted = np.zeros(plan.recipe.entries, dtype=np.int64)
        progress(1, 1)
        if plan.privacy.mode == "local":
            return clamp(counted + noise, plan.encoding.clamp)
        return clamp(counted, plan.encoding.clamp) + noise

    def _whole_sum(self, adapter: Vector, batch: list[Integers]) -> Integers:
        """Return what a batch adds at an adapter, each unit in whole numbers that are held to D."""
        contributions = self._contributions(batch)
        contributions.adapted.load(adapter)
        return contributions.whole(batch, step=self._step, sensitivity=self._plan.privacy.sensitivity)

    def _plain_sum(self, adapter: Vector, batch: list[Integers]) -> Wide:
        """Return what a batch adds at an adapter: no privacy."""
        contributions = self._contributions(batch)
        contributions.adapted.load(adapter)
        return contributions.plain(batch)

    def _contributions(self, batch: list[Integers] | None = None) -> Contributions:
        """Return what rows add, as this step sees them: with coins of its own, where the task tosses any."""
        if self._engines is None or self._examples is None or self._base is None:
            raise LocalError("E-BUG", "a trainer was not prepared")
        adapted, examples = self._engines.adapted.as_released(), self._examples
        if batch:
            examples = adapted.work.in_step(examples, joined(batch), self._base, self._random)
        return Contributions(adapted, self._measured, examples, self._micro_batch, self._fixed_slots)

    def _longest_of(self, number: int, pace: FixedDuration) -> float:
        privacy, entries = self._plan.privacy, self._plan.recipe.entries
        size, fixed_slots = self._micro_batch, self._fixed_slots
        count = max_micro_batches(privacy, units=np.arange(len(self._units)), size=size, fixed_slots=fixed_slots)
        one = self._usual[number] = self._micro_batch_seconds(number, pace, times=REHEARSALS)
        noise = pace.median_seconds(lambda: self._noise(entries), times=REHEARSALS) if privacy.noised else 0.0
        return SPARE_TIME * (count * one + noise + one)

    def _micro_batch_seconds(self, turn: int, pace: FixedDuration, *, times: int) -> float:
        return pace.median_seconds(self._contributions().time_micro_batch, times=times)
