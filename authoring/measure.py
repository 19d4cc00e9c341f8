"""A recipe that measures: ``[measure]`` in place of ``[training]`` and ``[optimizer]``, and the adapter it is about.

Guarantees: what trains has no place in it, and is refused by name; the values of a released adapter are taken from
its folder unchanged, tensor by tensor.
Leaves to others: the base and the manifest (``authoring.draft``), whether a folder's adapter answers as PEFT would let
it (``participant.training.trial``).

The format; where a line has a value in its comment, that is the default and the line may be left out. ``[base]``,
``[task]``, ``[adapter]`` and ``[notice]`` are those of a recipe that trains (``authoring.recipe``)::

    title = "How well the digits are read"
    purpose = "Measure the released adapter on every owner's own rows"
    method = "ffa-lora"              # of the adapter

    [measure]
    metrics = ["accuracy", "confusion"]    # also "loss", "histogram"
    adapter = "result/adapter"       # the initial adapter of the method, which leaves the base as it is
    loss_clip = 5                    # of metric loss, and needed there: where a row's loss is cut off
    bins = [0, 0.5, 1]               # of metric histogram over numbers: edges, ascending
    micro_batch = 64                 # 64

    [privacy]
    mode = "distributed"             # local, none
    unit = "example"                 # or "user"
    epsilon = 1
    delta = 1e-5
    sampling_rate = 1                # 1: every row
    max_rows_per_user = 0            # for the user unit
    upload_after_ms = 0
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from authoring.recipe import (
    AdapterSection,
    BaseSection,
    NoticeSection,
    Number,
    PrivacySection,
    RecipeFile,
    TaskSection,
    decimal_text,
    privacy_problems,
    read_recipe,
    refuse_first,
    task_problems,
)
from host import configuration
from host.settings import Section, parse
from privacy.adapter_parts import Adapter, StateStream, Stream, Turn
from privacy.draft import BaseReference, Draft, Notice, Optimizer, PrivacyTarget, Recipe, Training
from privacy.errors import LocalError
from privacy.measure_parts import Edge, Measurement, MeasureName, lengths, norm_bound, require_task
from privacy.plan_parts import ATTEMPTS, Attempts, MicroBatch, Mode, Paragraphs, Positive, Text
from privacy.task_parts import Task

ADAPTER_FILE: Final = "adapter_model.safetensors"
NOTHING_PUBLIC: Final = "none"  # as the name of public data: nothing of it is read
TRAINS: Final[tuple[str, ...]] = ("training", "optimizer")  # sections
FIXED: Final = ("local_steps", "clip_norm", "update_bound", "bands")  # keys of [privacy] that follow from the metrics


class MeasureSection(Section):
    """``[measure]``: which metrics, of which adapter."""

    metrics: Annotated[tuple[MeasureName, ...], Field(min_length=1)]
    adapter: str | None = None
    loss_clip: Number = "0"
    bins: tuple[Annotated[Edge, BeforeValidator(decimal_text)], ...] = ()
    micro_batch: MicroBatch = 64


class MeasurePrivacy(PrivacySection):
    """``[privacy]``: as of a recipe that trains; every row counts unless it says otherwise."""

    mode: Mode
    delta: Number = "0"
    sampling_rate: Number = "1"
    local_steps: Positive = 1


class MeasureFile(Section):
    """The whole of a ``recipe.toml`` that measures."""

    title: Text
    purpose: Paragraphs
    method: str
    base: BaseSection
    task: TaskSection
    adapter: AdapterSection
    measure: MeasureSection
    privacy: MeasurePrivacy
    notice: NoticeSection = NoticeSection()
    suite: Literal[1, 2] = 1
    max_attempts: Attempts = ATTEMPTS


def read_any(path: Path) -> RecipeFile | MeasureFile:
    """Parse ``recipe.toml``: with ``[measure]`` it measures, without it trains.

    Raises:
        LocalError: as :func:`authoring.recipe.read_recipe`.
    """
    if not path.exists():
        raise LocalError("E-NOT-FOUND", f"there is no recipe {path}")
    text = configuration.read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LocalError("E-CONFIG-INVALID", f"{path.name}: {error}") from None
    if "measure" not in values:
        return read_recipe(path)
    for key, why in _out_of_place(values).items():
        raise LocalError("E-CONFIG-INVALID", f"{path.name}: {key}: {why}")
    found = parse(text, MeasureFile, file=path.name)
    of_a_run = {  # what it measures was trained by a recipe whose task it repeats
        "task.kind: a measurement names it": found.task.kind is None,
        "task.max_length: text needs a length in tokens": found.task.kind != "image-classification"
        and found.task.max_length is None,
    }
    refuse_first(path.name, {**of_a_run, **task_problems(found.task), **privacy_problems(found.privacy)})
    return found


def _out_of_place(values: dict[str, Any]) -> dict[str, str]:
    """Return the keys that a recipe with ``[measure]`` must not have, each with the reason."""
    privacy = values.get("privacy")
    given = privacy.keys() if isinstance(privacy, dict) else ()
    found: dict[str, str] = {
        section: "a recipe with [measure] trains nothing; leave it out" for section in TRAINS if section in values
    }
    found |= {f"privacy.{key}": "it follows from the metrics; leave it out" for key in FIXED if key in given}
    if "rounds" in values:
        found["rounds"] = "a measurement has one round; leave it out"
    if "evaluation" in values:
        found["evaluation"] = "a measurement is of the owners' own data; leave it out"
    if isinstance(privacy, dict) and privacy.get("mode") == "distributed-participant":
        found["privacy.mode"] = "a measurement is in mode distributed, local or none"
    return found


def measurement_of(section: MeasureSection, task: Task) -> Measurement:
    """Return what a recipe measures.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: the task has no such metric.
    """
    metrics = tuple(sorted(section.metrics))
    measured = Measurement(metrics=metrics, loss_clip=section.loss_clip, bins=section.bins)
    try:
        require_task(measured, task)
    except ValueError as error:
        raise LocalError("E-CONFIG-INVALID", f"measure.metrics: {error}") from None
    return measured


def measuring_draft(
    wanted: MeasureFile, base: BaseReference, task: Task, adapter: Adapter, state: tuple[StateStream, ...]
) -> Draft:
    """Return the draft of a recipe that measures.

    Args:
        wanted: the recipe.
        base: it names.
        task: it describes.
        adapter: that is measured.
        state: the method's, of that adapter.

    Raises:
        LocalError: as :func:`measurement_of`.
    """
    measured = measurement_of(wanted.measure, task)
    streams = tuple(Stream(name=name, length=length) for name, length in lengths(measured, task))
    recipe = Recipe(
        title=wanted.title,
        purpose=wanted.purpose,
        base=base,
        adapter=adapter,
        notice=Notice(**wanted.notice.model_dump()),
        state=state,
        turns=(Turn(trains=(), sums=streams),),
        upload=measured,
        task=task,
        optimizer=Optimizer(name="none"),
        training=Training(learning_rate="0", head_learning_rate="0", micro_batch=wanted.measure.micro_batch),
        rounds=1,
    )
    target = {"unit": wanted.privacy.unit_of_privacy, "clip_norm": norm_bound(streams), "bands": (1,)}
    return Draft(
        recipe=recipe,
        privacy=PrivacyTarget(**wanted.privacy.model_dump() | target),
        evaluation_data=NOTHING_PUBLIC,
        suite=wanted.suite,
        max_attempts=wanted.max_attempts,
    )


def with_values_of(folder: Path, adapter: Adapter) -> tuple[Adapter, bytes]:
    """Return an adapter with the values of a folder in PEFT's format, as a run exports it: description and safetensors.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-CONFIG-INVALID``: it is another adapter than the recipe describes.
    """
    path = folder / ADAPTER_FILE
    try:
        found = load(path.read_bytes())
    except OSError:
        raise LocalError("E-NOT-FOUND", f"measure.adapter: {folder} has no {ADAPTER_FILE}") from None
    except (SafetensorError, TypeError, ValueError):  # or of a type that numpy does not know
        raise LocalError("E-CONFIG-INVALID", f"measure.adapter: {path.name} is no safetensors file of floats") from None
    wanted = {tensor.key: tensor.shape for tensor in adapter.tensors}
    for key in sorted(wanted.keys() | found.keys()):
        shape = found[key].shape if key in found else None
        if wanted.get(key) != shape:
            there, here = ("none" if one is None else str(list(one)) for one in (shape, wanted.get(key)))
            rule = f"{key} is {there} in the folder and {here} by the recipe; compare method and [adapter] with its run"
            raise LocalError("E-CONFIG-INVALID", f"measure.adapter: {rule}")
    values: dict[str, NDArray[np.float32]] = {key: np.ascontiguousarray(found[key], np.float32) for key in wanted}
    data = save(values)
    return adapter.model_copy(update={"initial_hash": hashlib.sha256(data).hexdigest()}), data


def folder_of(recipe: Path, given: str) -> Path:
    """Return a folder that a recipe names, relative to its file."""
    return (recipe.parent / os.path.expanduser(given)).resolve()  # noqa: PTH111  see ``draft.build_draft``
