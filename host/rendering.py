"""Values that are shown to people and to programs: one value, two forms.

Guarantees: what a terminal shows and what ``--json`` prints come from the same value; nothing here prints. Lines and
tables break between words at any width; a word that is longer than the width stays whole, to be copied, unless
it is of a text that others wrote (:func:`broken`).
Leaves to others: the values (``coordinator.views``, ``participant.views``), printing them (``host.console``).
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


WIDEST_WORD: Final = 40  # columns of a word that somebody else wrote
_HASH: Final = re.compile(r"[0-9a-f]{32,64}")
LAST: Final = 253_402_300_799  # second of the year 9999
GAP: Final = 2  # spaces between columns, and by which the rest of a broken line is indented


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a header, laid out for a width when they are printed."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def fit(self, width: int) -> list[str]:
        """Return left-aligned columns whose cells break between words, or a block per row where columns do not fit."""
        widths = _column_widths((self.header, *self.rows), width)
        if widths is None:
            facts = [line for row in self.rows for line in (*self._block(row, width), "")]
            return facts[:-1] if facts else wrapped(" ".join(self.header), width)
        return [line for row in (self.header, *self.rows) for line in _row_lines(row, widths)]

    def _block(self, row: Sequence[str], width: int) -> list[str]:
        label = max(len(name) for name in self.header) + GAP
        facts = [f"{name:<{label}}{cell}" for name, cell in zip(self.header, row, strict=True)]
        return [line for fact in facts for line in wrapped(fact, width)]


Line = str | Table


class View(Protocol):
    """A frozen value that says something to a person; commands print it, a page can show its fields."""

    def to_json(self) -> Json:
        """Return it for programs; the keys are an interface that scripts rely on."""
        ...

    def to_lines(self) -> Sequence[Line]:
        """Return it for people: sentences and tables, which are broken for the terminal when they are printed."""
        ...


def broken(text: str) -> str:
    """Return a text of others with one space between its words, none of them wider than :data:`WIDEST_WORD` columns.

    A word without end would reach beyond the width, and what a terminal then begins a line with could pass for one of
    our lines. Hashes stay whole, to be compared.
    """
    return " ".join(piece for word in text.split() for piece in _pieces(word))


def _pieces(word: str) -> list[str]:
    if len(word) <= WIDEST_WORD // 2 or _HASH.fullmatch(word):
        return [word]
    pieces, width = [""], 0
    for character in word:
        wide = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width + wide > WIDEST_WORD and not unicodedata.combining(character):
            pieces, width = [*pieces, ""], 0
        pieces[-1] += character
        width += wide
    return pieces


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Line]:
    """Return a table as what a view's lines hold."""
    return [Table(tuple(header), tuple(map(tuple, rows)))]


def wrapped(line: str, width: int) -> list[str]:
    """Return a line broken between words; the rest is indented, or stands below the text that follows a name."""
    if len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip()) + GAP
    name, gap, _ = line.lstrip().partition(" " * GAP)
    if gap:
        start = line.index(name) + len(name)
        start += len(line[start:]) - len(line[start:].lstrip())
        indent = start if start <= width // 2 else indent
    rest = " " * min(indent, width // 2)
    return textwrap.wrap(line, width, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)


def _column_widths(rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return how wide each column is: the widest give way first, none below its longest word."""
    columns = list(zip(*rows, strict=True))
    least = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + GAP * (len(widths) - 1) > width:
        shrinkable = [number for number in range(len(widths)) if widths[number] > least[number]]
        if not shrinkable:
            return None
        widths[max(shrinkable, key=widths.__getitem__)] -= 1
    return widths


def _row_lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [
        textwrap.wrap(cell, max(1, width), break_long_words=False, break_on_hyphens=False) or [""]
        for cell, width in zip(row, widths, strict=True)
    ]
    height = max(map(len, cells))
    lines = zip(*(cell + [""] * (height - len(cell)) for cell in cells), strict=True)
    return [
        (" " * GAP).join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def moment(at: float | None) -> str:
    """Return a time as people read it, in UTC; one beyond the year 9999 as its end."""
    return "-" if at is None else datetime.fromtimestamp(min(at, LAST), UTC).strftime("%Y-%m-%d %H:%M")


def clock_time(at: float, now: float) -> str:
    """Return a time of today without its date, in UTC; of another day with it."""
    shown = moment(at)
    return shown[11:] if shown[:10] == moment(now)[:10] else shown


def timestamp(at: float | None) -> str | None:
    """Return a time for programs: ISO 8601 in UTC, to the second."""
    return None if at is None else datetime.fromtimestamp(min(at, LAST), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
