"""What a measurement's sum says: each figure with its standard errors, and in words what a plan measures.

Guarantees: figures are a function of the plan, the sum's integers and how many are in it, so whoever has a report
computes them alike; the noise's variance is that of everybody in the sum.
Leaves to others: what a row adds (``participant.training.measuring``), whether these are the sum's integers
(``audit.verify``).
Source: docs/privacy-accounting.md section 12.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from privacy.draft import Recipe
from privacy.measure_parts import COUNT_STREAM, MEANS
from privacy.plan import Plan, measured_step
from privacy.task_parts import single_labels

DEVIATIONS: Final = 1.96  # of a normal distribution, within which 95% lie
LEAST_COUNT: Final = 3  # of units, in standard errors of their number: with fewer a mean says nothing
MOST_WORDS: Final = 12  # figures of one metric that are shown in words
SIGNIFICANT: Final = 6  # digits of a figure in JSON


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number.

    Attributes:
        metric: accuracy, confusion, count, histogram or loss.
        of: the label, the labels (of the row and of the answer) or the range that it is about; empty: all.
        value: estimate; ``None`` where the noise hides it.
        noise_error: standard error that noise and sampling leave.
        units_error: of a mean, the standard error with which so many units stand for others like them; at most.
    """

    metric: str
    of: tuple[str, ...]
    value: float | None
    noise_error: float
    units_error: float = 0.0

    @property
    def standard_error(self) -> float:
        """Both errors together."""
        return math.hypot(self.noise_error, self.units_error)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between what the value is with a confidence of 95%; noise may take its ends beyond what is possible."""
        if self.value is None:
            return None
        reach = DEVIATIONS * self.standard_error
        return self.value - reach, self.value + reach

    @property
    def words(self) -> str:
        """The figure with its interval."""
        name = self.metric + (f" of {', answered '.join(self.of)}" if self.of else "")
        if self.value is None:
            return f"{name}: unknown, too few units for so much noise"
        digits = 0 if self.metric not in MEANS else 3
        return f"{name}: {self.value:,.{digits}f} +- {DEVIATIONS * self.standard_error:,.{digits}f} (95%)"

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        low, high = self.interval or (None, None)
        return {
            "metric": self.metric,
            "of": list(self.of),
            "value": _short(self.value),
            "low": _short(low),
            "high": _short(high),
            "noise_error": _short(self.noise_error),
            "units_error": _short(self.units_error),
        }


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{SIGNIFICANT}g}")


@dataclass(frozen=True, slots=True)
class _Sum:
    """The sum of a measurement, in units of what it counts."""

    scale: float  # of an integer
    deviation: float  # of a count's noise
    sampling: float  # (1 - q) / q: a count's variance is that often the count

    def error(self, count: float) -> float:
        """Return the standard error of a count."""
        return math.sqrt(self.deviation**2 + self.sampling * max(0.0, count))

    def mean(self, metric: str, part: float, count: float, unit: float) -> Figure:
        """Return the mean of what units add to a stream, 0 to 1 each, times what 1 stands for."""
        if count < LEAST_COUNT * self.error(count) or count <= 0:
            return Figure(metric, (), None, math.inf)
        share = part / count
        spread = max(0.0, min(share, 1.0)) * (1 - max(0.0, min(share, 1.0)))  # the largest variance of such a mean
        noise = (self.deviation / count) ** 2 * (1 + share**2) + self.sampling * spread / count
        return Figure(metric, (), share * unit, math.sqrt(noise) * unit, math.sqrt(spread / count) * unit)


def figures(plan: Plan, total: Sequence[int], survivors: int) -> tuple[Figure, ...]:
    """Return what a measurement's sum says.

    Args:
        plan: measures.
        total: the sum's integers, as many as the plan's vector has entries.
        survivors: how many participants are in the sum, each with noise of its own.

    Raises:
        ValueError: the plan measures nothing, or the sum is of another length.
    """
    measured, privacy, recipe = plan.recipe.measured, plan.privacy, plan.recipe
    if measured is None or len(total) != recipe.entries:
        raise ValueError("this is no sum of a measurement")
    rate, step = float(privacy.sampling_rate), measured_step(privacy, plan.encoding, recipe.entries)
    scale = 1 / (step * rate)
    found = _Sum(scale, math.sqrt(survivors) * privacy.sigma * scale, (1 - rate) / rate)
    counts, start = dict[str, list[float]](), 0
    for stream in recipe.turns[0].sums:
        counts[stream.name] = [entry * scale for entry in total[start : start + stream.length]]
        start += stream.length
    units = counts.get(COUNT_STREAM, [0.0])[0]
    shown = list[Figure]()
    for name, values in counts.items():
        if name in MEANS:
            shown.append(found.mean(name, values[0], units, float(measured.loss_clip) if name == "loss" else 1.0))
        else:
            named = zip(values, _cells(recipe, name), strict=True)
            shown += [Figure(name, cell, value, found.error(value)) for value, cell in named]
    return tuple(shown)


def _cells(recipe: Recipe, stream: str) -> list[tuple[str, ...]]:
    """Return what each entry of a stream of counts is about."""
    measured, labels = recipe.measured, single_labels(recipe.task)
    if stream == COUNT_STREAM or measured is None:
        return [()]
    if stream == "confusion":
        return [(label, answer) for label in labels for answer in labels]
    return [(name,) for name in (ranges(measured.bins) if measured.bins else labels)]


def ranges(edges: Sequence[str]) -> tuple[str, ...]:
    """Return the bins of a histogram in words, from below the first edge to the last edge and above."""
    between = (f"{low} to below {high}" for low, high in itertools.pairwise(edges))
    return (f"below {edges[0]}", *between, f"{edges[-1]} and above")


def figure_words(found: Sequence[Figure]) -> Iterator[str]:
    """Yield figures in words; of long tables the largest, and how many more there are."""
    for metric in dict.fromkeys(figure.metric for figure in found):
        of_metric = [figure for figure in found if figure.metric == metric]
        largest = sorted(of_metric, key=lambda figure: -(figure.value or 0.0))[:MOST_WORDS]
        yield from (figure.words for figure in of_metric if figure in largest)
        if len(of_metric) > MOST_WORDS:
            yield f"{metric}: {len(of_metric) - MOST_WORDS} smaller counts, in the exported file"


def measurement_words(recipe: Recipe) -> tuple[str, ...]:
    """Return in plain words what a plan measures; nothing where it trains."""
    measured, task = recipe.measured, recipe.task
    if measured is None:
        return ()
    labels = len(single_labels(task))
    told = {
        "accuracy": "how often the model's answer is right",
        "confusion": f"how often rows of each of {labels} labels are answered with each of them",
        "histogram": f"how many rows have each of {labels} labels"
        if not measured.bins
        else f"how many rows have a number in each of {len(measured.bins) + 1} ranges",
        "loss": f"how large the model's loss is, each row's cut off at {measured.loss_clip}",
    }
    listed = "; ".join(told[metric] for metric in measured.metrics)
    return (
        f"This plan measures and trains nothing: no number of the model moves. It counts {listed}.",
        "What is released is the sum over participants alone; everybody in the run gets it.",
    )
