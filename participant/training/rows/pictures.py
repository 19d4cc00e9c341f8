"""Pictures become pixels: as a person sees them, with the values that the file holds.

Guarantees: a photo is turned as its camera says; deep grey (16 bits, floats) keeps its values and is never clipped;
what Pillow would cut without a word, deep colour to 8 bits and several pictures to the first, is refused; a picture too
large to decode is refused before it is decoded.
Leaves to others: size and normalisation (``examples``).
"""

from __future__ import annotations

import io
import json
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from participant.training.rows.cells import third_party
from privacy.errors import LocalError

if TYPE_CHECKING:
    from PIL import Image

DEEP: Final = re.compile(r";16[BLN]")  # 16 bits a channel, in Pillow's names of raw pixels; BGR;16 is 16 a pixel
MAX_PIXELS: Final = 2**26  # of an encoded picture; a small file can claim any size
GREY: Final = frozenset({"1", "L"})
LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R 601
OPAQUE: Final = 255
TRANSPARENT: Final = "parts of it are transparent; save it on the background that it is to have"
NOT_FINITE: Final = "a pixel is infinite, or not a number"


def is_encoded(value: object) -> bool:
    """Return whether an image is a file's bytes, which only decoding proves to be one."""
    return isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))


def require_finite(value: object, where: str) -> None:
    """Refuse rows and columns of numbers, as an array, lists or JSON, of which one is infinite or not a number.

    Raises:
        LocalError: ``E-DATA-PARSE``.
    """
    if isinstance(value, str) and value.lstrip().startswith("[["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, list | np.ndarray):
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            return
        if array.dtype.kind == "f" and array.ndim > 1 and not np.isfinite(array).all():
            raise LocalError("E-DATA-PARSE", f"{where}: {NOT_FINITE}")


def pixels(value: Any, channels: int, where: str) -> NDArray[np.float32]:
    """Return an image as float32 of shape (height, width, channels), pixel values as they are.

    Grey is repeated for three channels; colour becomes grey (ITU-R 601 luma) for one.

    Raises:
        LocalError: ``E-DATA-PARSE``, it is no image, or too large a one.
    """
    with third_party(where, what="not an image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's and NumPy's: what they warn of is refused here, or below
        array = np.asarray(_decoded(value, where), dtype=np.float32)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in {1, 3, 4, channels} or not array.size:
        raise LocalError("E-DATA-PARSE", f"{where}: an image has shape (height, width) or (height, width, channels)")
    if not np.isfinite(array).all():
        raise LocalError("E-DATA-PARSE", f"{where}: {NOT_FINITE}")
    if array.shape[2] == channels:
        return array
    if array.shape[2] == 4:
        if np.ptp(array[:, :, 3]):
            raise LocalError("E-DATA-PARSE", f"{where}: {TRANSPARENT}")
        array = array[:, :, :3]
    if array.shape[2] == 1:
        return np.repeat(array, channels, axis=2)
    if channels == 1:
        return array @ np.array(LUMA, dtype=np.float32)[:, None]
    if array.shape[2] != channels:
        raise LocalError("E-DATA-PARSE", f"{where}: it has {array.shape[2]} channels, and the base reads {channels}")
    return array


def _decoded(value: Any, where: str) -> Any:
    if isinstance(value, dict):  # how Hugging Face datasets keep an image: its file's bytes
        value = value.get("bytes")
    if isinstance(value, bytes):
        return _opened(value, where)
    if isinstance(value, str):
        return json.loads(value)
    return value


def _opened(data: bytes, where: str) -> NDArray[Any]:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(where)
            if trouble := _cut(image):
                raise LocalError("E-DATA-PARSE", f"{where}: {trouble}")
            return _array(ImageOps.exif_transpose(image), where)
    except Image.DecompressionBombError:  # Pillow's own limit is higher
        raise _too_large(where) from None


def _cut(image: Image.Image) -> str:
    """Return what would be lost of a picture in silence; empty if nothing is."""
    raw = [_raw_mode(tile[3]) for tile in getattr(image, "tile", ())]
    if not image.mode.startswith("I") and any(DEEP.search(mode) for mode in raw):
        return "colour of 16 bits cannot be kept; save it with 8 bits, or as grey"
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # cameras add a preview to a JPEG: MPO
    return f"holds {frames} pictures; save the one that is meant" if frames > 1 else ""


def _raw_mode(arguments: object) -> str:
    """Return what Pillow calls the pixels of a tile before it converts them."""
    if isinstance(arguments, tuple):
        return str(arguments[0]) if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _array(image: Image.Image, where: str) -> NDArray[Any]:
    """Return the pixels; ``convert`` would clip everything above 255 of an image of deep grey to white.

    What lies under transparent pixels is mostly black, and nothing that a person sees, so it is not taken for it.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[:, :, 3].min() < OPAQUE:
        raise LocalError("E-DATA-PARSE", f"{where}: {TRANSPARENT}")
    return np.asarray(image.convert("L" if image.mode in GREY else "RGB"))


def _too_large(where: str) -> LocalError:
    return LocalError("E-DATA-PARSE", f"{where}: an image of more than {MAX_PIXELS:,} pixels; make it smaller")
