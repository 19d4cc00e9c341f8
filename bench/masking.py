"""How close masking comes to its floor: the key stream plus the addition of the same bytes.

A case ``d1e6_k9`` masks 10^6 entries with nine pairwise streams and the self-mask. The floor is measured in the same
run and in turns: the fastest backend writing as many chunks to a buffer that stays in the cache, and numpy adding that
buffer to the vector as many times, each by itself. ``two_threads_speedup`` is what a second thread brings where it is
forced on: where it is 1 or less the rule of ``masks.THREAD_BYTES`` should not start one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench import harness
from privacy.secagg import masks
from privacy.secagg.fixed_point import Ring
from privacy.secagg.masks import MASK_CHUNK, Backend, MaskTerm, apply_masks
from privacy.secret import SecretBytes

_PLAIN, _PACKED = Ring(bits=32), Ring(bits=64, lane_bits=21)
CASES = {
    "d1e6_k9": (10**6, 9, _PLAIN),
    "d1e6_k40": (10**6, 40, _PLAIN),
    "d1e7_k9": (10**7, 9, _PLAIN),
    "packed_d1e6_k9": (10**6, 9, _PACKED),
}
THREADED = {"d1e5_k49": (10**5, 49), "d1e6_k19": (10**6, 19), "d1e6_k99": (10**6, 99), "d1e7_k19": (10**7, 19)}


def _terms(neighbours: int) -> list[MaskTerm]:
    """Return the terms of a participant in the middle of the roster: half of the masks are subtracted."""
    secrets = (SecretBytes(hashlib.sha256(b"bench masking %d" % i).digest()) for i in range(neighbours + 1))
    return [MaskTerm(key, -1 if i % 2 else 1) for i, key in enumerate(secrets)]


def aligned(size: int) -> NDArray[np.uint8]:
    """Return bytes that begin where a cache line does."""
    memory = np.zeros(size + 64, dtype=np.uint8)
    offset = -memory.ctypes.data % 64
    return memory[offset : offset + size]


def _stream_only(source: Backend, terms: list[MaskTerm], size: int) -> Callable[[], None]:
    zeros, scratch = bytes(MASK_CHUNK), aligned(MASK_CHUNK + 16).data
    streams = [source.stream(term.key) for term in terms]

    def run() -> None:
        for index, start in enumerate(range(0, size, MASK_CHUNK)):
            nonce, length = index.to_bytes(12, "big"), min(MASK_CHUNK, size - start)
            view, target = memoryview(zeros)[:length], scratch[: length + 16]
            for stream in streams:
                stream.write(nonce, view, target)

    return run


def _add_only(words: NDArray[Any], times: int) -> Callable[[], None]:
    width = MASK_CHUNK // words.itemsize
    mask = aligned(MASK_CHUNK).view(words.dtype)

    def run() -> None:
        for start in range(0, words.size, width):
            chunk = words[start : start + width]
            for _ in range(times):
                np.add(chunk, mask[: chunk.size], out=chunk)

    return run


def _measure(words: NDArray[Any], neighbours: int) -> tuple[float, float, str]:
    """Return the seconds of masking, the seconds of its floor, and the backend that set it."""
    terms = _terms(neighbours)
    parts: dict[str, Callable[[], object]] = {
        source.name: _stream_only(source, terms, words.nbytes) for source in masks.BACKENDS
    }
    parts |= {"add": _add_only(words, len(terms)), "masks": lambda: apply_masks(words, terms)}
    least = harness.seconds_in_turns(parts, repeats=5 if words.nbytes > 2**24 else 15)
    fastest = min((source.name for source in masks.BACKENDS), key=lambda name: least[name])
    return least["masks"], least[fastest] + least["add"], fastest


def _threads() -> tuple[dict[str, float], list[list[str]]]:
    """Return how much faster two threads are than one, and the table."""
    figures: dict[str, float] = {}
    rows = []
    for case, (entries, neighbours) in THREADED.items():
        words, terms = np.zeros(entries, dtype=_PLAIN.dtype), _terms(neighbours)
        work, chosen = words.nbytes * len(terms), min(2, words.nbytes * len(terms) // masks.THREAD_BYTES) or 1
        runs: dict[str, Callable[[], object]] = {
            str(threads): partial(apply_masks, words, terms, threads=threads) for threads in (1, 2)
        }
        with patch.object(masks, "THREAD_BYTES", 1):
            least = harness.seconds_in_turns(runs, repeats=15)
        figures[f"{case}.two_threads_speedup"] = round(least["1"] / least["2"], 3)
        figures[f"{case}.key_stream_mib"] = round(work / 2**20, 1)
        times = [f"{1e3 * seconds:.2f}" for seconds in least.values()]
        rows.append([case, f"{work / 2**20:.0f}", *times, f"{least['1'] / least['2']:.2f}", str(chosen)])
    return figures, rows


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = harness.parser(__doc__).parse_args()
    figures: dict[str, float] = {}
    rows = []
    for case, (entries, neighbours, ring) in CASES.items():
        words = np.zeros(ring.words(entries), dtype=ring.dtype)
        seconds, floor, fastest = _measure(words, neighbours)
        figures[f"{case}.speed_over_floor"] = round(floor / seconds, 3)
        figures[f"{case}.ms"] = round(seconds * 1e3, 3)
        figures[f"{case}.bytes_per_entry"] = round(words.nbytes / entries, 4)
        speed = words.nbytes * (neighbours + 1) / seconds / 1e9
        times = (f"{seconds * 1e3:.2f}", f"{speed:.1f}", f"{floor * 1e3:.2f}", f"{floor / seconds:.2f}")
        rows.append([case, fastest, *times, f"{words.nbytes / entries:.2f}"])
    print(harness.table(["case", "fastest", "ms", "GB/s", "floor ms", "speed/floor", "bytes/entry"], rows))
    threads, rows = _threads()
    print(harness.table(["case", "key stream MiB", "1 thread ms", "2 threads ms", "speed-up", "used"], rows))
    harness.publish("masking", figures | threads, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
