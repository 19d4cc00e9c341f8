"""The demo's data: scanned digits of 14 writers, split so that the base model has met one of them.

Guarantees: the same seed gives the same split; the public slice, the participants' parts and the held-out images have
no image in common; the public slice has no 8 and no 9. The held-out images share writers with the participants' parts.
Leaves to others: files (``simulation.demo``) and training (``simulation.base``,
``participant.training.torch_trainer``).
Source: scikit-learn's ``load_digits`` (UCI, Alpaydin and Kaynak 1998). Its file has no writers; the labels repeat one
form, so it reads as 14 writers' sheets in a row. That is an inference, and two of the boundaries are approximate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SHEET_STARTS: Final = (0, 130, 256, 386, 516, 646, 776, 905, 1029, 1157, 1287, 1415, 1545, 1667)
PUBLIC_DIGITS: Final = 8  # the public slice has the digits 0 to 7
HELD_OUT_PART: Final = 0.2  # of each private sheet
IMAGE_SIZE: Final = 16  # pixels a side, upscaled from 8
MEAN: Final = 0.3  # of pixels from 0 to 1, about that of the digits; a plan's task repeats both
DEVIATION: Final = 0.35
LARGEST_PIXEL: Final = 16.0  # of the original images


@dataclass(frozen=True, slots=True)
class Digits:
    """Images (count, 16, 16) with pixels from 0 to 255, and their labels (count,) from 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Digits:
        """Return these rows, in this order."""
        return Digits(self.images[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class Split:
    """What everybody has seen, what each participant alone has, and what only the evaluator measures on."""

    public: Digits
    participants: tuple[Digits, ...]
    held_out: Digits


def split(participants: int, seed: int) -> Split:
    """Split the digits as the module's docstring says.

    Args:
        participants: how many parts the private sheets' remaining images are cut into, in the file's order.
        seed: chooses the held-out fifth of each private sheet.
    """
    everything = load()
    ends = (*SHEET_STARTS[1:], len(everything))
    first, *private = (np.arange(start, end) for start, end in zip(SHEET_STARTS, ends, strict=True))
    random = np.random.default_rng(seed)
    held = [np.sort(random.choice(sheet, round(HELD_OUT_PART * len(sheet)), replace=False)) for sheet in private]
    kept = np.setdiff1d(np.concatenate(private), np.concatenate(held))
    return Split(
        public=everything.take(first[everything.labels[first] < PUBLIC_DIGITS]),
        participants=tuple(everything.take(part) for part in np.array_split(kept, participants)),
        held_out=everything.take(np.concatenate(held)),
    )


def load() -> Digits:
    """Return all 1 797 digits in the file's order, upscaled bilinearly from 8 x 8 to 16 x 16."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.asarray(bunch.images, dtype=np.float64) / LARGEST_PIXEL
    return Digits(np.rint(upscale(images) * 255).astype(np.uint8), np.asarray(bunch.target, dtype=np.int64))


def upscale(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Double both sides of (count, 8, 8) images by bilinear interpolation between pixel centres."""
    size = images.shape[1]
    centres = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
    low = np.floor(centres).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    part = centres - low
    rows = images[:, low] * (1 - part)[None, :, None] + images[:, high] * part[None, :, None]
    return rows[:, :, low] * (1 - part)[None, None, :] + rows[:, :, high] * part[None, None, :]
