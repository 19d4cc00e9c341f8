"""The vector of a round in ring words: where each stream lies, and how an update goes in and a sum comes out.

Guarantees: streams start at word boundaries, also when lanes are packed, so that each is masked under a key of its own.
Leaves to others: the ring's arithmetic (``fixed_point``), the masks (``masks``).
Source: docs/protocol.md section 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privacy.secagg.fixed_point import Ring
from privacy.secagg.masks import MaskTerm, apply_masks

Words = NDArray[Any]  # uint32 or uint64, by the ring
BLOCK_WORDS: Final = 2**12  # that are decoded at a time: they stay in the cache


@dataclass(frozen=True, slots=True)
class Span:
    """A stream's place among the entries and among the words."""

    stream: str
    entries: slice
    words: slice


@dataclass(frozen=True, slots=True)
class Layout:
    """The streams that are summed in a round, each a name and a number of entries, in order."""

    ring: Ring
    streams: tuple[tuple[str, int], ...]

    @property
    def entries(self) -> int:
        """Number of entries of an update and of the sum."""
        return sum(length for _, length in self.streams)

    @property
    def words(self) -> int:
        """Number of ring words of a masked update."""
        return sum(self.ring.words(length) for _, length in self.streams)

    @property
    def bytes(self) -> int:
        """Number of bytes of a masked update."""
        return self.words * int(self.ring.dtype.itemsize)

    def spans(self) -> Iterator[Span]:
        """Yield each stream with its entries and words, in order."""
        entry = word = 0
        for stream, length in self.streams:
            next_entry, next_word = entry + length, word + self.ring.words(length)
            yield Span(stream, slice(entry, next_entry), slice(word, next_word))
            entry, word = next_entry, next_word

    def encode(self, update: NDArray[np.int64], weight: int) -> Words:
        """Return the ring words of a weighted update.

        Args:
            update: ``entries`` integers, clamped by the trainer.
            weight: the participant's public integer weight.
        """
        words = np.empty(self.words, dtype=self.ring.dtype)
        weighted = update if weight == 1 else update * weight
        for span in self.spans():
            self.ring.encode_into(words[span.words], weighted[span.entries])
        return words

    def blocks(self, words: Words) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the integers of an unmasked sum in the order of the streams, some of one stream at a time.

        Yields:
            The place of the first among all entries, and the integers: few enough to stay in the cache.
        """
        for start, entries in self._centred(words):
            yield start, entries.astype(np.int64)

    def _centred(self, words: Words) -> Iterator[tuple[int, NDArray[np.signedinteger[Any]]]]:
        """Yield what :meth:`blocks` does, in integers as narrow as the ring has them."""
        lanes = self.ring.lanes
        for span in self.spans():
            stream, length = words[span.words], span.entries.stop - span.entries.start
            for start in range(0, stream.size, BLOCK_WORDS):
                block = stream[start : start + BLOCK_WORDS]
                entries = self.ring.centred(block, min(block.size * lanes, length - start * lanes))
                yield span.entries.start + start * lanes, entries

    def decode(self, words: Words) -> NDArray[np.int64]:
        """Return the integers of an unmasked sum, in the order of the streams."""
        total = np.empty(self.entries, dtype=np.int64)
        for start, entries in self._centred(words):
            total[start : start + entries.size] = entries
        return total

    def count_beyond(self, words: Words, bound: float) -> int:
        """Return how many integers of an unmasked sum have a larger absolute value; without decoding all at once."""
        whole = math.floor(bound)  # comparing integers with a real number makes real numbers of them
        return sum(int(np.count_nonzero((entries > whole) | (entries < -whole))) for _, entries in self._centred(words))

    def count_stray(self, words: Words) -> int:
        """Return how many words of an unmasked sum have bits where no entry is."""
        return sum(
            self.ring.count_stray(words[span.words], span.entries.stop - span.entries.start) for span in self.spans()
        )

    def mask(
        self, words: Words, terms: Callable[[str], list[MaskTerm]], *, first_word: int = 0, threads: int = 1
    ) -> None:
        """Add mask streams to ring words in place.

        Args:
            words: all of a vector, or a part of it, so that parts can be masked wherever they lie.
            terms: gives the keys and signs of a stream by its name.
            first_word: of the vector, where ``words`` begins: within its stream a multiple of ``MASK_CHUNK`` bytes.
            threads: over how many threads at most the chunks of a stream are spread.

        Raises:
            ValueError: ``words`` begins elsewhere, or is longer than the vector.
        """
        if first_word + words.size > self.words:
            raise ValueError(f"{words.size} words from word {first_word} on are not of a vector of {self.words}")
        for span in self.spans():
            start, stop = max(span.words.start, first_word), min(span.words.stop, first_word + words.size)
            if start < stop:
                part = words[start - first_word : stop - first_word]
                first_byte = (start - span.words.start) * words.itemsize
                apply_masks(part, terms(span.stream), first_byte=first_byte, threads=threads)
