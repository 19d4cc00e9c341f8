"""Bounds on tails: never below the chance, and close enough to it that faults are seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from privacy.dp.chance import of_counts, of_squares, of_sum

CERTAIN = math.inf


def test_a_sum_of_noise_is_bounded_on_either_side() -> None:
    for z in (0.5, 3.0, 6.0, 12.0):
        assert math.exp(-of_sum(z)) >= 2 * stats.norm.sf(z)
        assert of_sum(z) == of_sum(-z)
    assert of_sum(12.0) == pytest.approx(-math.log(2 * stats.norm.sf(12.0)), rel=0.05)


@pytest.mark.parametrize("draws", [1, 12, 4000])
@pytest.mark.parametrize("ratio", [0.2, 0.9, 1.0, 1.1, 3.0])
def test_a_mean_square_is_bounded_on_either_side(ratio: float, draws: int) -> None:
    exact = stats.chi2.logsf if ratio > 1 else stats.chi2.logcdf
    assert of_squares(ratio, draws) <= -exact(ratio * draws, draws)


def test_one_of_ten_noises_missing_is_beyond_chance_on_a_round_of_a_few_thousand_entries() -> None:
    assert of_squares(0.0, 4112) == CERTAIN
    assert of_squares(0.9, 256 * 100) > 60


@pytest.mark.parametrize(("count", "trials", "rate"), [(0, 50, 0.1), (5, 50, 0.1), (30, 50, 0.1), (50, 50, 0.1)])
def test_a_count_is_bounded_on_either_side(count: int, trials: int, rate: float) -> None:
    above, below = stats.binom.logsf(count - 1, trials, rate), stats.binom.logcdf(count, trials, rate)
    assert of_counts(count, trials, rate) <= -(above if count > trials * rate else below)


def test_a_count_of_trials_with_different_rates_is_bounded_by_their_mean() -> None:
    rates = np.array([0.05, 0.05, 0.4, 0.1] * 10)
    chances = np.array([1.0])
    for rate in rates:
        chances = np.convolve(chances, [1 - rate, rate])
    for count in range(int(rates.sum()) + 1, len(rates) + 1):
        assert math.exp(-of_counts(count, len(rates), rates.mean())) >= chances[count:].sum()


def test_what_cannot_be_is_certain_and_what_must_be_says_nothing() -> None:
    assert of_counts(8, 9, 1.0) == CERTAIN
    assert of_counts(1, 9, 0.0) == CERTAIN
    assert of_counts(9, 9, 1.0) == of_counts(0, 9, 0.0) == 0.0


def test_no_trials_and_no_draws_say_nothing() -> None:
    assert of_counts(0, 0, 0.3) == 0.0
    assert of_squares(1.0, 0) == 0.0


def test_arrays_are_taken_cell_by_cell() -> None:
    assert of_counts([[1, 2]], [[10], [20]], 0.5).shape == (2, 2)
    assert of_squares([0.5, 1.5, 1.0], 10).shape == (3,)
