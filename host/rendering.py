"""Values that are shown to people and to programs: one value, two forms.

Guarantees: what a terminal shows and what ``--json`` prints come from the same value; nothing here prints.
Leaves to others: the values (``coordinator.views``, ``participant.views``), printing them (``host.console``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


class View(Protocol):
    """A frozen value that says something to a person; commands print it, a page can show its fields."""

    def to_json(self) -> Json:
        """Return it for programs; the keys are an interface that scripts rely on."""
        ...

    def to_lines(self) -> list[str]:
        """Return it for people, in plain lines that fit 80 columns where names do."""
        ...


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of left-aligned columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def moment(at: int | None) -> str:
    """Return a time as people read it, in UTC."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
