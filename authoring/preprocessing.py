"""How a base's own preprocessing of images differs from a recipe's: nothing of it is ignored in silence.

Guarantees: a recipe that is silent about scale, mean and deviation is refused where the base was trained with others
than raw pixels; what plans cannot say (values for each channel, crops, other sizes) becomes a warning.
Leaves to others: preprocessing itself (``participant.training.examples``).
Source: ``preprocessor_config.json`` of transformers' image processors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from authoring.recipe import TaskSection
from privacy.errors import LocalError

FILE: Final = "preprocessor_config.json"
BILINEAR: Final = 2  # of Pillow's methods of resampling
TOLERANCE: Final = 1e-3  # relative; such files write 255 as 0.00392156862745098
RAW: Final[dict[str, tuple[float, ...]]] = {"image_scale": (1.0,), "image_mean": (0.0,), "image_std": (1.0,)}


def compare_preprocessing(folder: Path, task: TaskSection) -> tuple[str, ...]:
    """Return what of a base's preprocessing a recipe does not follow.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: the recipe says nothing, and the base was not trained with raw pixels.
    """
    if task.kind != "image-classification" or not (folder / FILE).is_file():
        return ()
    config = _object(folder / FILE)
    base = _normalisation(config)
    given = {key: getattr(task, key) for key in base}
    silent = [key for key in base if given[key] is None and not _alike(base[key], RAW[key][0])]
    if silent:
        listed = ", ".join(f"{key} {_shown(base[key])}" for key in silent)
        raise LocalError("E-CONFIG-INVALID", f"task.{silent[0]}: {FILE} says {listed}; set them in the recipe")
    return (*_differences(base, given), *_geometry(config, _object(folder / "config.json")))


def chosen_normalisation(folder: Path) -> dict[str, str]:
    """Return scale, mean and deviation that a base was trained with, as recipes have them.

    Nothing where they differ between channels, or are those of raw pixels.

    Raises:
        LocalError: ``E-MODEL-LOAD``.
    """
    if not (folder / FILE).is_file():
        return {}
    base = _normalisation(_object(folder / FILE))
    if any(len(values) != 1 for values in base.values()):
        return {}
    return {key: f"{Decimal(f'{values[0]:.6g}'):f}" for key, values in base.items() if not _alike(values, RAW[key][0])}


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise LocalError("E-MODEL-LOAD", f"{path.name}: not an object of JSON")
    return value


def _normalisation(config: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return scale, mean and deviation, one value each or one per channel."""
    values = dict(RAW)
    try:
        if config.get("do_rescale", True):
            values["image_scale"] = (1 / float(config.get("rescale_factor", 1 / 255)),)
        if config.get("do_normalize", "image_mean" in config):
            values["image_mean"] = _channels(config.get("image_mean", 0.0))
            values["image_std"] = _channels(config.get("image_std", 1.0))
    except (TypeError, ValueError, ZeroDivisionError):
        raise LocalError("E-MODEL-LOAD", f"{FILE}: rescale_factor, image_mean or image_std is no number") from None
    return values


def _channels(value: Any) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in (value if isinstance(value, list) else [value]))
    return numbers[:1] if len(set(numbers)) == 1 else numbers


def _differences(base: dict[str, tuple[float, ...]], given: dict[str, str | None]) -> Iterator[str]:
    for key, values in base.items():
        own = RAW[key][0] if given[key] is None else float(Decimal(given[key] or 0))
        if not _alike(values, own):
            yield f"task.{key} is {own:g} for all channels, {FILE} says {_shown(values)}"


def _geometry(config: dict[str, Any], model: dict[str, Any]) -> Iterator[str]:
    if config.get("do_center_crop") or config.get("crop_pct"):  # ConvNeXT crops by the second alone
        yield f"{FILE} crops to the centre; here a whole image is resized"
    if config.get("do_flip_channel_order"):
        yield f"{FILE} turns the order of channels around (BGR); here they stay as they are (RGB)"
    if config.get("do_pad"):
        yield f"{FILE} pads images; here a whole image is resized"
    if config.get("do_resize", True) and config.get("resample") not in (None, BILINEAR):
        yield f"{FILE} resamples by Pillow's method {config['resample']}; here images are resized bilinearly"
    size, own = config.get("crop_size") or config.get("size"), model.get("image_size")
    height = size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size
    if isinstance(height, int) and isinstance(own, int) and height != own and config.get("do_resize", True):
        yield f"{FILE} resizes to {height}; images get the {own} pixels of config.json"


def _alike(values: tuple[float, ...], own: float) -> bool:
    return len(values) == 1 and abs(values[0] - own) <= TOLERANCE * max(abs(own), TOLERANCE)


def _shown(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.6g}" for value in values)
