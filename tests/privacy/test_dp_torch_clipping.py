"""The clip in torch gives numpy's integers, bit for bit, and one row moves the sum by at most D."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from privacy.dp import clipping, torch_clipping

pytestmark = pytest.mark.torch

GRADIENTS = st_numpy.arrays(
    np.float32, (3, 25), elements=st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
)


@given(GRADIENTS, st.sampled_from([1e-18, 1e-3, 1.0, 4.0, 1e12]), st.sampled_from([12, 60, 2**31 - 1]))
def test_any_gradient_gives_the_same_integers_as_numpy(
    gradients: NDArray[np.float32], clip_norm: float, sensitivity: int
) -> None:
    ours = torch_clipping.integer_clip(torch.from_numpy(gradients), sensitivity=sensitivity, clip_norm=clip_norm)
    numpys = clipping.integer_clip(gradients, sensitivity=sensitivity, clip_norm=clip_norm)
    assert np.array_equal(ours.numpy(), numpys)


@pytest.mark.parametrize("entries", [1, 2, 1023, 70_001, 200_000])
@pytest.mark.parametrize("length", [0.5, 1.0, 30.0])
def test_wide_rows_give_the_same_sum_as_numpy_whatever_the_blocks(entries: int, length: float) -> None:
    gradients = np.random.default_rng(entries).normal(size=(5, entries)).astype(np.float32)
    gradients *= np.float32(length / np.sqrt(entries))
    gradients[3] = np.nan
    total = torch_clipping.clipped_sum(torch.from_numpy(gradients), sensitivity=5000, clip_norm=1.0)
    rows = clipping.integer_clip(gradients, sensitivity=5000, clip_norm=1.0)
    assert np.array_equal(total.numpy(), rows.sum(axis=0))
    assert not rows[3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradients_are_left_as_they_were(dtype: torch.dtype) -> None:
    gradients = torch.randn(2, 10, dtype=dtype)
    before = gradients.clone()
    torch_clipping.clipped_sum(gradients, sensitivity=100, clip_norm=1.0)
    assert torch.equal(gradients, before)


def test_a_sum_over_no_rows_is_zero() -> None:
    total = torch_clipping.clipped_sum(torch.empty(0, 10), sensitivity=100, clip_norm=1.0)
    assert total.dtype == torch.int64
    assert total.tolist() == [0] * 10


def test_rows_that_rounding_makes_too_long_are_truncated_as_in_numpy() -> None:
    entries, sensitivity = 1000, 30
    radius = clipping.clip_radius(sensitivity, entries)
    gradients = np.full((3, entries), 0.5001 / radius)
    gradients[1, ::2] *= 0.5
    ours = torch_clipping.integer_clip(torch.from_numpy(gradients), sensitivity=sensitivity, clip_norm=1.0).numpy()
    assert np.array_equal(ours, clipping.integer_clip(gradients, sensitivity=sensitivity, clip_norm=1.0))
    assert [bool(row.any()) for row in ours] == [False, True, False]


def test_a_sensitivity_that_does_not_suit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not suit"):
        torch_clipping.clipped_sum(torch.zeros(1, 1000), sensitivity=4, clip_norm=1.0)
