"""Plans that measure: as documents whose integers are calibrated, and with tiny bases and rows for torch.

Guarantees: as ``plans`` and ``torch_world``: the same arguments give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from authoring.draft import build_draft
from participant.training.data import task_columns
from participant.training.measuring.trainer import MeasuringTrainer
from privacy import canonical
from privacy.dp.calibration import calibrate
from privacy.dp.signal import Setting
from privacy.draft import PrivacyTarget, Recipe
from privacy.interfaces import RandomSource
from privacy.measure_parts import Measurement, lengths, norm_bound
from privacy.plan import Plan, default_survivors
from tests.worlds import task_world
from tests.worlds.plans import plan_document
from tests.worlds.torch_world import (
    LABELS,
    ROWS,
    World,
    adapter_text,
    image_base,
    image_rows,
    plan_of,
    text_base,
    text_rows,
)

MeasureMode = Literal["distributed", "local", "none"]
EVERYTHING: Final = ("accuracy", "confusion", "histogram", "loss")
UNITS: Final = 100  # of each member of a document


def measuring_recipe(
    metrics: Sequence[str] = ("accuracy",), *, loss_clip: str = "0", bins: Sequence[str] = (), **changes: Any
) -> dict[str, Any]:
    """Return the recipe of the tests' plan as one that measures, valid or not."""
    recipe: Any = plan_document()["recipe"]
    upload: dict[str, Any] = {"kind": "measurement", "metrics": list(metrics)}
    upload |= {"loss_clip": loss_clip} if loss_clip != "0" else {}
    upload |= {"bins": list(bins)} if bins else {}
    recipe |= {"task": changes.pop("task", recipe["task"])}
    named = [*(("count",) if {"accuracy", "loss"} & set(metrics) else ()), *metrics]
    labels = len(recipe["task"].get("labels", ()))
    sizes = {"confusion": labels**2, "histogram": len(bins) + 1 if bins else labels}
    sums = [{"name": name, "length": max(1, sizes.get(name, 1))} for name in named]
    recipe |= {
        "upload": upload,
        "turns": [{"trains": [], "sums": sums}],
        "optimizer": {**recipe["optimizer"], "name": "none"},
        "training": {**recipe["training"], "learning_rate": "0", "head_learning_rate": "0"},
        "rounds": 1,
    }
    return {**recipe, **changes}


def measuring_plan(
    metrics: Sequence[str] = ("accuracy",),
    mode: MeasureMode = "distributed",
    *,
    n: int = 5,
    f: int = 1,
    sampling_rate: str = "1",
    recipe: Mapping[str, Any] | None = None,
    **measured: Any,
) -> Plan:
    """Return a plan that measures, calibrated for epsilon 8 as ``run create`` would."""
    document = plan_document(n=n, f=f, mode=mode, recipe=None)
    document["recipe"] = dict(recipe) if recipe else measuring_recipe(metrics, **measured)
    known = Recipe.model_validate_json(canonical.encode(document["recipe"]))
    noised = mode != "none"
    target = PrivacyTarget(
        mode=mode,
        unit="example" if noised else "none",
        epsilon="8" if noised else "0",
        delta="0.00001" if noised else "0",
        sampling_rate=sampling_rate,
        local_steps=1,
        clip_norm=norm_bound(known.turns[0].sums),
        update_bound="8",
    )
    bare: Any = plan_document(n=n, f=f)
    setting = Setting.of(
        known, Plan.from_bytes(canonical.encode(bare)).roster, f=f, min_survivors=default_survivors(n, f)
    )
    privacy, encoding = calibrate(target, setting)
    document |= {"privacy": privacy.model_dump(mode="json"), "encoding": encoding.model_dump(mode="json")}
    return Plan.from_bytes(canonical.encode(document))


def changed(plan: Plan, **changes: Any) -> Plan:
    """Return a plan with some fields replaced, a mapping merged into its field; checked anew.

    Raises:
        PlanError: the change breaks a rule.
    """
    document: Any = json.loads(plan.to_bytes())
    for field, value in changes.items():
        document[field] = {**document[field], **value} if isinstance(value, Mapping) else value
    return Plan.from_bytes(canonical.encode(document))


# --- with torch ---


def measure_text(
    kind: str = "image",
    metrics: Sequence[str] = EVERYTHING,
    *,
    mode: MeasureMode = "distributed",
    method: str = "ffa-lora",
    measure: str = "",
    **privacy: Any,
) -> str:
    """Return the recipe of a tiny measurement.

    Args:
        kind: image or text.
        metrics: that are measured.
        mode: of privacy.
        method: of the adapter.
        measure: more lines of ``[measure]``.
        privacy: more keys of its section.
    """
    noised = {"epsilon": 8, "delta": 1e-5} if mode != "none" else {}
    section = _lines({"mode": mode, **noised, **privacy})
    task = (
        'input_column = "image"\nimage_scale = 255\nimage_mean = 0.5\nimage_std = 0.5\n'
        if kind == "image"
        else 'input_column = "text"\nmax_length = 8\n'
    )
    clip = "loss_clip = 4\n" if "loss" in metrics else ""
    return f"""
title = "Tiny measurement"
purpose = "A tiny measurement for tests"
method = "{method}"

[base]
name = "tiny-{kind}"
path = "base"

[task]
kind = "{kind}-classification"
data = "rows"
labels = {json.dumps(LABELS)}
{task}
[adapter]
{adapter_text(method, kind)}head_modules = ["classifier"]
seed = 7

[measure]
metrics = {json.dumps(list(metrics))}
micro_batch = 8
{clip}{measure}

[privacy]
{section}
"""


def measuring_world(directory: Path, kind: str = "image", *, units: int = ROWS, n: int = 3, **recipe: Any) -> World:
    """Write everything that measuring needs."""
    (image_base if kind == "image" else text_base)(directory / "base")
    dataset = image_rows(directory / "rows.npz") if kind == "image" else text_rows(directory / "rows.jsonl")
    (directory / "recipe.toml").write_text(measure_text(kind, **recipe))
    draft = build_draft(directory / "recipe.toml", directory / "draft", self_check=False)
    user = None if kind == "image" else "person"
    return World(
        directory, plan_of(draft, n=n, units=units), dataset, task_columns(draft.recipe.task, user_column=user)
    )


def task_measuring_world(
    directory: Path, name: str, metrics: Sequence[str], *, measure: str = "", mode: MeasureMode = "none"
) -> World:
    """Write everything that measuring needs for a kind of task of ``task_world``."""
    case = task_world.CASES[name]
    case.base(directory / "base")
    adapter = adapter_text("fedit", "image" if case.targets[0] == "q_proj" else "text", targets=case.targets)
    clip = "loss_clip = 4\n" if "loss" in metrics else ""
    noised = "epsilon = 8\ndelta = 1e-5\n" if mode != "none" else ""
    (directory / "recipe.toml").write_text(f"""
title = "Tiny measurement"
purpose = "A tiny measurement for tests"
method = "fedit"

[base]
name = "tiny-{case.kind}-{case.task.get("form", "")}-{case.targets[0]}"
path = "base"

[task]
kind = "{case.kind}"
data = "rows"
max_length = {case.length}
{_lines(case.task)}
[adapter]
{adapter}head_modules = {json.dumps(case.head)}
seed = 7

[measure]
metrics = {json.dumps(list(metrics))}
micro_batch = 8
{clip}{measure}

[privacy]
mode = "{mode}"
{noised}""")
    draft = build_draft(directory / "recipe.toml", directory / "draft", self_check=False)
    rows = task_world.write_rows(directory / "rows.jsonl", case)
    return World(directory, plan_of(draft), rows, task_columns(draft.recipe.task, user_column="person"))


def measurer(world: World, random: RandomSource, **changes: Any) -> MeasuringTrainer:
    """Return a trainer of a measurement that was prepared."""
    trainer = MeasuringTrainer(world.materials(**changes), random)
    trainer.prepare()
    return trainer


def streams(measured: Measurement, recipe: Recipe) -> dict[str, slice]:
    """Return where each stream of a measurement lies in its vector."""
    found, start = {}, 0
    for name, length in lengths(measured, recipe.task):
        found[name] = slice(start, start := start + length)
    return found


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
