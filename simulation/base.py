"""The demo's foundation model: a small vision transformer that knows one writer's digits, and never an 8 or a 9.

Guarantees: trained on the public slice alone; saved by transformers itself (``config.json``, ``model.safetensors``), so
that participants register it like any other base. The same seed and thread count give the same weights.
Leaves to others: adapters (``participant``) and the split (``simulation.digits``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification
from transformers.utils.logging import disable_progress_bar

from simulation.digits import DEVIATION, IMAGE_SIZE, MEAN, Digits

STEPS: Final = 500
WARM_UP: Final = 50
BATCH: Final = 64
LEARNING_RATE: Final = 2e-3
LABELS: Final = 10

# Ranges of the augmentation; lengths are parts of half the image's side, where the sampling grid runs from -1 to 1.
ROTATION: Final = math.radians(20)
SCALE: Final = 0.25
SHIFT: Final = 0.15
SHEAR: Final = 0.15
ELASTIC: Final = 0.12
ELASTIC_GRID: Final = 4  # control points a side of the elastic field
NOISE: Final = 0.05
GAMMA: Final = 0.3


def configuration() -> ViTConfig:
    """Return the model's shape: 16 patches of 4 x 4 pixels, width 64, two layers of four heads."""
    shape = ViTConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    )
    shape.num_labels = LABELS
    return shape


def train(
    public: Digits, seed: int, steps: int = STEPS, progress: Callable[[int, int], None] | None = None
) -> ViTForImageClassification:
    """Train the base on the public slice, augmented, for about six seconds on one core.

    Args:
        public: images and labels.
        seed: of weights, batches and augmentation.
        steps: how many.
        progress: told the steps done, of how many, after each.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    model = ViTForImageClassification(configuration())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    images, labels = torch.from_numpy(public.images).float() / 255, torch.from_numpy(public.labels)
    model.train()
    for done in range(1, steps + 1):
        rows = torch.randint(len(labels), (BATCH,), generator=random)
        logits = model(pixel_values=normalise(augment(images[rows], random))).logits
        loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(done, steps)
    model.train(mode=False)
    return model


def save(model: ViTForImageClassification, directory: Path) -> None:
    """Write the model in transformers' own format, weights as safetensors."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(directory)


def accuracy(model: torch.nn.Module, digits: Digits) -> float:
    """Return the part of the images whose label is the model's likeliest."""
    with torch.no_grad():
        logits = model(pixel_values=preprocess(digits)).logits
    guesses: NDArray[np.int64] = logits.argmax(dim=1).numpy()
    return float(np.mean(guesses == digits.labels))


def recheck(out: Path) -> float:
    """Return the accuracy of ``out/adapter`` on ``out/base`` over ``out/heldout``, with nothing of onlysum."""
    base = AutoModelForImageClassification.from_pretrained(out / "base")
    model = PeftModel.from_pretrained(base, str(out / "adapter")).eval()
    images = torch.from_numpy(np.load(out / "heldout" / "pixel_values.npy"))
    labels = np.load(out / "heldout" / "labels.npy")
    with torch.no_grad():
        guesses = model(pixel_values=images).logits.argmax(dim=1).numpy()
    return float(np.mean(guesses == labels))


def preprocess(digits: Digits) -> Tensor:
    """Return images as the model's input (count, 1, 16, 16); participants do the same, as the plan's task says."""
    return normalise(torch.from_numpy(digits.images).float() / 255)


def normalise(images: Tensor) -> Tensor:
    """Turn (count, 16, 16) images with pixels from 0 to 1 into the model's input (count, 1, 16, 16)."""
    return ((images - MEAN) / DEVIATION).unsqueeze(1)


def augment(images: Tensor, random: torch.Generator) -> Tensor:
    """Rotate, scale, shift, shear, bend, brighten and disturb each of (count, 16, 16) images in its own way."""
    count = len(images)

    def uniform(bound: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=random) * 2 - 1) * bound

    angle, shear = uniform(ROTATION), uniform(SHEAR)
    wide, high = 1 + uniform(SCALE), 1 + uniform(SCALE)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    shift = uniform(SHIFT, 2)
    top = torch.stack([wide * cosine, high * (shear * cosine - sine), shift[:, 0]], dim=1)
    bottom = torch.stack([wide * sine, high * (shear * sine + cosine), shift[:, 1]], dim=1)
    grid = functional.affine_grid(torch.stack([top, bottom], dim=1), [count, 1, *images.shape[1:]], align_corners=False)
    field = uniform(ELASTIC, 2, ELASTIC_GRID, ELASTIC_GRID)
    bend = functional.interpolate(field, size=images.shape[1:], mode="bicubic", align_corners=True)
    moved = functional.grid_sample(images.unsqueeze(1), grid + bend.permute(0, 2, 3, 1), align_corners=False).squeeze(1)
    brightened = moved.clamp(0, 1) ** torch.exp(uniform(GAMMA, 1, 1))
    return (brightened + NOISE * torch.randn(brightened.shape, generator=random)).clamp(0, 1)


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate: a linear warm-up, then half a cosine down to zero."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))
