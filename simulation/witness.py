"""Looks at the coordinator's own files while a run goes on: what came from one participant, and the sum of that round.

Guarantees: everything is read from where the coordinator keeps it, and nothing is changed; the sum is what the
coordinator's optimizer took its step along, in the integers of the ring, exact where the optimizer has a momentum.
Leaves to others: drawing it (``simulation.picture``), whose updates are in the sum (``simulation.dropout``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coordinator.runs.global_adapter import RunFiles
from methods.global_adapter import unit
from methods.optimizer import OptimizerState, learning_rates
from methods.vectors import places
from privacy.errors import LocalError
from privacy.plan import Plan

LOOK_EVERY: Final = 0.01  # seconds; an upload is there for about a third of one


@dataclass(frozen=True, slots=True)
class Received:
    """A masked update as the coordinator received it, and the optimizer's states before and after its round.

    Attributes:
        plan: of the run.
        member: whose update it is.
        round: in which it came.
        masked: what was received, as centred residues of the ring, shape (entries,).
        before: state that the round started from.
        after: state that the round's sum led to.
    """

    plan: Plan
    member: str
    round: int
    masked: NDArray[np.int64]
    before: OptimizerState
    after: OptimizerState

    def total(self, survivors: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the sum that the coordinator unmasked in that round, shape (entries,).

        It is worked out from the optimizer's step, ``mean`` or ``sgd``, because the sum itself is not kept.

        Args:
            survivors: whose updates are in it.
        """
        plan, recipe = self.plan, self.plan.recipe
        turn, members = recipe.turn(self.round), [plan.member(name) for name in survivors]
        trained = places(recipe, turn)
        if self.after.momentum.any():
            earlier = float(recipe.optimizer.momentum) * self.before.momentum[trained].astype(np.float64)
            direction = self.after.momentum[trained].astype(np.float64) - earlier
        else:
            step = self.after.iterate[trained].astype(np.float64) - self.before.iterate[trained]
            direction = step / learning_rates(recipe, turn)
        if plan.privacy.mode == "distributed":
            expected = float(plan.privacy.sampling_rate) * sum(member.units for member in members)
            return np.rint(-direction * (expected / unit(plan, self.round))).astype(np.int64)
        weight = sum(member.weight for member in members)
        return np.rint(direction * (weight * 2.0**plan.encoding.scale_exponent)).astype(np.int64)


class Witness:
    """Waits for the first round of a run in which both are seen.

    Args:
        coordinator: its directory.
        run: the run's id.
        member: whose upload is looked for.
    """

    def __init__(self, coordinator: Path, run: str, member: str) -> None:
        self._uploads = coordinator / "spool" / run
        self._files = RunFiles(coordinator / "runs" / run)
        self._member = member
        self._ended = threading.Event()
        self.seen: Received | None = None

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look beside what is done in the block."""
        thread = threading.Thread(target=self._look, name="witness", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _look(self) -> None:
        while self.seen is None and not self._ended.wait(LOOK_EVERY):
            try:
                self.seen = self._round()
            except (OSError, LocalError):
                continue  # what was there a moment ago is gone: the round has ended, and the next one comes

    def _round(self) -> Received | None:
        for path in self._uploads.glob(f"*/{self._member}.*"):
            number = int(path.parent.name.partition("-")[0])
            plan = Plan.from_bytes((self._files.directory / "plan.json").read_bytes())
            layout = plan.layout(number)
            data = path.read_bytes()
            if len(data) != layout.words * layout.ring.dtype.itemsize:
                return None  # still on its way
            masked = layout.ring.decode(layout.ring.from_bytes(data, layout.words), layout.entries)
            before = self._files.read_state(number - 1)
            while not self._files.iterate(number).exists():
                if self._ended.wait(LOOK_EVERY):
                    return None
            after = self._files.read_state(number)
            return Received(plan, self._member, number, masked, before, after)
        return None
