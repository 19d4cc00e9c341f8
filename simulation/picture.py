"""A picture of what the coordinator received from one participant, beside the sum that it unmasked.

Guarantees: every cell and every bar is a number that was there in the run; both halves say which range their greys and
bars stand for; the file is one SVG without scripts, fonts or links.
Leaves to others: where the numbers come from (``simulation.witness``).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCKS: Final = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS: Final = "_.:-=+*#"  # where the terminal has no blocks
COLUMNS: Final = 48  # of a histogram
GREYS: Final = 16
CELL: Final = 8  # pixels
PANEL: Final = 54 * CELL  # width
GAP: Final = 48
MARGIN: Final = 24
LINE: Final = 20  # pixels a line of text
LETTERS: Final = 64  # of a line as wide as a panel
FONT: Final = 'font-family="system-ui, sans-serif" fill="#222"'
BARS: Final = 90  # pixels of the highest bar

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One half of the picture.

    Attributes:
        title: what is shown.
        values: integers, shape (entries,).
        reach: the range is from minus this to this.
        words: what is to be seen, in lines.
    """

    title: str
    values: Integers
    reach: int
    words: tuple[str, ...]

    @property
    def counts(self) -> list[int]:
        """How many values are in each of :data:`COLUMNS` parts of the range."""
        return [int(count) for count in np.histogram(self.values, COLUMNS, (-self.reach, self.reach))[0]]


def panels(
    masked: Integers, total: Integers, *, member: str, bits: int, survivors: int, noised: bool
) -> tuple[Panel, Panel]:
    """Return both halves.

    Args:
        masked: what came from the member, centred residues of the ring.
        total: the sum of the same round.
        member: its name.
        bits: of an entry in the ring.
        survivors: how many updates are in the sum.
        noised: whether noise is in them.
    """
    ring, reach = 2 ** (bits - 1), int(np.abs(total).max(initial=1))
    left = Panel(
        title=f"What it received from {member}: {masked.size} masked numbers",
        values=masked,
        reach=ring,
        words=("Without the masks every value is as likely as any other, whatever the update was.",),
    )
    right = Panel(
        title=f"What it unmasked: the sum of {survivors}",
        values=total,
        reach=reach,
        words=(
            f"Its range is about 1/{ring // reach:,} of the ring: in the sum, and only there, the masks cancel.",
            f"It is the step that the adapter takes, with {'everybody' if noised else 'nobody'}'s noise in it.",
        ),
    )
    return left, right


def bars(panel: Panel, *, blocks: bool = True) -> str:
    """Return a histogram of one line; an empty part of the range is a space."""
    ramp, counts = (BLOCKS if blocks else PLAIN_BLOCKS), panel.counts
    highest = max(counts)
    return "".join(ramp[math.ceil(len(ramp) * count / highest) - 1] if count else " " for count in counts)


def lines(halves: Sequence[Panel], *, blocks: bool = True) -> Iterator[str]:
    """Yield the picture as a terminal shows it."""
    for half in halves:
        yield half.title
        yield f"  {-half.reach:>14,} |{bars(half, blocks=blocks)}| {half.reach:,}"
        yield from (f"  {words}" for words in half.words)


def write_svg(path: Path, halves: Sequence[Panel], *, title: str) -> None:
    """Write the picture as a file that any browser opens."""
    cells = math.ceil(max(half.values.size for half in halves) / (PANEL // CELL)) * CELL
    height = MARGIN + 5 * LINE + cells + BARS + LINE * max(len(_wrapped(half)) for half in halves) + MARGIN
    width = 2 * MARGIN + len(halves) * PANEL + (len(halves) - 1) * GAP
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(MARGIN, MARGIN + LINE // 2, title, size=15),
    ]
    for number, half in enumerate(halves):
        drawn += _half(half, MARGIN + number * (PANEL + GAP), MARGIN + 2 * LINE, cells)
    path.write_text("\n".join([*drawn, "</svg>\n"]))


def _half(half: Panel, left: int, top: int, cells: int) -> Iterator[str]:
    yield _text(left, top, half.title, size=13)
    top += LINE // 2
    yield f'<rect x="{left}" y="{top}" width="{PANEL}" height="{cells}" fill="#fff" stroke="#999"/>'
    shades = np.clip((half.values / half.reach + 1) / 2 * GREYS, 0, GREYS - 1).astype(int)
    for shade in range(GREYS):
        level = round(255 * shade / (GREYS - 1))
        squares = "".join(_square(int(place), left, top) for place in np.flatnonzero(shades == shade))
        yield f'<path d="{squares}" fill="rgb({level},{level},{level})"/>'
    top += cells + LINE
    yield _text(left, top, f"from {-half.reach:,} (black) to {half.reach:,} (white)")
    base, highest, wide = top + LINE // 2 + BARS, max(half.counts), PANEL / COLUMNS
    for column, count in enumerate(half.counts):
        tall = BARS * count / highest
        yield (
            f'<rect x="{left + column * wide:.1f}" y="{base - tall:.1f}" width="{wide - 1:.1f}" height="{tall:.1f}"'
            ' fill="#3566a8"/>'
        )
    yield f'<line x1="{left}" x2="{left + PANEL}" y1="{base}" y2="{base}" stroke="#222"/>'
    for number, line in enumerate(_wrapped(half), start=1):
        yield _text(left, base + number * LINE, line)


def _wrapped(half: Panel) -> list[str]:
    return [line for words in half.words for line in textwrap.wrap(words, LETTERS)]


def _square(place: int, left: int, top: int) -> str:
    row, column = divmod(place, PANEL // CELL)
    return f"M{left + CELL * column} {top + CELL * row}h{CELL}v{CELL}h-{CELL}z"


def _text(x: int, y: int, words: str, *, size: int = 11) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}">{escape(words)}</text>'
