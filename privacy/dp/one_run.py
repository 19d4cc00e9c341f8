"""What one training run proves about epsilon from below: the statistics of the empirical audit.

Guarantees: if a run is (epsilon, delta)-DP, :func:`lower_bound` exceeds epsilon with a probability of at most
1 - confidence, whatever the attack was, as long as the number of guesses was fixed before the run was looked at.
Leaves to others: canaries, attack and what is concluded (``simulation.empirical.audit``). It never shows that a run is
private: :func:`ceiling` is the largest figure that the test could have given.
Source: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, Theorem 5.2, appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.95
LARGEST_EPSILON: Final = 64.0  # beyond it a double cannot tell the chance of a wrong guess from zero
_HALVINGS: Final = 40


@dataclass(frozen=True, slots=True)
class Guesses:
    """How an attack did: of ``canaries`` that were each in or out by a fair coin, it guessed some, rightly or not."""

    canaries: int
    guessed: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.guessed <= self.canaries:
            raise ValueError(f"{self.correct} of {self.guessed} guesses about {self.canaries} canaries")


def guess(scores: Sequence[float], included: Sequence[bool], *, guessed: int) -> Guesses:
    """Guess "in" for the highest scores, "out" for the lowest, and abstain in between.

    Args:
        scores: of each canary, higher where it looks included.
        included: what the coins said.
        guessed: how many guesses, half of them "in"; must be fixed before any score is seen.
    """
    order = sorted(range(len(scores)), key=scores.__getitem__)
    half = guessed // 2
    correct = sum(not included[place] for place in order[:half])
    correct += sum(included[place] for place in order[len(order) - half :])
    return Guesses(canaries=len(scores), guessed=2 * half, correct=correct)


def p_value(guesses: Guesses, *, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of so many correct guesses if the run is (epsilon, delta)-DP."""
    right = 1 / (1 + math.exp(-epsilon))
    chances = [_binomial(guesses.guessed, count, right) for count in range(guesses.guessed + 1)]
    at_least = math.fsum(chances[guesses.correct :])
    slope = below = 0.0
    for fewer in range(1, guesses.correct + 1):
        below += chances[guesses.correct - fewer]
        slope = max(slope, below / fewer)
    return min(1.0, at_least + 2 * guesses.canaries * delta * slope)


def lower_bound(guesses: Guesses, *, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the largest epsilon that the guesses rule out at some confidence, rounded down; 0 if none."""
    low, high = 0.0, LARGEST_EPSILON
    if p_value(guesses, epsilon=low, delta=delta) >= 1 - confidence:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = p_value(guesses, epsilon=middle, delta=delta) < 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def ceiling(*, canaries: int, guessed: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the bound that an attack with no wrong guess would give: no such test can show more."""
    return lower_bound(Guesses(canaries, guessed, guessed), delta=delta, confidence=confidence)


def _binomial(trials: int, count: int, chance: float) -> float:
    choose = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    log = choose + count * math.log(chance) + (trials - count) * math.log1p(-chance)
    return math.exp(log)
