"""The vector of a plan in ring words: where each stream lies, and how an update goes in and a sum comes out.

Guarantees: streams start at word boundaries, also when lanes are packed, so that each is masked under a key of its own.
Leaves to others: the ring's arithmetic (``fixed_point``), the masks (``masks``).
Source: docs/protocol.md section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.plan import Plan
from privacy.secagg.fixed_point import Ring
from privacy.secagg.masks import MaskTerm, apply_masks

Words = NDArray[Any]  # uint32 or uint64, by the ring


@dataclass(frozen=True, slots=True)
class Span:
    """A stream's place among the entries and among the words."""

    stream: str
    entries: slice
    words: slice


def spans(plan: Plan) -> Iterator[Span]:
    """Yield each stream of the layout with its entries and words, in order."""
    ring = Ring.of(plan.encoding)
    entry = word = 0
    for stream in plan.recipe.layout:
        next_entry, next_word = entry + stream.length, word + ring.words(stream.length)
        yield Span(stream.name, slice(entry, next_entry), slice(word, next_word))
        entry, word = next_entry, next_word


def word_count(plan: Plan) -> int:
    """Return the number of ring words of a masked update."""
    return int(list(spans(plan))[-1].words.stop)


def masked_length(plan: Plan) -> int:
    """Return the number of bytes of a masked update."""
    return word_count(plan) * int(Ring.of(plan.encoding).dtype.itemsize)


def encode_update(plan: Plan, update: NDArray[np.int64], weight: int) -> Words:
    """Return the ring words of a weighted update.

    Args:
        plan: fixes layout and ring.
        update: ``plan.recipe.entries`` integers, clamped by the trainer.
        weight: the participant's public integer weight.
    """
    ring = Ring.of(plan.encoding)
    words = np.empty(word_count(plan), dtype=ring.dtype)
    weighted = update if weight == 1 else update * weight
    for span in spans(plan):
        ring.encode_into(words[span.words], weighted[span.entries])
    return words


def decode_total(plan: Plan, words: Words) -> NDArray[np.int64]:
    """Return the integers of an unmasked sum, in the order of the layout."""
    ring = Ring.of(plan.encoding)
    total = np.empty(plan.recipe.entries, dtype=np.int64)
    for span in spans(plan):
        total[span.entries] = ring.decode(words[span.words], span.entries.stop - span.entries.start)
    return total


def mask_in_place(plan: Plan, words: Words, terms: Callable[[str], list[MaskTerm]], *, threads: int = 1) -> None:
    """Add mask streams to ring words: ``terms`` gives the keys and signs of a stream by its name."""
    for span in spans(plan):
        apply_masks(words[span.words], terms(span.stream), threads=threads)
