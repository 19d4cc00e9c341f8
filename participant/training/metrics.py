"""Figures of merit, from counts and values that were added up.

Guarantees: what is not defined (a correlation of constants, an F1 of no class) is not a number, and reported by nobody.
Leaves to others: what is counted (``participant.training.tasks``), who signs it (``privacy.evaluation``).
Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, for ROUGE-L; Spearman 1904.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORD: Final = re.compile(r"\w+")
MOST_WORDS: Final = 2000  # of a text that ROUGE-L compares; the table is quadratic

Counts = NDArray[np.int64]


def macro_f1(right: Counts, guessed: Counts, actual: Counts) -> float:
    """Return the mean F1 over the classes that were guessed or are there.

    Args:
        right: of each class, how often it was guessed and there.
        guessed: how often it was guessed.
        actual: how often it is there.
    """
    some = guessed + actual > 0
    return float(np.mean(2 * right[some] / (guessed + actual)[some])) if some.any() else math.nan


def perplexity(loss: float) -> float:
    """Return e to the mean loss of a token."""
    return math.exp(loss) if loss < math.log(1e12) else math.inf


def r_squared(guesses: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the part of the values' variance that guesses explain; below zero where they are worse than the mean."""
    spread = float(((values - values.mean()) ** 2).sum()) if values.size else 0.0
    return 1 - float(((values - guesses) ** 2).sum()) / spread if spread > 0 else math.nan


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the correlation of ranks; equal values share the mean of their ranks."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else math.nan


def rouge_l(written: str, expected: str) -> float:
    """Return the F1 of the longest common subsequence of words, 0 where either has none."""
    first, second = (WORD.findall(text.casefold())[:MOST_WORDS] for text in (written, expected))
    if not first or not second:
        return 0.0
    return 2 * _common(first, second) / (len(first) + len(second))


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        corner = 0
        for place, other in enumerate(second, start=1):
            corner, row[place] = row[place], corner + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = (last - (counts - 1) / 2)[places]
    return mean
