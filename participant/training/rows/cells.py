"""Cells of a dataset: what counts as a label or a user, and when two of them are the same.

Guarantees: the same label or user is the same text in every format: whole numbers lose ``.0`` and exponents, Unicode is
in its composed form (NFC), spaces around it are gone; a character that cannot be seen is refused, since with it two
that look the same would be two; what a format cannot give as a value is refused where it is used.
Leaves to others: where cells come from (``formats``), pictures (``pictures``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np

from privacy.errors import LocalError, OnlysumError
from privacy.printable import first_unprintable

# A whole number as tables hold it: 17.0 where another row of the column was empty, 1e+05 as R writes 100000.
WHOLE: Final = re.compile(r"[+-]?(?:0|[1-9][0-9]*)\.0*|\+[1-9][0-9]*|-?[1-9](?:\.[0-9]+)?[eE]\+[0-9]{2}")
MOST_DIGITS: Final = 400  # of a whole number in a table; a float's has 309
EXACT: Final = 2**53  # from here on a 64-bit float no longer tells one whole number from the next

BETWEEN_LABELS: Final = "|"  # several labels of a row, in a table that has no lists


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a cell that its format cannot give as a value; the reason quotes nothing of it."""

    reason: str
    is_class: bool = False  # it stands in a column of classes, which a plan may take for its labels


@contextmanager
def third_party(where: str, what: str = "") -> Iterator[None]:
    """Refuse whatever a library raises while it reads: its own words could quote the data.

    Raises:
        LocalError: ``E-DATA-PARSE``, naming the place and, unless it is said what is wrong, the error's type.
    """
    try:
        yield
    except (OnlysumError, PermissionError):
        raise
    except Exception as error:  # noqa: BLE001  no list of what other people's parsers raise is ever complete
        raise LocalError("E-DATA-PARSE", f"{where}: {what or f'cut or damaged ({type(error).__name__})'}") from None


def composed(text: str) -> str:
    """Return a name as it is compared: Unicode composed (NFC), without spaces around it."""
    return unicodedata.normalize("NFC", text).strip()


def name_text(value: object) -> str | None:
    """Return a label or user as text, or ``None`` if the value is neither text nor a whole number."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, str):
        text = composed(value)
        whole = Decimal(text) if len(text) <= MOST_DIGITS and WHOLE.fullmatch(text) else None
        return (text if whole is None or whole != whole.to_integral_value() else str(int(whole))) or None
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < EXACT:
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value))
    return None


def parts_of(text: str) -> tuple[str, ...]:
    """Return the labels in a cell of a table that has no lists."""
    return tuple(part.strip() for part in text.split(BETWEEN_LABELS) if part.strip()) or (text,)


def require_columns(row: Mapping[str, Any], columns: Sequence[str], where: str, *, listed: bool = True) -> None:
    """Refuse a row that lacks a column.

    Args:
        row: by column.
        columns: those that it must have.
        where: the words that name it.
        listed: whether those that it has are named: for its owner's eyes, as a file without a header names data.

    Raises:
        LocalError: ``E-DATA-PARSE``.
    """
    for column in columns:
        if column not in row:
            others = f"; there are {', '.join(sorted(row))}" if listed else ""
            raise LocalError("E-DATA-PARSE", f"{where}: no column {column}{others}")


def cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    """Return a row's value in a column.

    Raises:
        LocalError: ``E-DATA-PARSE``, there is none.
    """
    require_columns(row, (column,), where)
    value = row[column]
    if value is None:
        raise LocalError("E-DATA-PARSE", f"{where}: column {column} is empty")
    if isinstance(value, Unreadable):
        raise LocalError("E-DATA-PARSE", f"{where}: column {column} {value.reason}")
    return value


def _seen(text: str, code: str, where: str, column: str) -> str:
    """Return a label or user all of which can be seen."""
    if character := first_unprintable(text):
        raise LocalError(code, f"{where}: column {column} holds a character that cannot be seen, {character}")
    return text


def label_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return a row's label.

    Raises:
        LocalError: ``E-DATA-PARSE``.
    """
    text = name_text(cell(row, column, where))
    if text is None:
        raise LocalError("E-DATA-PARSE", f"{where}: column {column} is neither text nor an integer")
    return _seen(text, "E-DATA-PARSE", where, column)


def user_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return a row's user; spaces, forms of Unicode and ``.0`` do not make two people of one.

    Raises:
        LocalError: ``E-DATA-USER``.
    """
    text = name_text(row.get(column))
    if text is None:
        raise LocalError("E-DATA-USER", f"{where}: column {column} is empty, missing, or neither text nor an integer")
    return _seen(text, "E-DATA-USER", where, column)
