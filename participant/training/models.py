"""Base models: hashed before they are loaded, and loaded without running anybody's code.

Guarantees: a file that is not byte for byte the plan's is named and nothing is loaded; a folder with pickled weights is
refused; remote code is never run and nothing is ever fetched; weights that a checkpoint lacks are
accepted for the task head alone, because only the head travels with the plan.
Leaves to others: adapters (``participant.training.adapters``), which models a policy allows
(``participant.owner.policy``).
Source: docs/threat-model.md. Hashing needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from participant.training.bases.files import ONE_AT_A_TIME, check_files, own_type
from participant.training.trainer import Weights
from privacy import patterns
from privacy.draft import BaseReference, FileHash
from privacy.errors import LocalError
from privacy.task_parts import ImageClassification, Task

if TYPE_CHECKING:
    import transformers

PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5"})
HASHED: Final = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja", ".vocab", ".tiktoken"})
_CHUNK: Final = 2**20


def hash_model(folder: Path, progress: Callable[[int, int], object] | None = None) -> tuple[FileHash, ...]:
    """Return name and SHA-256 of every file that loading may read, sorted by name.

    Args:
        folder: of the model.
        progress: is told how many bytes are hashed, of how many.

    Raises:
        LocalError: ``E-MODEL-PICKLE`` or ``E-MODEL-LOAD`` (no weights, no configuration).
    """
    if not folder.is_dir():
        raise LocalError("E-MODEL-LOAD", f"{folder} is not a folder")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        if path.suffix.lower() in PICKLES:
            what = f"{path.name}: the Trainer's settings, which no model needs; delete it"
            raise LocalError("E-MODEL-PICKLE", what if path.name == "training_args.bin" else path.name)
    kept = [path for path in files if path.suffix.lower() in HASHED]
    for path in kept:
        if not re.fullmatch(patterns.FILE_NAME, path.name):
            shown = path.name.encode(errors="backslashreplace").decode()
            raise LocalError("E-MODEL-LOAD", f"{shown}: {patterns.WORDS[patterns.FILE_NAME]}; rename or remove it")
    if not any(path.suffix.lower() == ".safetensors" for path in kept):
        raise LocalError("E-MODEL-LOAD", f"{folder} has no .safetensors file")
    if not (folder / "config.json").is_file():
        raise LocalError("E-MODEL-LOAD", f"{folder} has no config.json")
    hashes, done, whole = [], 0, sum(path.stat().st_size for path in kept)
    for path in kept:
        hashes.append(FileHash(name=path.name, sha256=_sha256(path)))
        done += path.stat().st_size
        if progress is not None:
            progress(done, whole)
    return tuple(hashes)


def architecture(folder: Path) -> str:
    """Return the class that ``config.json`` names, or an empty string."""
    found = _config(folder).get("architectures")
    return str(found[0]) if isinstance(found, list) and found else ""


def label_names(folder: Path) -> list[str]:
    """Return the labels that ``config.json`` names, in the order of the base's answers."""
    names = _config(folder).get("id2label")
    if not isinstance(names, dict) or not all(str(number).isdecimal() for number in names):
        return []
    return [str(names[number]) for number in sorted(names, key=int)]


def verify_base(folder: Path, expected: BaseReference) -> None:
    """Compare a folder with the plan's hashes.

    Raises:
        LocalError: ``E-MODEL-HASH``, naming the first file that differs, is missing or is not the plan's.
    """
    here = {file.name: file.sha256 for file in hash_model(folder)}
    wanted = {file.name: file.sha256 for file in expected.files}
    for name in sorted(here.keys() | wanted.keys()):
        if here.get(name) != wanted.get(name):
            why = "is missing" if name not in here else "is not in the plan" if name not in wanted else "differs"
            raise LocalError("E-MODEL-HASH", f"{expected.name}: {name} {why}")


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded base model on the CPU, in evaluation mode and frozen, with what turns rows into its input."""

    model: transformers.PreTrainedModel
    tokenizer: Any | None  # a transformers tokenizer; None for images
    image_size: tuple[int, int]  # height, width; (0, 0) for text
    channels: int  # 0 for text

    @property
    def pad(self) -> int:
        """Id of what fills up a text, which nothing reads; 0 for images and where a tokenizer has no such token."""
        return int(getattr(self.tokenizer, "pad_token_id", None) or 0)

    @property
    def tokenizer_size(self) -> int:
        """Number of token ids that both tokenizer and model know."""
        return 0 if self.tokenizer is None else min(len(self.tokenizer), int(self.model.config.vocab_size))


def load_base(
    folder: Path,
    expected: BaseReference,
    task: Task,
    *,
    head_modules: Sequence[str],
    seed: int,
    weights: Weights = "own",
) -> Base:
    """Verify the files' hashes, then load the model for a task.

    Attention is computed eagerly: other kernels are chosen by what the rest of a batch contains.

    Args:
        folder: the owner's copy.
        expected: the plan's.
        task: kind and labels.
        head_modules: modules that travel whole: the checkpoint may lack them or have them for other labels, and they
            are float32.
        seed: of the head's first weights where the checkpoint has none.
        weights: how the frozen weights lie in memory.

    Raises:
        LocalError: ``E-MODEL-HASH``, ``E-MODEL-PICKLE``, ``E-MODEL-LOAD`` or ``E-EXTRA-MISSING``.
    """
    from participant.training.tasks.kinds import work_of

    verify_base(folder, expected)
    base, report = load_checked(folder, expected.name, task, seed=seed, weights=weights, spared=head_modules)
    unused = work_of(task).unused
    refuse_gaps(expected.name, report, lambda key: unused(key) or any(part in key.split(".") for part in head_modules))
    return base


def load_checked(
    folder: Path,
    name: str,
    task: Task,
    *,
    seed: int,
    weights: Weights = "own",
    spared: Sequence[str] = (),
) -> tuple[Base, dict[str, Any]]:
    """Return a base, checked, and transformers' report of what its checkpoint lacks.

    Weights that keep the type that they have in their files are memory-mapped: loaded again they take no more room.

    Args:
        folder: of the base.
        name: of the base.
        task: kind and labels.
        seed: of weights that the checkpoint lacks.
        weights: how the frozen weights lie in memory.
        spared: modules that are float32 whatever ``weights`` says.

    Raises:
        LocalError: ``E-MODEL-LOAD`` or ``E-EXTRA-MISSING``.
    """
    check_files(folder)
    import torch
    import transformers

    from participant.training.bases.answers import row_by_row
    from participant.training.bases.checks import check_base
    from participant.training.bases.narrow import keep_narrow
    from participant.training.tasks.kinds import work_of

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # A missing head is expected, and every other gap is refused below: no need for transformers' own warning.
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    images, work = isinstance(task, ImageClassification), work_of(task)
    loader = getattr(transformers, work.loader)
    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, report = loader.from_pretrained(
                str(folder),
                **options,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=getattr(torch, "float32" if weights == "float32" else own_type(folder)),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **work.options(),
            )
    except Exception as error:  # noqa: BLE001  no list of what loaders raise is complete; a base is nobody's data
        raise LocalError("E-MODEL-LOAD", f"{name}: {_first_words(error)}") from None
    refuse_surplus(name, report, tuple(model.state_dict()))
    tokenizer = None
    if not images:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
        except Exception as error:  # noqa: BLE001  as above
            raise LocalError("E-MODEL-LOAD", f"{name}: its tokenizer does not load: {_first_words(error)}") from None
        # A text's end is cut and filled up, whatever the folder says: synthetic rows are, and the documents say so.
        tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer is not None and tokenizer.pad_token is None and work.pads:
        detail = "the tokenizer has no padding token; name one as pad_token in tokenizer_config.json"
        raise LocalError("E-MODEL-LOAD", f"{name}: {detail}, and its id as pad_token_id in config.json")
    model.requires_grad_(False)
    keep_narrow(model, weights, spared=spared)
    model.config.use_cache = False  # what was read before is of use to writing alone, which asks for it
    height, width = _image_size(model.config) if images else (0, 0)
    tower = getattr(model.config, "vision_config", model.config)  # of CLIP and SigLIP, beside the text's
    channels = int(getattr(tower, "num_channels", 3)) if images else 0
    base = Base(row_by_row(model).eval(), tokenizer, (height, width), channels)
    check_base(name, base)
    work.require_base(name, base)
    return base, report


def _first_words(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def refuse_surplus(name: str, report: dict[str, Any], present: Sequence[str]) -> None:
    """Refuse weights of blocks that ``config.json`` does not count, and of adapters: a part would be left out unsaid.

    Args:
        name: of the base.
        report: transformers' own, of what the checkpoint has and the model lacks; other heads are of no interest.
        present: keys of the model.

    Raises:
        LocalError: ``E-MODEL-LOAD``.
    """
    for key in sorted(map(str, report.get("unexpected_keys", ()))):
        if ".lora_" in key:
            raise LocalError("E-MODEL-LOAD", f"{name}: the checkpoint has an adapter's weights ({key}); merge it first")
        parts = key.split(".")
        for place, part in enumerate(parts):
            stack, block = f"{'.'.join(parts[:place])}.", f"{'.'.join(parts[: place + 1])}."
            if part.isdecimal() and place and _within(stack, present) and not _within(block, present):
                detail = f"the checkpoint has {key}, in a block that config.json does not count"
                raise LocalError("E-MODEL-LOAD", f"{name}: {detail}; take the config.json that belongs to it")


def _within(prefix: str, present: Sequence[str]) -> bool:
    """Return whether a model has a key of a prefix, or one that is the same below the class's own name."""
    return any(key.startswith(prefix) or f".{prefix}" in key for key in present)


def refuse_gaps(name: str, report: dict[str, Any], made_up: Callable[[str], bool]) -> None:
    """Refuse weights made up at random that no plan would carry: every participant would have others.

    Args:
        name: of the base.
        report: transformers' own, of what the checkpoint lacks or has in another shape.
        made_up: whether a plan may carry a weight, by its key.

    Raises:
        LocalError: ``E-MODEL-LOAD``.
    """
    gaps = {str(key) for key in report.get("missing_keys", ())}
    gaps |= {str(entry[0]) for entry in report.get("mismatched_keys", ())}
    if unknown := sorted(key for key in gaps if not made_up(key)):
        raise LocalError("E-MODEL-LOAD", f"{name}: the checkpoint has no weights for {unknown[0]}")


def _image_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise LocalError("E-MODEL-LOAD", "config.json names no image_size")


def _config(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise LocalError("E-MODEL-LOAD", f"{folder / 'config.json'}: {type(error).__name__}") from None
    return value if isinstance(value, dict) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
