"""Discrete Gaussian noise as ``noise`` draws it, several times as fast where numba is installed.

Guarantees: the same distribution; an entry is a function of the words that were drawn for it and of nothing else.
Without numba the slow sampler draws; which of the two is at work depends on the installation alone.
Leaves to others: secret words (``participant.training.noise_keys``), compiling (``noise_kernel``).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from privacy.dp import noise
from privacy.interfaces import RandomSource

MOST_WORDS: Final = 2**17  # drawn at once: 1 MiB
LEAST_WORDS: Final = 256
WORDS_AN_ENTRY: Final = 14  # on average, and a little more
_WORD: Final = np.dtype("<i8")


def discrete_gaussian(count: int, exponent: int, random: RandomSource) -> NDArray[np.int64]:
    """Return ``count`` independent draws of the discrete Gaussian whose variance is 2^exponent.

    Args:
        count: how many, shape (count,) int64.
        exponent: j of the plan, 0 to 50.
        random: secret bytes; about 110 of them an entry.

    Raises:
        ValueError: the exponent is out of range.
    """
    try:
        from privacy.dp.noise_kernel import fill
    except ImportError:  # numba is in the participant's extra
        return noise.discrete_gaussian(count, exponent, random)
    noise.check_exponent(exponent)
    out = np.empty(count, dtype=np.int64)
    words = np.empty(0, dtype=np.int64)
    done = 0
    while done < count:
        more = min(MOST_WORDS, max(LEAST_WORDS, WORDS_AN_ENTRY * (count - done)))
        fresh = np.frombuffer(random.token_bytes(_WORD.itemsize * more), dtype=_WORD).astype(np.int64, copy=False)
        words = np.concatenate([words, fresh])
        written, used = fill(out[done:], exponent, words)
        done, words = done + written, words[used:]
    return out


def compile_now() -> None:
    """Compile the sampler, or load what was compiled before: the first time on a machine takes a few seconds."""
    try:
        from privacy.dp.noise_kernel import fill
    except ImportError:
        return
    fill(np.empty(0, dtype=np.int64), 0, np.empty(0, dtype=np.int64))
