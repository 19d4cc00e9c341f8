"""A common count sketch: five short rows of buckets are summed in place of the adapter; large entries are found again.

In each row a public hash puts every entry into one bucket, with a sign; an entry is estimated by the median of its
buckets. What the coordinator does not take out of a sketch stays in it for later rounds.

Guarantees: a sketch is linear and public, so the sum of sketches is the sketch of the sum. In mode ``local`` steps are
noised before they are sketched; in the shared modes what is clipped and noised is the sketch itself: of each
example's gradient, or of the whole difference. The hashes are of the plan, and the same in every round and everywhere.
Source: Rothchild et al., "FetchSGD: Communication-Efficient Federated Learning with Sketching", ICML 2020,
arXiv:2007.07682; Charikar, Chen, Farach-Colton 2002 for the sketch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from methods.coin import buckets, signs
from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.optimizer import OptimizerState, Wide
from methods.products import stepped_head
from methods.selectors import Selector
from privacy.adapter_parts import CountSketch, Role
from privacy.draft import Recipe
from privacy.errors import LocalError

BUCKETS_PER_ENTRY: Final = 8  # of a row; entries taken out together must seldom share one, or what is left grows


@dataclass(frozen=True, slots=True)
class Tables:
    """The hashes of a plan's count sketch.

    Attributes:
        buckets: of each entry in each row, shape (rows, entries).
        signs: of each entry in each row, 1 or -1, of the same shape.
        width: buckets of a row.
    """

    buckets: NDArray[np.int64]
    signs: Wide
    width: int

    @classmethod
    def of(cls, recipe: Recipe) -> Tables:
        """Return the tables of a recipe whose updates are sketched."""
        upload = recipe.upload
        if not isinstance(upload, CountSketch):
            raise LocalError("E-BUG", "a count sketch was asked for where the plan has none")
        length = next(stream.length for stream in recipe.state if stream.name == ADAPTER_STREAM)
        places = [buckets(recipe, f"row {row}", length, upload.width) for row in range(upload.rows)]
        return cls(np.array(places), signs(recipe, 0, "rows", (upload.rows, length)), upload.width)

    def sketched(self, vector: Wide) -> Wide:
        """Return the sketch of a vector of entries, shape (rows, width): as long as the vector, on average."""
        scale, rows = np.sqrt(len(self.buckets)), zip(self.buckets, self.signs, strict=True)
        sums = [np.bincount(where, sign * vector, self.width) for where, sign in rows]
        return np.array(sums, dtype=np.float64) / float(scale)

    def estimates(self, sketch: Wide) -> Wide:
        """Return what a sketch, shape (rows, width), says of each entry: the median of its buckets."""
        found = np.take_along_axis(sketch, self.buckets, axis=1) * self.signs * np.sqrt(len(self.buckets))
        medians: Wide = np.sort(found, axis=0)[len(found) // 2]
        return medians


def differences(recipe: Recipe, change: Wide) -> Wide:
    """Return the sketch of the adapter's change, row by row, and the head's change as it is.

    Args:
        recipe: of the plan.
        change: of everything that trains, shape (entries of the state,).
    """
    tables = Tables.of(recipe)
    length = tables.buckets.shape[1]
    return np.concatenate([tables.sketched(change[:length]).reshape(-1), change[length:]])


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after a step along the largest entries of all that was sketched and not stepped along yet.

    The sketch of what is left lies where other methods have the second moment.

    Args:
        recipe: of the plan.
        state: of the previous round.
        direction: mean of :func:`differences`, or of minus the sketched gradients.
    """
    tables = Tables.of(recipe)
    size, length = len(tables.buckets) * tables.width, tables.buckets.shape[1]
    left = state.second[:size].astype(np.float64) + float(recipe.optimizer.learning_rate) * direction[:size]
    estimates = tables.estimates(left.reshape(-1, tables.width))
    largest = np.argsort(-np.abs(estimates), kind="stable")[: max(1, tables.width // BUCKETS_PER_ENTRY)]
    move = np.zeros(length)
    move[largest] = estimates[largest]
    second, iterate = state.second.copy(), state.iterate.astype(np.float64)
    second[:size] = left - tables.sketched(move).reshape(-1)
    iterate[:length] += move
    vector = stepped_head(recipe, iterate.astype(np.float32), direction)
    return replace(state, round=state.round + 1, iterate=vector, average=vector, second=second)


COUNT_SKETCH: Final = Method(
    name="count-sketch",
    title="LoRA under a common count sketch (FetchSGD)",
    category="reparameterised",
    source="Rothchild et al., ICML 2020, arXiv:2007.07682",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    upload="count-sketch",
    takes=frozenset({"sketch"}),
    advance=advance,
    plain_mean=True,
    summed="five rows of a count sketch of both LoRA factors, and the head",
    size="5 w for rows of w buckets, whatever the adapter",
    afterwards="the w/8 largest entries that the sketch of all that is left shows go into the factors, and out of it",
    notes="[training] sketch is w; 5 w must be below the adapter's entries. For large adapters of which little moves.",
)
