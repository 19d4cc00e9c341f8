"""The compiled sampler draws the same discrete Gaussian, and from the same words the entries of a reference."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from privacy.dp import fast_noise, noise
from tests.reference import slow_noise
from tests.worlds.seeded import SeededRandom

pytest.importorskip("numba")

from privacy.dp import noise_kernel
from privacy.dp.noise_kernel import CUT, NO, YES

LEAST_P = 1e-6  # seeds are fixed: a test that passes once passes always
EXPONENTS = (0, 1, 2, 3, 6, 7, 16, 19, 28, 49, 50)  # of the variance


class OneStream:
    """One stream of bytes, however it is read: the same seed, the same words in the same order."""

    def __init__(self, seed: object, most: int = 2**22) -> None:
        self._bytes = hashlib.shake_256(repr(seed).encode()).digest(most)
        self.used = 0

    def token_bytes(self, count: int) -> bytes:
        self.used += count
        assert self.used <= len(self._bytes)
        return self._bytes[self.used - count : self.used]

    def words(self) -> Iterator[int]:
        yield from (word for (word,) in struct.iter_unpack("<Q", self._bytes))


def chances(exponent: int) -> dict[int, float]:
    """Return the probability of every entry within 12 sigma."""
    sigma = 2.0 ** (exponent / 2)
    reach = int(12 * sigma) + 12
    weights = {y: math.exp(-(y * y) / (2 * sigma * sigma)) for y in range(-reach, reach + 1)}
    total = math.fsum(weights.values())
    return {y: weight / total for y, weight in weights.items()}


def chi_square(sample: np.ndarray, expected: dict[int, float]) -> float:
    """Return the p-value, neighbouring entries pooled so that each cell expects at least 20."""
    cells: list[tuple[int, float]] = []
    counts = dict(zip(*(part.tolist() for part in np.unique(sample, return_counts=True)), strict=True))
    seen, chance = 0, 0.0
    for outcome, probability in sorted(expected.items()):
        seen, chance = seen + counts.get(outcome, 0), chance + probability
        if chance * len(sample) >= 20:
            cells.append((seen, chance))
            seen, chance = 0, 0.0
    cells[-1] = (cells[-1][0] + seen, cells[-1][1] + chance)
    observed, wanted = (np.array(column, dtype=float) for column in zip(*cells, strict=True))
    return float(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_entries_are_bit_for_bit_those_of_the_reference_from_the_same_words(exponent: int) -> None:
    stream = OneStream(exponent)
    expected = slow_noise.discrete_gaussian(4000, exponent, stream.words())
    assert fast_noise.discrete_gaussian(4000, exponent, stream).tolist() == expected


@pytest.mark.parametrize("exponent", [0, 5, 50])
def test_where_a_buffer_ends_changes_nothing(exponent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = slow_noise.discrete_gaussian(300, exponent, OneStream("cut").words())
    for most in (1, 2, 3, 7, 100):
        monkeypatch.setattr(fast_noise, "MOST_WORDS", most)
        assert fast_noise.discrete_gaussian(300, exponent, OneStream("cut")).tolist() == expected


@pytest.mark.parametrize("exponent", [0, 1, 2, 5, 6, 9])
def test_the_noise_fits_the_discrete_gaussian(exponent: int) -> None:
    sample = fast_noise.discrete_gaussian(400_000, exponent, SeededRandom(exponent))
    assert chi_square(sample, chances(exponent)) > LEAST_P


@pytest.mark.parametrize("exponent", [15, 16, 28, 49])
def test_wide_noise_has_the_moments_of_a_gaussian_and_uses_every_low_bit(exponent: int) -> None:
    whole = fast_noise.discrete_gaussian(400_000, exponent, SeededRandom(exponent))
    sample = whole / 2.0 ** (exponent / 2)
    assert abs(sample.mean()) < 5 / math.sqrt(len(sample))
    assert abs(sample.var() - 1) < 5 * math.sqrt(2 / len(sample))
    assert stats.kstest(sample, "norm").pvalue > LEAST_P or exponent < 20
    for bit in range(exponent // 2 - 1):
        assert abs(((whole >> bit) & 1).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(whole))


def test_neighbouring_entries_are_uncorrelated() -> None:
    sample = fast_noise.discrete_gaussian(200_000, 12, SeededRandom(3)) / 64
    for distance in (1, 2, 3):
        assert abs(np.mean(sample[distance:] * sample[:-distance])) < 5 / math.sqrt(len(sample))


def test_the_noise_agrees_with_opendp_s_exact_sampler() -> None:
    dp = pytest.importorskip("opendp.prelude")
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    theirs = np.array(dp.m.make_gaussian(*space, scale=8.0)([0] * 10_000))
    ours = fast_noise.discrete_gaussian(10_000, 6, SeededRandom(1))
    assert stats.ks_2samp(ours, theirs).pvalue > LEAST_P
    assert chi_square(theirs, chances(6)) > LEAST_P
    assert chi_square(ours, chances(6)) > LEAST_P


def test_the_noise_agrees_with_the_slow_sampler() -> None:
    slow = noise.discrete_gaussian(100_000, 7, SeededRandom("slow"))
    fast = fast_noise.discrete_gaussian(100_000, 7, SeededRandom("fast"))
    assert stats.ks_2samp(slow, fast).pvalue > LEAST_P


def tossed(*words: int) -> np.ndarray:
    return np.array(words, dtype=np.uint64).view(np.int64)


@pytest.mark.parametrize("sides", range(2, 18))
def test_a_die_shows_its_first_face_for_exactly_one_word_in_its_sides(sides: int) -> None:
    faces = 1 << (sides - 1).bit_length()
    high = 0xDEADBEEF << 32  # bits above the mask do not matter
    shown = [noise_kernel.one_in(sides, tossed(high | word), 0)[0] for word in range(faces)]
    assert [shown.count(one) for one in (YES, NO, CUT)] == [1, sides - 1, faces - sides]


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_a_coin_of_gamma_goes_on_for_exactly_its_share_of_words(bits: int) -> None:
    for numerator in range(2**bits):
        shown = [noise_kernel.exp_fraction(numerator, bits, tossed(word), 0)[0] for word in range(2**bits)]
        assert shown.count(CUT) == numerator  # heads: another coin is needed
        assert shown.count(YES) == 2**bits - numerator


def probability(numerator: int, bits: int, depth: int) -> tuple[float, float]:
    """Return how likely the coin shows true and how likely it has not fallen, by trying all short runs of words."""
    undecided: list[tuple[int, ...]] = [()]
    true = 0.0
    width = max(bits, 2)  # dice of up to four sides
    for _ in range(depth):
        longer: list[tuple[int, ...]] = []
        for run in itertools.product(undecided, range(2**width)):
            words = (*run[0], run[1])
            shown, _ = noise_kernel.exp_fraction(numerator, bits, tossed(*words), 0)
            true += (shown == YES) / 2 ** (width * len(words))
            if shown == CUT:
                longer.append(words)
        undecided = longer
    return true, len(undecided) / 2 ** (width * depth)


@pytest.mark.parametrize(("numerator", "bits"), [(0, 2), (1, 2), (2, 2), (3, 2), (1, 0)])
def test_the_probability_of_a_coin_is_e_to_the_minus_gamma_in_exact_arithmetic(numerator: int, bits: int) -> None:
    true, undecided = probability(numerator, bits, 5)
    assert true <= math.exp(-numerator / 2**bits) <= true + undecided
    assert undecided < 0.12


def test_whole_units_are_counted_and_the_count_is_capped() -> None:
    once, never = (0, 1), (1,)  # a coin of 1/2 that shows true, one of 1/3 that does not: odd; at once false: even
    words = tossed(*once, *once, *never)
    assert noise_kernel.exp_whole(0, words, 0) == (0, 0)
    assert noise_kernel.exp_whole(2, words, 0) == (2, 4)
    assert noise_kernel.exp_whole(9, words, 0) == (2, 5)
    assert noise_kernel.exp_whole(9, words[:4], 0)[0] == CUT


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_any_count_gives_just_as_many_entries(count: int) -> None:
    found = fast_noise.discrete_gaussian(count, 4, SeededRandom(4))
    assert found.shape == (count,)
    assert found.dtype == np.int64


@pytest.mark.parametrize("exponent", [-1, 51])
def test_an_exponent_that_would_overflow_is_refused(exponent: int) -> None:
    with pytest.raises(ValueError, match="noise exponent"):
        fast_noise.discrete_gaussian(1, exponent, SeededRandom(0))


def test_without_numba_the_slow_sampler_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "privacy.dp.noise_kernel", None)
    found = fast_noise.discrete_gaussian(500, 6, SeededRandom("x"))
    assert np.array_equal(found, noise.discrete_gaussian(500, 6, SeededRandom("x")))
    fast_noise.compile_now()


def test_where_machine_code_cannot_be_kept_it_is_compiled_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*functions: object, cache: bool = False) -> object:
        if cache:
            raise RuntimeError("no locator available")
        return functions[0]

    monkeypatch.setattr(noise_kernel, "njit", nowhere)
    assert noise_kernel._compiled(len) is len


def test_compiling_draws_nothing() -> None:
    fast_noise.compile_now()
    assert noise_kernel.fill(np.empty(0, dtype=np.int64), 5, tossed(1, 2, 3)) == (0, 0)
