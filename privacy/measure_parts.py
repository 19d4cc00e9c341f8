"""What a plan measures on the owners' own data, in place of training: metrics, and the vector that is summed for them.

Guarantees: a unit of privacy adds at most 1 to a stream's squared norm, so that the norm of all it adds is at most
:func:`norm_bound`; a metric that the task does not have is refused by name.
Leaves to others: what a row adds (``participant.training.measuring``), what a sum says (``measurement``).
Source: docs/privacy-accounting.md section 12; ADR 0050.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from privacy import patterns
from privacy.plan_parts import LEAST_SCALE, MOST_SCALE, DecimalString, PlanModel
from privacy.task_parts import Regression, SentenceEmbedding, Task, single_labels

MeasureName = Literal["accuracy", "confusion", "histogram", "loss"]
COUNT_STREAM: Final = "count"  # of the units that were measured: the denominator of means
MEANS: Final = frozenset({"accuracy", "loss"})  # metrics that are divided by it
MOST_LABELS: Final = 64  # of confusion counts: their square is summed
MOST_EDGES: Final = 256  # of a histogram
BOUND_DECIMALS: Final = Decimal("0.000001")
Edge = Annotated[str, StringConstraints(pattern=patterns.SIGNED_DECIMAL)]


class Measurement(PlanModel):
    """Metrics of the initial adapter on the owners' data; what is left to its default is left out of a plan's bytes."""

    kind: Literal["measurement"] = "measurement"
    metrics: Annotated[tuple[MeasureName, ...], Field(min_length=1)]  # sorted
    # Where a unit's loss is cut off: it adds min(loss, loss_clip) / loss_clip.
    loss_clip: Annotated[DecimalString, Field(exclude_if=lambda clip: clip == "0")] = "0"
    # Edges of a histogram's bins, ascending; below the first and from the last on are bins too.
    bins: Annotated[tuple[Edge, ...], Field(max_length=MOST_EDGES, exclude_if=lambda bins: not bins)] = ()

    @property
    def reads_answers(self) -> bool:
        """Whether a metric needs the model's answers, and not the rows alone."""
        return self.metrics != ("histogram",)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.metrics != tuple(sorted(set(self.metrics))):
            raise ValueError("metrics must be sorted, each once")
        clip = Decimal(self.loss_clip)
        if ("loss" in self.metrics) != (clip > 0):
            raise ValueError("metric loss needs a loss_clip above 0, and no other metric has one")
        if clip and not LEAST_SCALE <= clip <= MOST_SCALE:
            raise ValueError(f"loss_clip must be from {LEAST_SCALE:f} to {MOST_SCALE:,f}")
        if self.bins and "histogram" not in self.metrics:
            raise ValueError("bins belong to metric histogram")
        edges = [Decimal(edge) for edge in self.bins]
        if any(after <= before for before, after in itertools.pairwise(edges)):
            raise ValueError("bins must be ascending, each edge once")
        return self


def require_task(measured: Measurement, task: Task) -> None:
    """Refuse a metric that a task does not have.

    Raises:
        ValueError: naming the metric.
    """
    labels = single_labels(task)
    if "accuracy" in measured.metrics and isinstance(task, Regression | SentenceEmbedding):
        raise ValueError(f"metric accuracy: {task.kind} has no right and wrong answers; take loss")
    if "confusion" in measured.metrics:
        if not labels:
            raise ValueError(f"metric confusion: {task.kind} has not one label for each row")
        if len(labels) > MOST_LABELS:
            raise ValueError(f"metric confusion: at most {MOST_LABELS} labels, the task has {len(labels)}")
    if "histogram" in measured.metrics:
        if isinstance(task, Regression) and not measured.bins:
            raise ValueError("metric histogram: a number needs bins")
        if labels and measured.bins:
            raise ValueError("metric histogram: labels are counted one by one and have no bins")
        if not (labels or isinstance(task, Regression)):
            raise ValueError(f"metric histogram: {task.kind} has neither one label nor a number for each row")


def lengths(measured: Measurement, task: Task) -> tuple[tuple[str, int], ...]:
    """Return the streams that are summed, each with its length; a unit adds at most 1 to the norm of each."""
    labels = len(single_labels(task))
    sizes = {"accuracy": 1, "confusion": labels**2, "histogram": len(measured.bins) + 1 if measured.bins else labels}
    counted = ((COUNT_STREAM, 1),) if MEANS & set(measured.metrics) else ()
    return (*counted, *((metric, sizes.get(metric, 1)) for metric in measured.metrics))


def norm_bound(streams: Sequence[object]) -> str:
    """Return C: the root of the number of streams, rounded up, as a plan's ``clip_norm``."""
    root = Decimal(len(streams)).sqrt().quantize(BOUND_DECIMALS, rounding=ROUND_CEILING)
    return f"{root:f}".rstrip("0").rstrip(".")


def grid_step(radius: float, clip_norm: float) -> int:
    """Return s, the integers that stand for 1: a whole number, so that counts are summed exactly.

    Args:
        radius: r of the mechanism, to which a unit's integers are held (``privacy.dp.clipping.clip_radius``).
        clip_norm: C, in the units of the metrics.
    """
    return math.floor(radius / clip_norm)
