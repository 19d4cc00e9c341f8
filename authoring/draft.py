"""From a researcher's recipe to a draft: hashes of the base, the initial adapter, the manifest and the vector layout.

Guarantees: the initial adapter is a function of the base's bytes and the recipe's seed, so it can be made again; it
leaves the base's answers unchanged (B = 0) and depends on nobody's data; a mode that the method refuses is refused.
Leaves to others: roster, thresholds and the noise's integers (``coordinator run create``); what a recipe
may say (``authoring.recipe``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

import methods
from authoring.recipe import AdapterSection, RecipeFile, read_recipe
from host import durable
from methods.method import Method
from participant.training.adapters.adapted import config_json, lora_config, named_tensors, wrap
from participant.training.models import architecture, hash_model, load_base
from privacy.draft import Adapter, BaseReference, Draft, Optimizer, PrivacyTarget, Recipe, Task, Tensor, Training
from privacy.errors import LocalError

DRAFT_FILE: Final = "draft.json"
INITIAL_FILE: Final = "initial_adapter.safetensors"
CONFIG_FILE: Final = "adapter_config.json"
_NO_HASH: Final = "0" * 64  # stands in while the adapter that is hashed is being made


@dataclass(frozen=True, slots=True)
class InitialAdapter:
    """All tensors that everybody starts from, PEFT's configuration, and the plan's description of both."""

    description: Adapter
    tensors: bytes  # safetensors
    config: str  # adapter_config.json


def build_draft(recipe: Path, out: Path) -> Draft:
    """Read a recipe and write a draft directory: ``draft.json``, the initial adapter and PEFT's configuration.

    Raises:
        LocalError: ``E-CONFIG-*``, ``E-EXISTS``, ``E-METHOD-*`` or ``E-MODEL-*``.
    """
    if out.exists():
        raise LocalError("E-EXISTS", str(out))
    wanted = read_recipe(recipe)
    method = methods.get(wanted.method)
    method.require_mode(wanted.privacy.mode)
    folder = (recipe.parent / Path(wanted.base.path).expanduser()).resolve()
    try:
        base = BaseReference(name=wanted.base.name, architecture=architecture(folder), files=hash_model(folder))
        task = Task(**wanted.task.model_dump())
        adapter = make_adapter(method, wanted.adapter, folder, base, task)
        draft = _draft(wanted, method, base, task, adapter.description)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LocalError("E-CONFIG-INVALID", f"{recipe.name}: {where}: {first['msg']}") from None
    with durable.new_directory(out) as directory:
        (directory / INITIAL_FILE).write_bytes(adapter.tensors)
        (directory / CONFIG_FILE).write_text(adapter.config)
        (directory / DRAFT_FILE).write_bytes(draft.to_bytes())
    return draft


def make_adapter(
    method: Method, section: AdapterSection, folder: Path, base: BaseReference, task: Task
) -> InitialAdapter:
    """Make the adapter that round 1 starts from: A at random from the seed, B zero, the head as the base has it.

    Raises:
        LocalError: ``E-MODEL-*``, or ``E-CONFIG-INVALID`` when the base has no such modules.
    """
    sketch = Adapter(
        method=method.name,
        peft_type=method.peft_type,
        **section.model_dump(),
        initial_hash=_NO_HASH,
        tensors=(Tensor(key="sketch", shape=(1,), stream="frozen"),),
    )
    loaded = load_base(folder, base, task, head_modules=section.head_modules, seed=section.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(section.seed)
        model = wrap(loaded.model, lora_config(sketch))
    values = {key: _array(tensor) for key, tensor in sorted(named_tensors(model).items())}
    _check_heads(section.head_modules, values)
    data = save(values)
    manifest = method.manifest({key: value.shape for key, value in values.items()})
    description = sketch.model_copy(update={"initial_hash": hashlib.sha256(data).hexdigest(), "tensors": manifest})
    return InitialAdapter(description, data, config_json(model, base.name))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(np.float32))


def _check_heads(head_modules: Sequence[str], tensors: Mapping[str, Any]) -> None:
    for module in head_modules:
        if not any(module in key.split(".") for key in tensors):
            raise LocalError("E-CONFIG-INVALID", f"adapter.head_modules: the base has no module {module}")


def _draft(wanted: RecipeFile, method: Method, base: BaseReference, task: Task, adapter: Adapter) -> Draft:
    rate = wanted.training.learning_rate
    recipe = Recipe(
        title=wanted.title,
        purpose=wanted.purpose,
        base=base,
        adapter=adapter,
        layout=method.layout(adapter.tensors),
        task=task,
        optimizer=Optimizer(**wanted.optimizer.model_dump()),
        training=Training(
            learning_rate=rate,
            head_learning_rate=wanted.training.head_learning_rate or rate,
            micro_batch=wanted.training.micro_batch,
        ),
        rounds=wanted.rounds,
    )
    return Draft(
        recipe=recipe,
        privacy=PrivacyTarget(**{**wanted.privacy.model_dump(), "unit": wanted.privacy.unit_of_privacy}),
        evaluation_data=wanted.evaluation.data,
        evaluate_every=wanted.evaluation.every,
        suite=wanted.suite,
        max_attempts=wanted.max_attempts,
    )
