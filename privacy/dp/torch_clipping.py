"""The integer clip on torch's devices: the same operations in the same order as ``clipping``, hence the same bits.

Guarantees: :func:`clipped_sum` is ``integer_clip(...).sum(axis=0)``, bit for bit, on every device with float64 and
int64; no more than a block of rows is widened at a time.
Leaves to others: what the steps are for (``clipping``); that a device has float64
(``participant.training.torch_trainer``).
Source: docs/privacy-accounting.md section 3.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from privacy.dp.clipping import clip_radius

_BLOCK_ON_CPU: Final = 2**17  # entries that are widened at a time: 1 MiB of float64, about a core's own cache
_BLOCK_ELSEWHERE: Final = 2**26  # 512 MiB: few and large kernels


def clipped_sum(gradients: Tensor, *, sensitivity: int, clip_norm: float) -> Tensor:
    """Return the sum of the clipped integer rows, int64, shape (d,).

    Args:
        gradients: one row per unit of privacy, shape (batch, d), float32 or float64.
        sensitivity: D of the plan, in integer steps.
        clip_norm: C of the plan, in units of the gradient.

    Raises:
        ValueError: as ``clipping.clip_radius``.
    """
    total = torch.zeros(gradients.shape[1], dtype=torch.int64, device=gradients.device)
    entries = _BLOCK_ON_CPU if gradients.device.type == "cpu" else _BLOCK_ELSEWHERE
    for block in torch.split(gradients, max(1, entries // gradients.shape[1])):
        rows = integer_clip(block, sensitivity=sensitivity, clip_norm=clip_norm)
        total += rows[0] if len(rows) == 1 else rows.sum(dim=0)
    return total


def integer_clip(gradients: Tensor, *, sensitivity: int, clip_norm: float) -> Tensor:
    """Return each row clipped and rounded to integers of norm at most D, int64, as ``clipping.integer_clip`` does."""
    radius = clip_radius(sensitivity, gradients.shape[1])
    scaled = gradients.to(torch.float64, copy=True)
    lengths = _folded(scaled * scaled).sqrt()
    scaled *= (radius / lengths.clamp(min=clip_norm))[:, None]
    scaled[~lengths.isfinite()] = 0.0
    rounded = scaled.round().to(torch.int64)
    large = ~_within(rounded, sensitivity)
    if large.any():
        truncated = scaled[large].trunc().to(torch.int64)
        truncated[~_within(truncated, sensitivity)] = 0
        rounded[large] = truncated
    return rounded


def _folded(squares: Tensor) -> Tensor:
    width = squares.shape[1]
    while width > 1:
        kept = (width + 1) // 2
        squares[:, : width - kept] += squares[:, kept:width]
        width = kept
    return squares[:, 0]


def _within(rows: Tensor, sensitivity: int) -> Tensor:
    return (rows * rows).sum(dim=1) <= sensitivity**2
