"""Between real numbers and the ring Z_2^b in which masks cancel.

Guarantees: encoding never refuses a value (NaN and infinities become 0, large values are clamped), so that no abort
depends on data; decoding a sum of encodings gives the exact integer sum while it stays within the plan's ring bound.
Leaves to others: that bound (``plan``), rounding and clipping under differential privacy (``dp``), weights (``round``).
Source: docs/protocol.md section 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview

_BLOCK: Final = 2**15  # entries that are encoded at a time, so that all steps find them in the cache
_WHOLE_BYTES: Final = (8, 16, 32)  # lanes that are integers of their own
_WORD_TYPES: Final[dict[int, np.dtype[Any]]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}


@dataclass(frozen=True, slots=True)
class Ring:
    """The ring words of a plan: ``bits`` wide, each holding one entry or, with ``lane_bits``, several.

    A packed word is the sum of its entries times 2^(lane x lane_bits), lowest lane first; negative entries borrow from
    the lane above, and decoding gives that back.
    """

    bits: Literal[32, 64]
    lane_bits: int = 0  # L; 0: one entry per word

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian unsigned type of a word, in memory and on the wire."""
        return _WORD_TYPES[self.bits]

    @property
    def lanes(self) -> int:
        """Entries a word."""
        return self.bits // self.lane_bits if self.lane_bits else 1

    def words(self, entries: int) -> int:
        """Return how many words hold ``entries`` entries; unused lanes of the last are 0."""
        return -(-entries // self.lanes)

    def encode(self, values: NDArray[np.int64]) -> NDArray[Any]:
        """Return the words, shape (words(d),), of int64 entries of shape (d,), in two's complement modulo 2^bits."""
        words = np.empty(self.words(values.size), dtype=self.dtype)
        self.encode_into(words, values)
        return words

    def encode_into(self, words: NDArray[Any], values: NDArray[np.int64]) -> None:
        """Write the words of int64 entries to ``words``, which are as many as they need."""
        self._check(words.size, values.size)
        if not self.lane_bits:
            np.copyto(words, values, casting="unsafe")
            return
        step = _BLOCK // self.lanes
        for start in range(0, words.size, step):
            block = words[start : start + step].view(np.int64)  # wraps as the unsigned words do
            entries = _padded(values[start * self.lanes : (start + step) * self.lanes], block.size * self.lanes)
            by_lane = entries.reshape(-1, self.lanes)
            np.copyto(block, by_lane[:, -1])
            for lane in reversed(range(self.lanes - 1)):
                np.left_shift(block, self.lane_bits, out=block)
                np.add(block, by_lane[:, lane], out=block)

    def decode(self, words: NDArray[Any], entries: int) -> NDArray[np.int64]:
        """Return the centred int64 entries, shape (entries,), of words or of a sum of words.

        Raises:
            ValueError: the number of words is not that of ``entries``.
        """
        return self.centred(words, entries).astype(np.int64)

    def centred(self, words: NDArray[Any], entries: int) -> NDArray[np.signedinteger[Any]]:
        """Return what :meth:`decode` does, in the integers of a word or a lane if there are such; maybe a view.

        Raises:
            ValueError: the number of words is not that of ``entries``.
        """
        self._check(words.size, entries)
        if not self.lane_bits:
            return words.view(f"<i{self.bits // 8}")
        half, mask = np.int64(1 << (self.lane_bits - 1)), np.uint64((1 << self.lane_bits) - 1)
        if self.lane_bits in _WHOLE_BYTES:  # then the bytes of a word are its lanes: a fifth of the time
            kind = f"{self.lane_bits // 8}"
            lanes = self._lifted(words).view(f"<u{kind}")
            np.subtract(lanes, lanes.dtype.type(half), out=lanes)  # wraps to the two's complement
            return lanes[:entries].view(f"<i{kind}")
        found = np.empty((words.size, self.lanes), dtype=np.int64)
        step = _BLOCK // self.lanes
        for start in range(0, words.size, step):
            lifted = self._lifted(words[start : start + step])
            block = found[start : start + step]
            for lane in range(self.lanes):
                np.bitwise_and(lifted >> np.uint64(lane * self.lane_bits), mask, out=block[:, lane], casting="unsafe")
            np.subtract(block, half, out=block)
        return found.reshape(-1)[:entries]

    def count_stray(self, words: NDArray[Any], entries: int) -> int:
        """Return how many words of ``entries`` entries have bits where no entry is: above the lanes, or in the last.

        Raises:
            ValueError: the number of words is not that of ``entries``.
        """
        self._check(words.size, entries)
        if not self.lane_bits or not words.size:
            return 0
        step, above = _BLOCK // self.lanes, self.lanes * self.lane_bits
        starts = range(0, words.size, step) if above < self.bits else ()
        stray = sum(int(np.count_nonzero(self._lifted(words[at : at + step]) >> np.uint64(above))) for at in starts)
        unused = self.decode(words[-1:], self.lanes)[entries - (words.size - 1) * self.lanes :]
        return stray + bool(unused.any())

    def _lifted(self, words: NDArray[Any]) -> NDArray[Any]:
        """Return words whose entries are all 2^(L-1) larger, and so not negative: no lane borrows from the next."""
        bias = sum(1 << (lane * self.lane_bits + self.lane_bits - 1) for lane in range(self.lanes))
        lifted: NDArray[Any] = words + np.uint64(bias)
        return lifted

    def to_bytes(self, words: NDArray[Any]) -> memoryview:
        """Return the little-endian bytes that are sent, hashed and summed: a read-only view, not a copy."""
        return words.astype(self.dtype, copy=False).data.cast("B").toreadonly()

    def from_bytes(self, data: Buffer, words: int) -> NDArray[Any]:
        """Return the words in ``data`` as a view of it (read-only if ``data`` is; copy before masking in place).

        Raises:
            ValueError: ``data`` is not exactly that many words long.
        """
        if len(data) != words * self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes are not {words} words of {self.dtype.itemsize} bytes")
        return np.frombuffer(data, dtype=self.dtype)

    def add_into(self, total: NDArray[Any], words: NDArray[Any]) -> None:
        """Add ``words`` to ``total`` in place, modulo 2^bits.

        Raises:
            ValueError: shapes or types are not the ring's.
        """
        if total.shape != words.shape or total.dtype != self.dtype or words.dtype != self.dtype:
            raise ValueError(f"cannot add {words.dtype}{words.shape} to {total.dtype}{total.shape} in this ring")
        np.add(total, words, out=total)

    def _check(self, words: int, entries: int) -> None:
        if words != self.words(entries):
            raise ValueError(f"{words} words do not hold {entries} entries")


def _padded(entries: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return entries with zeros behind them, ``size`` in all."""
    return entries if entries.size == size else np.concatenate([entries, np.zeros(size - entries.size, np.int64)])


def fixed(values: NDArray[np.floating[Any]], *, scale_exponent: int, clamp: int) -> NDArray[np.int64]:
    """Return round(values x 2^scale_exponent), half to even, within +-clamp; NaN and infinities become 0.

    Args:
        values: float32 or float64, any shape.
        scale_exponent: from the plan.
        clamp: the plan's M, below 2^53.
    """
    flat = values.reshape(-1)
    encoded = np.empty(flat.size, dtype=np.int64)
    scratch = np.empty(min(_BLOCK, flat.size), dtype=np.float64)
    factor, bound = 2.0**scale_exponent, float(clamp)
    with np.errstate(over="ignore"):  # beyond float64 is beyond the clamp
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            exact = scratch[: block.size]
            np.copyto(exact, block)
            exact[~np.isfinite(exact)] = 0
            np.multiply(exact, factor, out=exact)
            np.rint(exact, out=exact)
            np.clip(exact, -bound, bound, out=exact)
            np.copyto(encoded[start : start + _BLOCK], exact, casting="unsafe")
    return encoded.reshape(values.shape)


def unfixed(total: NDArray[np.int64], *, scale_exponent: int, divisor: int) -> NDArray[np.float64]:
    """Return total / (2^scale_exponent x divisor): the mean that a sum of :func:`fixed` values stands for.

    Raises:
        ValueError: the divisor is not positive.
    """
    if divisor < 1:
        raise ValueError("the divisor is the sum of the survivors' weights, at least 1")
    return total / (divisor * 2.0**scale_exponent)  # one pass; powers of two change no digit
