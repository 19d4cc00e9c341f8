"""Looks at the coordinator's own files while a run goes on: what came from one participant, and the sum of that round.

Guarantees: everything is read from where the coordinator keeps it, and nothing is changed; the sum is the very one that
participants download and take the optimizer's step from.
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
from privacy.plan import Plan

LOOK_EVERY: Final = 0.01  # seconds; an upload is there for about a third of one


@dataclass(frozen=True, slots=True)
class Received:
    """A masked update as the coordinator received it, and the sum that it unmasked in that round.

    Attributes:
        plan: of the run.
        member: whose update it is.
        round: in which it came.
        masked: what was received, as centred residues of the ring, shape (entries,).
        total: the round's sum, of the same shape.
    """

    plan: Plan
    member: str
    round: int
    masked: NDArray[np.int64]
    total: NDArray[np.int64]


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
            except OSError:
                continue  # what was there a moment ago is gone: the round has ended, and the next one comes

    def _round(self) -> Received | None:
        for path in self._uploads.glob(f"*/{self._member}.*"):
            number = int(path.parent.name.partition("-")[0])
            plan = Plan.from_bytes((self._files.directory / "plan.json").read_bytes())
            layout = plan.layout(number)
            data = path.read_bytes()
            if len(data) != layout.words * layout.ring.dtype.itemsize:
                return None  # still on its way
            masked = layout.decode(layout.ring.from_bytes(data, layout.words))
            while not self._files.sum(number).exists():
                if self._ended.wait(LOOK_EVERY):
                    return None
            words = layout.ring.from_bytes(self._files.sum(number).read_bytes(), layout.words)
            return Received(plan, self._member, number, masked, layout.decode(words))
        return None
