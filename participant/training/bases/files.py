"""What a base model's folder must hold before anything is loaded: whole float weights, a base alone, its tokenizer.

Guarantees: a damaged file, a pointer in place of a file, quantized weights, an adapter of the folder's own and a
tokenizer that not every machine can build are refused by the name of the file. Needs no torch.
Leaves to others: hashes (``models``), whether the model runs (``checks``).
Source: the safetensors format, https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from privacy.errors import LocalError

LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
QUANTIZED: Final = ("quantization_config", "compression_config")
SENTENCE_PIECE: Final = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
HEADER_BYTES: Final = 8  # length of a safetensors header, little-endian
MAX_HEADER: Final = 100 * 2**20  # as the safetensors library has it


def check_files(folder: Path) -> None:
    """Refuse a folder that no participant could load, or from which something else would be loaded.

    Raises:
        LocalError: ``E-MODEL-LOAD``, naming the file.
    """
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise _refusal(path.name, "a Git LFS pointer, not the file; run `git lfs pull` in its repository")
        if path.name in ADAPTER_FILES:
            detail = "the folder holds an adapter of its own, which would be loaded with the base; give the base alone"
            raise _refusal(path.name, detail)
        if path.suffix.lower() == ".safetensors":
            _check_weights(path)
    _check_config(folder / "config.json")
    pieces = [name for name in SENTENCE_PIECE if (folder / name).is_file()]
    if pieces and not (folder / "tokenizer.json").is_file():
        detail = "no tokenizer.json beside it, so each machine would build its own; save the fast tokenizer there"
        raise _refusal(pieces[0], detail)


def _check_weights(path: Path) -> None:
    """Compare a file's size with what its header says."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(HEADER_BYTES), "little")
            if not 0 < length <= min(MAX_HEADER, size - HEADER_BYTES):
                raise ValueError
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise _refusal(path.name, "cut or damaged; copy it again") from None
    expected = HEADER_BYTES + length + max(ends, default=0)
    if size != expected:
        raise _refusal(path.name, f"cut or damaged: it has {size} bytes of {expected}; copy it again")


def _check_config(path: Path) -> None:
    try:
        config: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise _refusal(path.name, "not JSON, or cannot be read") from None
    if not isinstance(config, dict):
        raise _refusal(path.name, "not an object")
    for key in QUANTIZED:
        if config.get(key):
            raise _refusal(path.name, f"{key}: the weights are quantized; give those they were made from")


def _refusal(name: str, detail: str) -> LocalError:
    return LocalError("E-MODEL-LOAD", f"{name}: {detail}")
