"""Per-example clipping to integers: one row moves the sum by at most D, whatever it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from privacy.dp.clipping import MAX_SENSITIVITY, clamp, clip_radius, integer_clip

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

SENSITIVITY = 60
ENTRIES = 24

GRADIENTS = st_numpy.arrays(
    np.float32, (3, ENTRIES), elements=st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
)


def squared_norms(rows: Integers) -> list[int]:
    return [sum(int(entry) ** 2 for entry in row) for row in rows]


@given(GRADIENTS, st.sampled_from([1e-18, 1e-3, 1.0, 4.0, 1e12]))
def test_no_gradient_whatsoever_becomes_longer_than_the_sensitivity(gradients: Floats, clip_norm: float) -> None:
    rows = integer_clip(gradients, sensitivity=SENSITIVITY, clip_norm=clip_norm)
    assert rows.dtype == np.int64
    assert max(squared_norms(rows)) <= SENSITIVITY**2


@given(GRADIENTS)
def test_a_row_does_not_depend_on_the_rows_beside_it(gradients: Floats) -> None:
    together = integer_clip(gradients, sensitivity=SENSITIVITY, clip_norm=1.0)
    alone = [integer_clip(row[None], sensitivity=SENSITIVITY, clip_norm=1.0)[0] for row in gradients]
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_row_with_one_entry_that_is_not_finite_is_zero_and_leaves_the_others(poison: float) -> None:
    gradients = np.full((2, ENTRIES), 0.1, dtype=np.float32)
    gradients[0, 5] = poison
    rows = integer_clip(gradients, sensitivity=SENSITIVITY, clip_norm=1.0)
    assert not rows[0].any()
    assert rows[1].any()


def test_a_float64_gradient_whose_square_overflows_is_zero() -> None:
    rows = integer_clip(np.full((1, ENTRIES), 1e300), sensitivity=SENSITIVITY, clip_norm=1e-18)
    assert not rows.any()


def test_a_short_gradient_is_only_scaled_and_rounded() -> None:
    gradient = np.array([[0.3, -0.2, 0.0]])
    rows = integer_clip(gradient, sensitivity=1000, clip_norm=2.0)
    radius = clip_radius(1000, 3)
    assert rows.tolist() == [[round(0.3 * radius / 2), round(-0.2 * radius / 2), 0]]


def test_a_long_gradient_keeps_its_direction_and_gets_the_clip_norm() -> None:
    gradient = np.random.default_rng(0).normal(size=(1, 200)) * 100
    rows = integer_clip(gradient, sensitivity=10_000, clip_norm=1.0)
    unit = gradient[0] / np.linalg.norm(gradient[0])
    assert np.allclose(rows[0] / clip_radius(10_000, 200), unit, atol=1e-4)


def test_a_row_that_rounding_makes_too_long_is_truncated() -> None:
    # All entries just above a half: rint doubles each, trunc makes them 0.
    entries = 1000
    sensitivity = 30
    radius = clip_radius(sensitivity, entries)
    assert math.sqrt(entries) > sensitivity > radius >= 0.5001 * math.sqrt(entries)
    gradient = np.full((1, entries), 0.5001 / radius)
    assert not integer_clip(gradient, sensitivity=sensitivity, clip_norm=1.0).any()


def test_a_mean_over_many_examples_is_unbiased_to_rounding() -> None:
    gradients = np.random.default_rng(1).normal(size=(500, 50)) * 0.01
    sensitivity = 5000
    total = integer_clip(gradients, sensitivity=sensitivity, clip_norm=1.0).sum(axis=0)
    assert np.allclose(total / clip_radius(sensitivity, 50), gradients.sum(axis=0), atol=500 / sensitivity / 10)


@pytest.mark.parametrize("sensitivity", [0, 4, MAX_SENSITIVITY + 1])
def test_a_sensitivity_that_does_not_suit_is_refused(sensitivity: int) -> None:
    with pytest.raises(ValueError, match="does not suit"):
        clip_radius(sensitivity, 10)


def test_the_largest_sensitivity_is_still_exact() -> None:
    rows = integer_clip(np.array([[1e30, 0.0], [1e30, 1e30]]), sensitivity=MAX_SENSITIVITY, clip_norm=1.0)
    assert max(squared_norms(rows)) <= MAX_SENSITIVITY**2
    assert min(squared_norms(rows)) > (MAX_SENSITIVITY - 10) ** 2


def test_clamping_never_moves_two_sums_further_apart() -> None:
    random = np.random.default_rng(2)
    first = random.integers(-1000, 1000, 100)
    second = first + random.integers(-50, 50, 100)
    assert np.linalg.norm(clamp(first, 300) - clamp(second, 300)) <= np.linalg.norm(first - second)
    assert np.abs(clamp(first, 300)).max() == 300


def test_a_clipped_row_leaves_a_slack_of_one_below_the_sensitivity() -> None:
    """A row and a change of norm 1 in other rows move the sum by at most D: the triangle inequality."""
    sensitivity, gradients = 5_000, np.random.default_rng(7).normal(size=(200, 20_000)).astype(np.float32)
    rows = integer_clip(gradients, sensitivity=sensitivity, clip_norm=0.01)
    lengths = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1))
    assert (lengths + 1 <= sensitivity).all()
    assert (lengths > sensitivity - 4).all()
