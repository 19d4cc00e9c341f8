"""An adapter merged into its base: one model, which programs load without PEFT.

Guarantees: what is written gives the answers that the base gives with the adapter, on synthetic rows, or nothing is
written; weights are written in the precision that the base has. Card, labels and tokenizer travel along.
Leaves to others: whose the base is (the folder is taken as it is), and what the adapter cost, which merging leaves.
Source: PEFT 0.21 ``merge_and_unload``.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Final

import torch
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from pydantic import TypeAdapter, ValidationError

from host import durable
from participant.training.examples import synthetic_examples
from participant.training.models import load_checked
from participant.training.tasks.kinds import work_of
from participant.training.tuners.bottleneck import NOT_MERGED, BottleneckModel
from privacy.errors import LocalError
from privacy.task_parts import Task

TASK_FILE: Final = "task.json"  # beside a released adapter
CARD: Final = "README.md"
ROWS: Final = 4  # synthetic ones, on which answers are compared
TOLERANCE: Final = 1e-4  # relative to the largest answer
NARROW_TOLERANCE: Final = 5e-2  # of weights that were rounded to 8 or 11 bits
WEIGHTS: Final = (".safetensors", ".safetensors.index.json")  # ends of the base's files that are written anew


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write a base with an adapter merged into its weights.

    Args:
        base: folder of the base model.
        adapter: folder that a run exported.
        out: the folder to make.

    Raises:
        LocalError: ``E-NOT-FOUND`` or ``E-EXISTS``; ``E-METHOD-REFUSED``, no weights can hold it; ``E-MODEL-*``;
            ``E-SELF-CHECK``, the merged model answers differently.
    """
    if out.exists():
        raise LocalError("E-EXISTS", str(out))
    task = _task(adapter)
    work = work_of(task)
    loaded, _ = load_checked(base, base.name, task, seed=0, weights="float32")  # sums are rounded once, at the end
    model = _with_adapter(loaded.model, adapter)
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        rule = (
            f"{kind} puts learned vectors before the inputs, and no weight of the base can hold them; load it with PEFT"
        )
        raise LocalError("E-METHOD-REFUSED", rule)
    if isinstance(model.base_model, BottleneckModel):
        raise LocalError("E-METHOD-REFUSED", f"BOTTLENECK: {NOT_MERGED}; load it with PEFT, as its card says")
    inputs, precision = dict(synthetic_examples(loaded, task, ROWS).inputs), _precision(base)
    with torch.no_grad():
        expected = work.answers(model, inputs)
    merged = model.merge_and_unload(safe_merge=True).eval()
    _unwrap(merged)
    with durable.new_directory(out) as directory:
        merged.to(precision).save_pretrained(directory)
        for path in base.iterdir():
            if path.is_file() and not (directory / path.name).exists() and not path.name.endswith(WEIGHTS):
                shutil.copyfile(path, directory / path.name)
        shutil.copyfile(adapter / TASK_FILE, directory / TASK_FILE)
        if (adapter / CARD).is_file():
            (directory / CARD).write_text(_card((adapter / CARD).read_text(encoding="utf-8")), encoding="utf-8")
        written, _ = load_checked(directory, out.name, task, seed=0)
        with torch.no_grad():
            answers = work.answers(written.model, inputs)
        tolerance = TOLERANCE if precision == torch.float32 else NARROW_TOLERANCE
        if not (answers - expected).abs().max() <= tolerance * expected.abs().max():
            raise LocalError("E-SELF-CHECK", "merging: the merged model answers differently")


def _task(adapter: Path) -> Task:
    try:
        task: Task = TypeAdapter(Task).validate_json((adapter / TASK_FILE).read_bytes())
    except FileNotFoundError:
        raise LocalError("E-NOT-FOUND", f"{adapter} has no {TASK_FILE}; give the folder that a run exported") from None
    except (OSError, ValidationError):
        raise LocalError(
            "E-NOT-FOUND", f"{adapter / TASK_FILE} does not parse; give the folder as it was exported"
        ) from None
    return task


def _with_adapter(model: torch.nn.Module, adapter: Path) -> PeftModel:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice on names does not concern a model that is merged at once
            return PeftModel.from_pretrained(model, str(adapter)).eval()
    except Exception as error:  # noqa: BLE001  no list of what PEFT raises is complete; an adapter is nobody's data
        words = (str(error).splitlines() or [""])[0][:200]
        raise LocalError("E-MODEL-LOAD", f"{adapter.name}: {type(error).__name__}: {words}") from None


def _unwrap(model: torch.nn.Module) -> None:
    """Put modules that an adapter has whole in the place of the base's own, where PEFT's merging left both."""
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[str(module.active_adapter)])


def _precision(base: Path) -> torch.dtype:
    """Return the type of weights that a base names; float32 where it names none."""
    values = json.loads((base / "config.json").read_bytes())
    found = getattr(torch, str(values.get("dtype", values.get("torch_dtype", "float32"))), torch.float32)
    return found if isinstance(found, torch.dtype) else torch.float32


def _card(text: str) -> str:
    """Return an adapter's card as that of the merged model: what is claimed stays, since merging reads no data."""
    kept = text.replace("library_name: peft", "library_name: transformers", 1).split("\n## Use\n")[0]
    return (
        f"{kept}\n## Use\n\nThe adapter is merged into the weights: transformers load this folder as any model. "
        f"`{TASK_FILE}` has the labels in the order of the answers, and the preprocessing.\n"
    )
