"""One-run lower bounds: the paper's own figures, validity under an exact mechanism, and the two counting tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.dp.one_run import (
    Guesses,
    ceiling,
    guess,
    lower_bound,
    p_value,
)


def test_the_ceiling_with_every_guess_right_is_5_78_at_1000_canaries() -> None:
    assert ceiling(canaries=1000, guessed=1000, delta=1e-5) == pytest.approx(5.78, abs=0.005)


def test_without_delta_the_p_value_is_the_binomial_tail() -> None:
    right = 1 / (1 + math.exp(-1.0))
    tail = sum(math.comb(10, count) * right**count * (1 - right) ** (10 - count) for count in (9, 10))
    assert p_value(Guesses(20, 10, 9), epsilon=1.0, delta=0.0) == pytest.approx(tail, rel=1e-12)


def test_delta_is_charged_at_the_steepest_point_of_the_tail() -> None:
    without, with_delta = (p_value(Guesses(100, 50, 45), epsilon=1.0, delta=delta) for delta in (0.0, 1e-3))
    right = 1 / (1 + math.exp(-1.0))
    chances = [math.comb(50, k) * right**k * (1 - right) ** (50 - k) for k in range(46)]
    slope = max(sum(chances[45 - i : 45]) / i for i in range(1, 46))
    assert with_delta - without == pytest.approx(2 * 100 * 1e-3 * slope, rel=1e-9)


def test_more_correct_guesses_never_lower_the_bound() -> None:
    bounds = [lower_bound(Guesses(100, 40, correct), delta=1e-5) for correct in range(41)]
    assert bounds == sorted(bounds)
    assert bounds[20] == 0.0


def test_the_bound_is_refuted_and_a_little_more_is_not() -> None:
    guesses = Guesses(400, 200, 180)
    found = lower_bound(guesses, delta=1e-5)
    assert p_value(guesses, epsilon=found, delta=1e-5) <= 0.05
    assert p_value(guesses, epsilon=found + 1e-6, delta=1e-5) > 0.05


def test_guesses_take_both_ends_and_abstain_between() -> None:
    found = guess([0.1, 5.0, 0.2, 4.0, 2.0, 2.1], [False, True, True, True, False, True], guessed=4)
    assert found == Guesses(canaries=6, guessed=4, correct=3)


@pytest.mark.parametrize("counts", [(3, 4, 4), (5, 3, 4), (5, 3, -1)])
def test_impossible_guesses_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="guesses about"):
        Guesses(*counts)


def test_randomised_response_at_epsilon_1_exceeds_its_bound_in_at_most_one_run_of_twenty() -> None:
    random = np.random.default_rng(5)
    right = 1 / (1 + math.exp(-1.0))
    bounds = {correct: lower_bound(Guesses(200, 200, correct), delta=0.0) for correct in range(201)}
    above = [bounds[int(random.binomial(200, right))] > 1.0 for _ in range(2000)]
    assert np.mean(above) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
