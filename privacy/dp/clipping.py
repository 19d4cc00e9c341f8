"""Clipping each unit of privacy to integers, so that one unit moves the integer sum by at most D, by inspection.

Guarantees: every row that :func:`integer_clip` returns has an integer squared norm of at most D^2, whatever floats went
in, NaN and infinities included; a row depends on its own gradient alone, bit for bit, on any machine: every float
operation is one that IEEE 754 rounds correctly, in an order that is written here; integer sums have no order.
Leaves to others: per-example gradients (``participant.training.adapters``), the same pass on torch's devices
(``torch_clipping``, which gives the same bits), noise (``noise``), accounting (``accountants``).
Source: docs/privacy-accounting.md section 3.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX_SENSITIVITY: Final = 2**31 - 1  # D^2 and the squared norm of any rounded row stay within int64


def clip_radius(sensitivity: int, entries: int) -> float:
    """Return r = sqrt(D^2 - d/12 - 4D), to which a gradient is clipped before it is rounded.

    The clip norm C of a plan becomes r integers, so a sum of clipped rows times C/r is a sum of clipped gradients.
    Rounding adds d/12 to the squared norm on average; 4D leaves room for its spread, so that truncation stays rare.

    Raises:
        ValueError: D^2 <= d/12 + 4D, or D is beyond 2^31 - 1.
    """
    squared = sensitivity * sensitivity - entries / 12 - 4 * sensitivity
    if squared <= 0 or sensitivity > MAX_SENSITIVITY:
        raise ValueError(f"sensitivity {sensitivity} does not suit {entries} entries")
    return math.sqrt(squared)


def integer_clip(gradients: NDArray[np.floating[Any]], *, sensitivity: int, clip_norm: float) -> NDArray[np.int64]:
    """Return each row scaled by r/C, or by r over its norm if that is beyond C, and rounded to norm at most D.

    Args:
        gradients: one row per unit of privacy, shape (batch, d), float32 or float64.
        sensitivity: D of the plan, in integer steps.
        clip_norm: C of the plan, in units of the gradient.

    Returns:
        int64, shape (batch, d). A row that is not finite, or that no rounding brings within D, is zero.

    Raises:
        ValueError: as :func:`clip_radius`.
    """
    radius = clip_radius(sensitivity, gradients.shape[1])
    scaled = gradients.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # rows beyond float64 become zero below
        lengths = np.sqrt(_folded(scaled * scaled))
        scaled *= (radius / np.maximum(lengths, clip_norm))[:, None]
    scaled[~np.isfinite(lengths)] = 0.0  # squares add up to a finite number only if all of them are finite
    rounded = np.rint(scaled).astype(np.int64)
    large = ~_within(rounded, sensitivity)
    if large.any():
        truncated = np.trunc(scaled[large]).astype(np.int64)
        truncated[~_within(truncated, sensitivity)] = 0
        rounded[large] = truncated
    return rounded


def integer_rows(values: NDArray[np.float64], *, step: int, sensitivity: int) -> NDArray[np.int64]:
    """Return what units add to a measurement, in whole numbers of norm at most D; counts are exact.

    Args:
        values: one row per unit of privacy, shape (batch, d).
        step: what 1 becomes.
        sensitivity: D of the plan.

    Returns:
        int64, shape (batch, d). A row that is not finite, or that no rounding brings within D, is zero.
    """
    small: NDArray[np.bool_] = np.abs(values) <= sensitivity / step  # what is no number is not
    within = np.logical_and.reduce(small, axis=1)
    scaled = np.where(within[:, None], values, 0.0) * step
    rounded: NDArray[np.int64] = np.rint(scaled).astype(np.int64)
    large = ~_within(rounded, sensitivity)
    truncated = np.trunc(scaled[large]).astype(np.int64)
    truncated[~_within(truncated, sensitivity)] = 0
    rounded[large] = truncated
    return rounded


def _folded(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of each row, shape (batch,): the second half is added to the first until one entry is left.

    Libraries add in orders of their own, which differ by machine and by the width of a row.
    """
    width = squares.shape[1]
    while width > 1:
        kept = (width + 1) // 2
        squares[:, : width - kept] += squares[:, kept:width]
        width = kept
    sums: NDArray[np.float64] = squares[:, 0]
    return sums


def _within(rows: NDArray[np.int64], sensitivity: int) -> NDArray[np.bool_]:
    """Return for each row whether its squared norm is at most D^2; exact, as rounding leaves it below 2^63."""
    squared: NDArray[np.int64] = np.einsum("ij,ij->i", rows, rows)
    return squared <= np.int64(sensitivity) ** 2


def clamp(total: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """Return a sum with each coordinate clamped to +-``bound``: 1-Lipschitz, so the sensitivity stays D."""
    return np.clip(total, -bound, bound)
