"""What a base model's folder must hold before anything is loaded: whole float weights, a base alone, its tokenizer.

Guarantees: a damaged file, a pointer in place of a file, quantized weights, an adapter of the folder's own and a
tokenizer that not every machine can build are refused by the name of the file. Needs no torch.
Leaves to others: hashes (``models``), whether the model runs (``checks``).
Source: the safetensors format, https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Final

from privacy.errors import LocalError
from privacy.printable import printable

LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
QUANTIZED: Final = ("quantization_config", "compression_config")
SENTENCE_PIECE: Final = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
INDEX: Final = ".safetensors.index.json"
# Types of tensors, as safetensors names them: floats, and the whole numbers of tables of positions.
WHOLE_TYPES: Final = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"})
FLOATS: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of which a base is kept as it is
HEADER_BYTES: Final = 8  # length of a safetensors header, little-endian
MAX_HEADER: Final = 100 * 2**20  # as the safetensors library has it
# While it loads, transformers changes its own classes and torch's: of two at once the second would put back what the
# first had changed, and no head would be tied in this process any more.
ONE_AT_A_TIME: Final = threading.Lock()


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
        if path.suffix.lower() == ".json":
            _check_json(path)
    _check_config(folder / "config.json")
    pieces = [name for name in SENTENCE_PIECE if (folder / name).is_file()]
    if pieces and not (folder / "tokenizer.json").is_file():
        detail = "no tokenizer.json beside it, so each machine would build its own; save the fast tokenizer there"
        raise _refusal(pieces[0], detail)


def own_type(folder: Path) -> str:
    """Return the type that all of a checkpoint's float weights have, as torch calls it; ``float32`` if they differ.

    Raises:
        LocalError: ``E-MODEL-LOAD``, a file is damaged.
    """
    kinds = {kind for path in folder.glob("*.safetensors") for kind in _read_header(path)[1] if kind in FLOATS}
    return FLOATS[kinds.pop()] if len(kinds) == 1 else "float32"


def _read_header(path: Path) -> tuple[int, set[str]]:
    """Return how many bytes a file of weights must have, and the types of its tensors."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(HEADER_BYTES), "little")
            if not 0 < length <= min(MAX_HEADER, size - HEADER_BYTES):
                raise ValueError
            header = json.loads(file.read(length))
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        ends, kinds = [entry["data_offsets"][1] for entry in entries], {str(entry["dtype"]) for entry in entries}
        return HEADER_BYTES + length + max(ends, default=0), kinds
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise _refusal(path.name, "cut or damaged; copy it again") from None


def _check_weights(path: Path) -> None:
    """Compare a file's size with what its header says."""
    (expected, kinds), size = _read_header(path), path.stat().st_size
    if size != expected:
        raise _refusal(path.name, f"cut or damaged: it has {size} bytes of {expected}; copy it again")
    if packed := sorted(kinds - WHOLE_TYPES):
        raise _refusal(path.name, f"weights of type {packed[0]} are quantized; give those they were made from")


def _check_json(path: Path) -> None:
    """Refuse a file that does not parse, and an index of weights that are not there."""
    try:
        document: Any = json.loads(path.read_bytes().decode())
        shards = set(document["weight_map"].values()) if path.name.endswith(INDEX) else set()
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise _refusal(path.name, "not JSON of its kind, or cannot be read; copy it again") from None
    for shard in sorted(map(str, shards)):
        if not (path.parent / Path(shard).name).is_file():
            raise _refusal(path.name, f"it names {printable(shard)}, which is missing; copy it too")


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
