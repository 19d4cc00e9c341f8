"""From a researcher's recipe to a draft: hashes of the base, the initial adapter, the manifest and the vector layout.

Guarantees: the initial adapter is a function of the base's bytes and the recipe's seed, so it can be made again; it
leaves the base's answers unchanged (B = 0) and depends on nobody's data; a mode that the method refuses is refused; the
self-check that each owner runs has passed here.
Leaves to others: roster, thresholds and the noise's integers (``coordinator run create``); what a recipe
may say (``authoring.recipe``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

import methods
from authoring.defaults import Choice
from authoring.filling import with_base, with_numbers
from authoring.measure import MeasureFile, folder_of, measuring_draft, read_any, with_values_of
from authoring.pooling import compare_pooling
from authoring.preprocessing import compare_preprocessing
from authoring.recipe import AdapterSection, OptimizerSection, RecipeFile, TrainingSection
from host import durable
from methods.layout import Sizes, schedule_of
from methods.method import Method
from participant.training.adapters.adapted import config_json, named_tensors, wrap
from participant.training.adapters.kinds import start
from participant.training.bases.checks import check_forward, check_length, check_room
from participant.training.bases.targets import check_targets, check_untied
from participant.training.examples import synthetic_examples
from participant.training.models import architecture, hash_model, label_names, load_base
from participant.training.rows.cells import name_text
from participant.training.trial import TRIAL_ROWS, try_recipe, try_released
from privacy.adapter_parts import Adapter, Tensor
from privacy.dp.bands import chosen
from privacy.dp.calibration import assumed, best_bands
from privacy.draft import (
    BaseReference,
    Draft,
    Notice,
    Optimizer,
    PrivacyTarget,
    Recipe,
    StreamRate,
    Training,
)
from privacy.errors import LocalError
from privacy.plan_parts import PlanModel, first_problem
from privacy.task_parts import ImageClassification, Task

DRAFT_FILE: Final = "draft.json"
INITIAL_FILE: Final = "initial_adapter.safetensors"
CONFIG_FILE: Final = "adapter_config.json"
_TASKS: Final[dict[str, Any]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Task)[0])}
_NO_HASH: Final = "0" * 64  # stands in while the adapter that is hashed is being made


@dataclass(frozen=True, slots=True)
class InitialAdapter:
    """All tensors that everybody starts from, PEFT's configuration, and the plan's description of both."""

    description: Adapter
    tensors: bytes  # safetensors
    config: str  # adapter_config.json


def build_draft(
    recipe: Path,
    out: Path,
    *,
    warn: Callable[[str], None] = lambda _: None,
    chose: Callable[[Choice], None] = lambda _: None,
    self_check: bool = True,
) -> Draft:
    """Read a recipe and write a draft directory: ``draft.json``, the initial adapter and PEFT's configuration.

    Args:
        recipe: ``recipe.toml``.
        out: the directory to make.
        warn: is given what of the base's own preprocessing the recipe does not follow, and where noise is larger than
            the signal.
        chose: is given each value that the recipe leaves out.
        self_check: whether to run the check that each owner's daemon runs; not needed where that follows at once.

    Raises:
        LocalError: ``E-CONFIG-*``, ``E-EXISTS``, ``E-METHOD-*``, ``E-MODEL-*`` or ``E-SELF-CHECK``.
    """
    if out.exists():
        raise LocalError("E-EXISTS", str(out))
    wanted = read_any(recipe)
    method = methods.get(wanted.method)
    if isinstance(wanted, RecipeFile):
        method.require_mode(wanted.privacy.mode)
    require_distinct(wanted.task.labels or ())
    folder = (recipe.parent / os.path.expanduser(wanted.base.path)).resolve()  # noqa: PTH111  see ``resolve_base``
    try:
        files = hash_model(folder)
        wanted, of_base = with_base(wanted, folder)
        base = BaseReference(name=str(wanted.base.name), architecture=architecture(folder), files=files)
        task: Task = fitting(_TASKS[str(wanted.task.kind)], "task", wanted.task.model_dump())
        method.require_task(task)
        require_order(folder, wanted.task.labels or ())
        for difference in (*compare_preprocessing(folder, wanted.task), *compare_pooling(folder, wanted.task)):
            warn(difference)
        adapter = make_adapter(method, wanted.adapter or AdapterSection(), folder, base, task)
        chosen, measured = of_base, wanted.measure.adapter if isinstance(wanted, MeasureFile) else None
        if isinstance(wanted, MeasureFile):
            if measured is not None:
                there = folder_of(recipe, measured)
                description, tensors = with_values_of(there, adapter.description)
                adapter = replace(adapter, description=description, tensors=tensors)
        else:
            wanted, of_rule, strength = with_numbers(wanted, method.state(adapter.description.tensors))
            chosen = (*of_base, *of_rule)
            if warning := strength.warning():
                warn(warning)
        for choice in chosen:
            chose(choice)
        draft = _draft(wanted, method, base, task, adapter.description)
        methods.require_sound(draft.recipe, draft.privacy.mode, draft.privacy.bands)
    except ValidationError as error:
        where, expected, _ = first_problem(error, "recipe")
        raise LocalError("E-CONFIG-INVALID", f"{recipe.name}: {where}: {expected}") from None
    with durable.new_directory(out) as directory:
        (directory / INITIAL_FILE).write_bytes(adapter.tensors)
        (directory / CONFIG_FILE).write_text(adapter.config)
        (directory / DRAFT_FILE).write_bytes(draft.to_bytes())
        if self_check:
            privacy = assumed(draft.privacy, clipped=draft.recipe.clipped_entries)
            try_recipe(draft.recipe, privacy, folder, directory / INITIAL_FILE)
        if measured is not None:
            try_released(draft.recipe, folder, directory / INITIAL_FILE, folder_of(recipe, measured))
    return draft


def make_adapter(
    method: Method, section: AdapterSection, folder: Path, base: BaseReference, task: Task
) -> InitialAdapter:
    """Make the adapter that round 1 starts from: A at random from the seed, B zero, the head as the base has it.

    Raises:
        LocalError: ``E-MODEL-*``, or ``E-CONFIG-INVALID`` when the base has no such modules.
    """
    options = {key: value for key, value in section.model_dump().items() if key not in Adapter.model_fields}
    heads = section.head_modules or ()
    sketch = Adapter(
        method=method.name,
        options=fitting(method.options, "adapter", options),
        head_modules=heads,
        seed=section.seed,
        initial_hash=_NO_HASH,
        tensors=(Tensor(key="sketch", shape=(1,), stream="frozen"),),
    )
    loaded = load_base(folder, base, task, head_modules=heads, seed=section.seed)
    targets = {
        "target_modules": section.target_modules or (),
        "feedforward_modules": section.feedforward_modules or (),
    }
    check_targets(loaded.model, targets, heads)
    check_untied(loaded.model, (*heads, *(targets["target_modules"] if method.peft_type == "WHOLE" else ())))
    if not isinstance(task, ImageClassification):
        check_length(base.name, loaded.model, task.max_length, section.tokens or 0)
        check_room(base.name, loaded.tokenizer, task.max_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(section.seed)
        model = wrap(loaded.model, sketch)
    start(model, sketch)
    values = {key: _array(tensor) for key, tensor in sorted(named_tensors(model, sketch).items())}
    values |= {key: np.zeros_like(value) for key, value in values.items() if method.part_of(key) == "base"}
    values |= method.beside_model(values)
    _check_heads(heads, values)
    check_forward(base.name, model, synthetic_examples(loaded, task, TRIAL_ROWS).inputs, task, loaded)
    data = save(values)
    manifest = method.manifest({key: value.shape for key, value in values.items()}, sketch)
    method.require_tensors(manifest)
    description = sketch.model_copy(update={"initial_hash": hashlib.sha256(data).hexdigest(), "tensors": manifest})
    return InitialAdapter(description, data, config_json(model, description, base.name))


def require_distinct(labels: Sequence[str]) -> None:
    """Refuse labels that data could not tell apart: ``1`` and ``1.0``, or two forms of one letter.

    Raises:
        LocalError: ``E-CONFIG-INVALID``.
    """
    names = [name_text(label) for label in labels]
    for place, name in enumerate(names):
        if name in names[:place]:
            detail = f"{labels[names.index(name)]} and {labels[place]} are one label where data are read"
            raise LocalError("E-CONFIG-INVALID", f"task.labels: {detail}")


def require_order(folder: Path, labels: Sequence[str]) -> None:
    """Refuse the base's own labels in another order: its head would start with the wrong names.

    Raises:
        LocalError: ``E-CONFIG-INVALID``.
    """
    own, given = ([label.casefold() for label in names] for names in (label_names(folder), labels))
    if sorted(own) == sorted(given) and given != own:
        raise LocalError(
            "E-CONFIG-INVALID", f"task.labels: the base has them in the order {', '.join(label_names(folder))}"
        )


Fitting = TypeVar("Fitting", bound=PlanModel)


def fitting(kind: type[Fitting], section: str, given: Mapping[str, Any]) -> Fitting:
    """Return what a section of a recipe says as the part of a plan of its kind.

    Args:
        kind: a part of plans, which has some of the section's keys and no others.
        section: its name, for the refusal.
        given: the section's values; ``None`` where it says nothing.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: a key that the kind does not have, or one that it needs is missing.
    """
    values = {key: value for key, value in given.items() if value is not None}
    title = next(
        (str(kind.model_fields[name].default) for name in ("peft_type", "kind") if name in kind.model_fields), ""
    )
    if foreign := sorted(values.keys() - kind.model_fields.keys()):
        raise LocalError("E-CONFIG-INVALID", f"{section}.{foreign[0]}: {title} has no such option")
    needed = [name for name, field in kind.model_fields.items() if field.is_required() and name not in values]
    if needed:
        raise LocalError("E-CONFIG-INVALID", f"{section}.{needed[0]}: {title} needs it")
    return kind(**values)


def _sizes(training: TrainingSection) -> Sizes:
    return Sizes(
        mask=None if training.mask is None else float(training.mask),
        sketch=training.sketch,
        opening_rounds=training.opening_rounds,
    )


def _stream_rates(rates: Mapping[str, str]) -> tuple[StreamRate, ...]:
    return tuple(StreamRate(stream=stream, rate=rates[stream]) for stream in sorted(rates))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _check_heads(head_modules: Sequence[str], tensors: Mapping[str, Any]) -> None:
    for module in head_modules:
        if not any(module in key.split(".") for key in tensors):
            raise LocalError("E-CONFIG-INVALID", f"adapter.head_modules: the base has no module {module}")


def _target(wanted: RecipeFile, method: Method) -> PrivacyTarget:
    """Return what privacy is asked for, with integers for its bands.

    Raises:
        LocalError: ``E-METHOD-REFUSED``, the method cannot have several; ``E-PLAN-NOISE``, the target is out of reach.
    """
    privacy, rounds = wanted.privacy, wanted.rounds or 1
    single = PrivacyTarget(**{**privacy.model_dump(), "unit": privacy.unit_of_privacy, "bands": (1,)})
    if privacy.bands != "auto":
        if privacy.bands > 1:
            method.require_one_basis()
        return single.model_copy(update={"bands": chosen(privacy.bands, rounds)})
    try:
        method.require_one_basis()
    except LocalError:  # then one is the best number of them
        return single
    return single.model_copy(update={"bands": best_bands(single, rounds=rounds)})


def _draft(
    wanted: RecipeFile | MeasureFile, method: Method, base: BaseReference, task: Task, adapter: Adapter
) -> Draft:
    state = method.state(adapter.tensors)
    if isinstance(wanted, MeasureFile):
        return measuring_draft(wanted, base, task, adapter, state)
    rounds = wanted.rounds or 1
    training, optimizer = wanted.training, wanted.optimizer or OptimizerSection()
    rate = training.learning_rate or "1"
    upload = method.upload_of(state, _sizes(wanted.training), adapter.tensors)
    recipe = Recipe(
        title=wanted.title or "",
        purpose=wanted.purpose,
        base=base,
        adapter=adapter,
        notice=Notice(**wanted.notice.model_dump()),
        state=state,
        turns=method.turns_of(state, upload, adapter.tensors),
        schedule=schedule_of(method, training.opening_rounds or 0, rounds),
        upload=upload,
        counts=method.counts,
        task=task,
        optimizer=Optimizer(**{**optimizer.model_dump(), "stream_rates": _stream_rates(optimizer.stream_rates)}),
        training=Training(
            learning_rate=rate,
            head_learning_rate=training.head_learning_rate or rate,
            stream_rates=_stream_rates(training.stream_rates),
            micro_batch=training.micro_batch,
            proximal=training.proximal,
        ),
        rounds=rounds,
    )
    return Draft(
        recipe=recipe,
        privacy=_target(wanted, method),
        evaluation_data=wanted.evaluation.data,
        evaluate_every=wanted.evaluation.every,
        suite=wanted.suite,
        max_attempts=wanted.max_attempts,
    )
