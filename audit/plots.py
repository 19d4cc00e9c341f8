"""A small line plot as numbers: where its points, ticks and labels lie. The page's template draws it as SVG.

Guarantees: no third-party code and no text but numbers, so the base install can draw and nothing needs escaping.
Leaves to others: colours and words (``templates/report.html.j2``), and the table that stands under the plot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 220
LEFT: Final = 48
RIGHT: Final = 16
TOP: Final = 14
BOTTOM: Final = 34
MOST_TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis, in pixels."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A step-free line through points, in pixels of a WIDTH x HEIGHT picture, y downwards."""

    points: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def line(self) -> str:
        """The points as SVG's polyline wants them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def line_plot(values: Sequence[tuple[float, float]]) -> Plot:
    """Return a plot from zero on both axes; needs at least one value, all of them non-negative."""
    most_x, most_y = (max(value[axis] for value in values) or 1.0 for axis in (0, 1))
    x_steps, y_steps = _nice(most_x, whole=True), _nice(most_y, whole=False)
    top_y = max(most_y, y_steps[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / most_x
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top_y

    return Plot(
        points=tuple(place(x, y) for x, y in values),
        x_ticks=tuple(Tick(place(x, 0)[0], f"{x:g}") for x in x_steps if x <= most_x),
        y_ticks=tuple(Tick(place(0, y)[1], f"{y:g}") for y in y_steps),
    )


def _nice(most: float, *, whole: bool) -> list[float]:
    """Return at most six round numbers from 0 that reach about ``most``."""
    power = 10.0 ** math.floor(math.log10(most / MOST_TICKS))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power * MOST_TICKS >= most * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    return [round(step * i, 12) for i in range(math.ceil(most / step - 1e-9) + 1)]
