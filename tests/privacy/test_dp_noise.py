"""The sampler draws the discrete Gaussian exactly, and Poisson coins at the plan's rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from privacy.dp.noise import _bernoulli_exp, _one_in, discrete_gaussian
from privacy.dp.sampling import choose, poisson_sample
from tests.worlds.seeded import SeededRandom

LEAST_P = 1e-6  # seeds are fixed: a test that passes once passes always


def probabilities(sigma: float) -> dict[int, float]:
    reach = int(12 * sigma) + 12
    weights = {y: math.exp(-(y * y) / (2 * sigma * sigma)) for y in range(-reach, reach + 1)}
    total = math.fsum(weights.values())
    return {y: weight / total for y, weight in weights.items()}


def chi_square(sample: np.ndarray, expected: dict[int, float]) -> float:
    """Return the p-value with outcomes pooled so that each cell expects at least 20."""
    cells: list[tuple[int, float]] = []
    seen, chance = 0, 0.0
    counts = dict(zip(*(part.tolist() for part in np.unique(sample, return_counts=True)), strict=True))
    for outcome, probability in sorted(expected.items()):
        seen, chance = seen + counts.get(outcome, 0), chance + probability
        if chance * len(sample) >= 20:
            cells.append((seen, chance))
            seen, chance = 0, 0.0
    cells[-1] = (cells[-1][0] + seen, cells[-1][1] + chance)
    observed = np.array([count for count, _ in cells])
    wanted = np.array([chance for _, chance in cells]) * observed.sum()
    return float(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)


@pytest.mark.parametrize("exponent", [0, 1, 5, 6])
def test_the_noise_fits_the_discrete_gaussian(exponent: int) -> None:
    sample = discrete_gaussian(60_000, exponent, SeededRandom(exponent))
    assert chi_square(sample, probabilities(2.0 ** (exponent / 2))) > LEAST_P


@pytest.mark.parametrize("exponent", [15, 28, 49])
def test_wide_noise_has_the_moments_of_a_gaussian_and_uses_every_low_bit(exponent: int) -> None:
    sample = discrete_gaussian(40_000, exponent, SeededRandom(exponent)) / 2.0 ** (exponent / 2)
    assert abs(sample.mean()) < 5 / math.sqrt(len(sample))
    assert abs(sample.var() - 1) < 5 * math.sqrt(2 / len(sample))
    assert stats.kstest(sample, "norm").pvalue > LEAST_P or exponent < 20
    odd = (np.rint(sample * 2.0 ** (exponent / 2)).astype(np.int64) & 1).mean()
    assert abs(odd - 0.5) < 5 * 0.5 / math.sqrt(len(sample))


def test_the_noise_agrees_with_opendp_s_exact_sampler() -> None:
    dp = pytest.importorskip("opendp.prelude")
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    theirs = np.array(dp.m.make_gaussian(*space, scale=8.0)([0] * 10_000))
    ours = discrete_gaussian(10_000, 6, SeededRandom(1))
    assert stats.ks_2samp(ours, theirs).pvalue > LEAST_P
    assert chi_square(theirs, probabilities(8.0)) > LEAST_P


def test_the_noise_is_what_the_source_gave_and_entries_differ() -> None:
    first, again, other = (discrete_gaussian(1000, 20, SeededRandom(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first)) > 500


def test_neighbouring_entries_are_uncorrelated() -> None:
    sample = discrete_gaussian(50_000, 12, SeededRandom(3)) / 64
    assert abs(np.mean(sample[1:] * sample[:-1])) < 5 / math.sqrt(len(sample))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_any_count_gives_just_as_many_entries(count: int) -> None:
    assert discrete_gaussian(count, 4, SeededRandom(4)).shape == (count,)


@pytest.mark.parametrize("exponent", [-1, 51])
def test_an_exponent_that_would_overflow_is_refused(exponent: int) -> None:
    with pytest.raises(ValueError, match="noise exponent"):
        discrete_gaussian(1, exponent, SeededRandom(0))


@pytest.mark.parametrize(("numerator", "bits"), [(0, 4), (1, 4), (9, 4), (16, 4), (23, 4), (100, 5), (2, 0)])
def test_coins_fall_with_exactly_e_to_the_minus_gamma(numerator: int, bits: int) -> None:
    tosses = 40_000
    heads = _bernoulli_exp(np.full(tosses, numerator, dtype=np.int64), bits, SeededRandom(numerator)).sum()
    assert stats.binomtest(int(heads), tosses, math.exp(-numerator / 2**bits)).pvalue > LEAST_P


def test_a_whole_gamma_costs_one_coin_of_e_to_the_minus_one_each() -> None:
    rare = _bernoulli_exp(np.full(1000, 700 << 3, dtype=np.int64), 3, SeededRandom(9))
    assert not rare.any()


@pytest.mark.parametrize("sides", [1, 2, 3, 5, 6, 7, 8])
def test_a_die_shows_one_face_in_exactly_its_share(sides: int) -> None:
    tosses = 30_000
    heads = int(_one_in(sides, tosses, SeededRandom(sides)).sum())
    assert heads == tosses if sides == 1 else stats.binomtest(heads, tosses, 1 / sides).pvalue > LEAST_P


def test_poisson_batches_hold_each_unit_with_the_plan_s_rate_independently() -> None:
    random = SeededRandom(5)
    batches = np.zeros((4000, 20))
    for batch in batches:
        batch[poisson_sample(20, "0.3", random)] = 1
    shares = batches.mean(axis=0)
    assert np.abs(shares - 0.3).max() < 5 * math.sqrt(0.21 / 4000)
    sizes = batches.sum(axis=1)
    assert chi_square(sizes.astype(np.int64), {k: stats.binom.pmf(k, 20, 0.3) for k in range(21)}) > LEAST_P


def test_a_rate_of_one_takes_everybody() -> None:
    assert poisson_sample(7, "1", SeededRandom(6)).tolist() == list(range(7))


def test_the_smallest_rate_is_not_rounded_to_nothing_or_up() -> None:
    assert poisson_sample(50, "0.000000000000000001", SeededRandom(7)).size == 0


def test_a_user_s_rows_are_chosen_evenly_and_never_more_than_allowed() -> None:
    random = SeededRandom(8)
    rows = np.arange(100, 106)
    counts = np.zeros(6)
    for _ in range(3000):
        chosen = choose(rows, 2, random)
        assert len(set(chosen.tolist())) == 2
        counts[chosen - 100] += 1
    assert np.abs(counts / 3000 - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 3000)
    assert choose(rows, 10, random).tolist() == rows.tolist()
