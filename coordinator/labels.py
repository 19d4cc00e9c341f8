"""Labels of runs: an operator's own notes, each a key with a value, to find runs again by.

Guarantees: a run has at most :data:`MOST_LABELS`; keys and values are short, and printable. Labels are no part of a
plan, and no member is sent them.
Leaves to others: their rows (``coordinator.database.label_rows``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from privacy.errors import LocalError
from privacy.printable import first_unprintable, printable

MOST_LABELS: Final = 16  # of a run
MOST_VALUE: Final = 64  # characters
SHOWN: Final = 100  # characters of a text that is refused
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,31}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run must be labelled with to be listed: a key, with a value or with any."""

    key: str
    value: str | None

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a run with these labels is meant."""
        return self.key in labels and self.value in (None, labels[self.key])

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"


def read_labels(texts: Iterable[str]) -> dict[str, str]:
    """Return labels by key, as the command line has them: ``site=north``.

    Raises:
        LocalError: ``E-USAGE``: one is malformed, a key comes twice, or they are too many.
    """
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise LocalError("E-USAGE", f"label {_shown(text)} has no value: KEY=VALUE")
        require_key(key)
        _require_value(value)
        if key in labels:
            raise LocalError("E-USAGE", f"label {key} is given twice")
        labels[key] = value
    require_few(labels)
    return labels


def read_wanted(texts: Iterable[str]) -> tuple[Wanted, ...]:
    """Return what runs are to be listed by: ``site`` or ``site=north``; a run must match all of them.

    Raises:
        LocalError: ``E-USAGE``.
    """
    wanted = []
    for text in texts:
        key, equals, value = text.partition("=")
        require_key(key)
        if equals:
            _require_value(value)
        wanted.append(Wanted(key, value if equals else None))
    return tuple(wanted)


def require_key(key: str) -> None:
    """Refuse what cannot be a label's key.

    Raises:
        LocalError: ``E-USAGE``.
    """
    if not _KEY.fullmatch(key):
        rule = "a label's key is 1 to 32 letters, digits, dots, dashes, underscores and slashes"
        raise LocalError("E-USAGE", f"{_shown(key)}: {rule}")


def require_few(labels: Mapping[str, str]) -> None:
    """Refuse more labels than a run may have.

    Raises:
        LocalError: ``E-USAGE``.
    """
    if len(labels) > MOST_LABELS:
        raise LocalError("E-USAGE", f"{len(labels)} labels: a run has at most {MOST_LABELS}")


def match(wanted: Iterable[Wanted], labels: Mapping[str, str]) -> bool:
    """Return whether a run with these labels has all that is wanted."""
    return all(each.matches(labels) for each in wanted)


def label_words(labels: Mapping[str, str]) -> Sequence[str]:
    """Return labels as they are typed, by key."""
    return [f"{key}={value}" for key, value in sorted(labels.items())]


def _require_value(value: str) -> None:
    if not 1 <= len(value) <= MOST_VALUE or value != value.strip():
        raise LocalError(
            "E-USAGE", f"{_shown(value)}: a label's value is 1 to {MOST_VALUE} characters, none blank at its ends"
        )
    if character := first_unprintable(value):
        raise LocalError("E-USAGE", f"{_shown(value)}: a label's value has the unprintable character {character}")


def _shown(text: str) -> str:
    """Return refused text as an error may show it."""
    return repr(printable(text[:SHOWN]))
