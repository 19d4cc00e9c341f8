"""What the templates draw of a run: the strip of its rounds, and the rows of its plots and tables.

Guarantees: every figure is of the run as a whole; a picture comes with words for who cannot see it.
Leaves to others: values (``coordinator.views.overview``), drawing the plots (``host/web/static/page.js``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from coordinator.labels import label_words
from coordinator.views.overview import Overview

MOST_BARS: Final = 200  # of a strip; of a longer run the last ones
MOST_ROWS: Final = 400  # of a plot; of a longer run evenly spread ones
MOST_SHOWN: Final = 60  # rows of what happened, the newest
BAR, HEIGHT, LEAST_BAR = 4, 34, 3  # in the units of the picture
NAMED: Final = 12

Rows = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """A bar per round: SVG paths by how the round went, as high as its survivors are many."""

    width: int
    full: str
    missing: str
    voided: str
    words: str


@dataclass(frozen=True, slots=True)
class Merit:
    """How good the released adapters are on public data: the figure's name, heads and rows of its table."""

    name: str
    heads: tuple[str, ...]
    rows: Rows

    @property
    def last(self) -> tuple[int, str] | None:
        """The last measured round and the figure after it."""
        return next(((row[0], cell) for row in self.rows[::-1] for cell in row[1:] if cell is not None), None)


@dataclass(frozen=True, slots=True)
class Happening:
    """An attempt that was given up, or a round that is over."""

    round: int
    outcome: str
    without: str
    at: int


def strip(run: Overview) -> Strip:
    """Return the strip of a run."""
    total = run.plan.recipe.rounds
    first = max(0, min(len(run.rounds) + MOST_BARS // 4, total) - MOST_BARS)
    bars: dict[str, list[str]] = {"full": [], "missing": [], "voided": []}
    for done in run.rounds[first:]:
        kind = "voided" if done.voided else "missing" if done.dropouts else "full"
        height = HEIGHT if done.voided else max(LEAST_BAR, round(HEIGHT * done.survivors / run.plan.n))
        at = (done.round - 1 - first) * BAR
        bars[kind].append(f"M{at} {HEIGHT - height}h{BAR - 1}v{height}h-{BAR - 1}z")
    whole = sum(not done.dropouts and not done.voided for done in run.rounds)
    words = f"{len(run.rounds)} of {total} rounds are over, {whole} of them with everybody"
    paths = {kind: "".join(parts) for kind, parts in bars.items()}
    return Strip(width=BAR * min(total, MOST_BARS), words=words, **paths)


def merit(run: Overview) -> Merit:
    """Return the figure that the evaluators name first, by round, with a column per evaluator."""
    measured = [each for each in run.evaluations if each.metrics]
    if not measured:
        return Merit("accuracy", ("round",), ())
    name = measured[-1].metrics[0].name
    found = {
        (each.round, each.evaluator): float(metric.value)
        for each in measured
        for metric in each.metrics
        if metric.name == name
    }
    evaluators = sorted({evaluator for _, evaluator in found})
    rounds = sorted({number for number, _ in found})
    rows = tuple((number, *(_decimals(found.get((number, each))) for each in evaluators)) for number in rounds)
    return Merit(name, ("round", *evaluators), _spread(rows))


def survivors(run: Overview) -> Rows:
    """Return how many were in each sum."""
    return _spread(tuple((done.round, done.survivors) for done in run.rounds if not done.voided))


def seconds(run: Overview) -> Rows:
    """Return how long each completed attempt took."""
    completed = (each for each in run.attempts if each.state == "completed" and each.ended_at is not None)
    return _spread(tuple((each.round, each.ended_at - each.opened_at) for each in completed if each.ended_at))


def happenings(run: Overview) -> tuple[Happening, ...]:
    """Return what happened lately, newest first."""
    found = [
        Happening(done.round, "voided: charged, without a sum", "", done.completed_at)
        if done.voided
        else Happening(done.round, f"the sum of {done.survivors}", _names(done.dropouts), done.completed_at)
        for done in run.rounds
    ]
    found += [
        Happening(each.round, f"attempt {each.attempt} given up: {each.code} {each.reason}", "", each.ended_at or 0)
        for each in run.attempts
        if each.state == "aborted"
    ]
    return tuple(sorted(found, key=lambda each: (each.at, each.round), reverse=True)[:MOST_SHOWN])


FILTERS: Final[Mapping[str, Callable[..., object]]] = {
    "strip": strip, "merit": merit, "survivors": survivors, "seconds": seconds, "happenings": happenings,
    "labels": label_words,
}  # fmt: skip


def _decimals(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _names(names: tuple[str, ...]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _spread(rows: Rows) -> Rows:
    if len(rows) <= MOST_ROWS:
        return rows
    return tuple(rows[round(index * (len(rows) - 1) / (MOST_ROWS - 1))] for index in range(MOST_ROWS))
