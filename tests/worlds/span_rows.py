"""The span oracle's algebra: uploads as rows over unknown updates and mask streams, and what is left without streams.

An unknown stream is the very key that a participant expands, recorded in place of masking; so two streams are one
unknown exactly if their keys are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any
from unittest.mock import patch

from privacy.secagg import keys, layout
from privacy.secagg.masks import MaskTerm

FIELD = (1 << 61) - 1  # rows are reduced modulo a prime large enough that no small integer relation is lost
UPDATE = "update"

Unknown = tuple[str, Any]  # ("update", (participant, round and adapter it started from)) or ("stream", key)
Row = dict[Unknown, int]
Sum = dict[Any, int]  # coefficients of updates


def learned(rows: Sequence[Row]) -> list[Sum]:
    """Return a basis of the combinations of rows in which no stream is left, as coefficients of updates."""
    pending = [dict(row) for row in rows]
    for stream in sorted({unknown for row in rows for unknown in row if unknown[0] != UPDATE}):
        pivot = next((row for row in pending if row.get(stream, 0)), None)
        if pivot is not None:
            pending.remove(pivot)
            for row in pending:
                _reduce(row, pivot, stream)
    return independent([{unknown[1]: value for unknown, value in row.items() if value} for row in pending])


def _reduce(row: dict[Any, int], pivot: Mapping[Any, int], at: Any) -> None:
    factor = row.get(at, 0) * pow(pivot[at], -1, FIELD) % FIELD
    if factor:
        for unknown, value in pivot.items():
            row[unknown] = (row.get(unknown, 0) - factor * value) % FIELD


def independent(sums: Sequence[Sum]) -> list[Sum]:
    basis: list[Sum] = []
    for one in sums:
        rest = dict(one)
        for known in basis:
            _reduce(rest, known, min(known))
        if rest := {name: value for name, value in rest.items() if value}:
            basis.append(rest)
    return basis


def violates(basis: Sequence[Sum], *, least_honest: int) -> bool:
    """Return whether this is more than one sum with equal coefficients over updates of one model, at least so many."""
    if not basis:
        return False
    (first, *others) = basis
    models = {adapter for _, adapter in first}
    return bool(others) or len(first) < least_honest or len(set(first.values())) != 1 or len(models) != 1


@dataclass
class Streams:
    """The keys of the upload that is being masked, and between whom each of them is."""

    terms: list[tuple[bytes, int]] = field(default_factory=list)
    between: dict[bytes, tuple[str, ...]] = field(default_factory=dict)

    def forget(self) -> None:
        """Begin another upload."""
        self.terms, self.between = [], {}

    def apply(self, words: Any, terms: Sequence[MaskTerm], **_: Any) -> None:
        """Stand in for ``apply_masks``: note the first stream's terms, and make the upload differ from all others."""
        if not self.terms:
            self.terms = [(term.key.reveal(), term.sign) for term in terms]
        digest = hashlib.sha256(b"".join(term.key.reveal() for term in terms)).digest()
        words[0] = int.from_bytes(digest[:4], "big")


STREAMS = Streams()


@contextmanager
def recorded() -> Iterator[None]:
    """Record stream keys instead of masking, and verify no signature twice: one process plays everybody."""

    @wraps(keys.pairwise_stream_key)
    def pairwise(*arguments: Any, original: Any = keys.pairwise_stream_key, **named: Any) -> Any:
        key = original(*arguments, **named)
        STREAMS.between[key.reveal()] = tuple(sorted(named["pair"]))
        return key

    @wraps(keys.self_stream_key)
    def own(*arguments: Any, original: Any = keys.self_stream_key, **named: Any) -> Any:
        key = original(*arguments, **named)
        STREAMS.between[key.reveal()] = (named["participant"],)
        return key

    with (
        patch.object(layout, "apply_masks", STREAMS.apply),
        patch.object(keys, "pairwise_stream_key", pairwise),
        patch.object(keys, "self_stream_key", own),
        patch.object(keys, "verify", lru_cache(maxsize=None)(keys.verify)),
    ):
        yield
