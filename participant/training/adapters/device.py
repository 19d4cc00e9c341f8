"""Where torch computes: what participant.toml asks for, or a refusal.

Guarantees: no silent fallback; only ``auto`` chooses. On CUDA float32 means float32: the shorter format that
convolutions take by default would make a gradient depend on the shape of its batch.
"""

from __future__ import annotations

import resource
import sys

import torch

from participant.training.trainer import Precision
from privacy.errors import LocalError


def find_device(name: str) -> torch.device:
    """Return a device; ``auto`` is the first of cuda, mps and cpu that is there.

    Args:
        name: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1``.

    Raises:
        LocalError: ``E-DEVICE``.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        return _exact(torch.device(next(kind for kind, count in there.items() if count)))
    kind, _, index = name.partition(":")
    if int(index or 0) >= there.get(kind, 0):
        raise LocalError("E-DEVICE", f"{name}; there are {', '.join(one for one, count in there.items() if count)}")
    return _exact(torch.device(name))


def require_precision(device: torch.device, precision: Precision) -> None:
    """Refuse a precision that a device does not have, before a model is loaded for it.

    Raises:
        LocalError: ``E-DEVICE``.
    """
    if precision == "float32":
        return
    there = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if not (there and torch.amp.is_autocast_available(device.type)):
        raise LocalError("E-DEVICE", f"{device} does not compute in {precision}")


def peak_mib(device: torch.device) -> int:
    """Return how much memory has been in use at most: the GPU's by torch, or all of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device)) >> 20
    unit = 1 if sys.platform == "darwin" else 1024  # of what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


def _exact(device: torch.device) -> torch.device:
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return device
