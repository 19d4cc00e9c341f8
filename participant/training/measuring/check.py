"""The self-check of a measurement: on the very model, with synthetic rows, one unit moves the sum by at most D.

Guarantees: it passes only if a row's share is its own, bit for bit the same beside any others; if it is at most 1 in
each stream; and if leaving one unit out moves the integer sum by at most D. Otherwise it refuses, before anything is
read or charged.
Leaves to others: real data, which it never sees; what training checks (``participant.training.selfcheck``).
Source: docs/privacy-accounting.md section 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.adapters.adapted import AdaptedModel
from participant.training.adapters.sums import EMPTY_SLOT
from participant.training.examples import IMAGES, Examples
from participant.training.measuring.contributions import Contributions
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.measure_parts import Measurement
from privacy.plan_parts import Privacy

ROWS_OF_A_USER: Final = 2  # of a synthetic one
ROUNDING: Final = 1e-9  # relative, of a mean in double precision
HUGE: Final = 1e6  # factor of the inputs of a row that must not get through the bound


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureCheck:
    """What is checked.

    Attributes:
        recipe: of the plan.
        measured: what it measures.
        privacy: of the plan.
        step: what 1 becomes in integers.
        adapted: the model with the adapter loaded.
        synthetic: a micro-batch of synthetic examples.
        slot_rows: rows that are compared in every slot of a micro-batch.
    """

    recipe: Recipe
    measured: Measurement
    privacy: Privacy
    step: int
    adapted: AdaptedModel
    synthetic: Examples
    slot_rows: Examples

    def run(self) -> bool:
        """Run every check; return whether each example needs a fixed slot in its micro-batch.

        Raises:
            LocalError: ``E-SELF-CHECK``, naming the check.
        """
        shares = self._of(self.synthetic, self._places)
        self._bounded(shares)
        self._independent(shares)
        fixed_slots = not self._same_in_every_slot()
        if self.privacy.noised:
            self._sensitivity(fixed_slots)
        return fixed_slots

    @property
    def _places(self) -> NDArray[np.int64]:
        return np.arange(len(self.synthetic))

    def _of(self, examples: Examples, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._contributions(examples).of_slots(slots)

    def _contributions(self, examples: Examples, *, fixed_slots: bool = False) -> Contributions:
        return Contributions(self.adapted, self.measured, examples, len(self.synthetic), fixed_slots)

    def _bounded(self, shares: NDArray[np.float64]) -> None:
        """Each stream has at most 1 of a row, and some rows have something."""
        start = 0
        for stream in self.recipe.turns[0].sums:
            norms = np.linalg.norm(shares[:, start : start + stream.length], axis=1)
            if not (norms <= 1 + ROUNDING).all():
                _fail("bounded shares", f"a row adds {norms.max():.3g} to stream {stream.name}, more than 1")
            start += stream.length
        if not shares.any():
            _fail("bounded shares", "no synthetic row adds anything")

    def _independent(self, shares: NDArray[np.float64]) -> None:
        """A row's bits are the same whatever is in the other slots, and an empty slot adds nothing."""
        places = self._places
        for kept in (places % 2 == 0, places % 2 == 1, *(places == slot for slot in {0, places.size - 1})):
            for beside in (np.roll(places, 1), np.full(places.size, EMPTY_SLOT)):
                found = self._of(self.synthetic, np.where(kept, places, beside))
                if not np.array_equal(found[kept], shares[kept]):
                    _fail("batch independence", "a row's share depends on the other rows of its batch")
        if self._of(self.synthetic, np.full(places.size, EMPTY_SLOT)).any():
            _fail("batch independence", "an empty slot adds something")
        spoilt = self.synthetic.take(places)
        if IMAGES in spoilt.inputs:  # tokens are always numbers
            spoilt.inputs[IMAGES][0] = torch.nan
            found = self._of(spoilt, places)
            if not np.array_equal(found[1:], shares[1:]):
                _fail("batch independence", "a row that is no number spoils the others of its batch")
            self._bounded(found)

    def _same_in_every_slot(self) -> bool:
        """Return whether many rows have the same bits wherever they stand; if not, each gets one slot for good."""
        size = len(self.synthetic)
        for start in range(0, len(self.slot_rows), size):
            count = min(size, len(self.slot_rows) - start)
            first = self._of(self.slot_rows, start + np.arange(size) % count)[:count]
            for turn in range(1, count):
                rows = (np.arange(size) + turn) % count
                if not np.array_equal(self._of(self.slot_rows, start + rows), first[rows]):
                    return False
        return True

    def _sensitivity(self, fixed_slots: bool) -> None:
        """Leaving one unit out moves the integer sum by at most D, one with huge inputs included."""
        huge = self.synthetic.take(self._places)
        if IMAGES in huge.inputs:
            huge.inputs[IMAGES][0] *= HUGE
        each = ROWS_OF_A_USER if self.privacy.unit == "user" else 1
        units = np.array_split(self._places, max(1, len(huge) // each))
        most, contributions = self.privacy.sensitivity, self._contributions(huge, fixed_slots=fixed_slots)
        total = contributions.whole(units, step=self.step, sensitivity=most)
        for place in {0, len(units) - 1}:
            others = units[:place] + units[place + 1 :]
            moved = total - contributions.whole(others, step=self.step, sensitivity=most)
            if sum(int(entry) ** 2 for entry in moved) > most**2:
                _fail("sensitivity", f"one {self.privacy.unit} moves the sum by more than D = {most}")
        if not total.any():
            _fail("sensitivity", "the sum of all rows is zero")


def _fail(check: str, what: str) -> None:
    raise LocalError("E-SELF-CHECK", f"{check}: {what}")
