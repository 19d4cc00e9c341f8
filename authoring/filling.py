"""A recipe filled in: what the base's files say, then what the rule says.

Guarantees: nothing that a recipe says is changed; each value that was chosen comes with its reason.
Leaves to others: the rule (``authoring.defaults``), whether base and values fit (``authoring.draft``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import methods
from authoring import defaults
from authoring.defaults import Choice, Setting, Strength
from authoring.measure import MeasureFile
from authoring.pooling import MODULES, pooling_of
from authoring.preprocessing import chosen_normalisation
from authoring.recipe import AdapterSection, OptimizerSection, RecipeFile
from methods.method import Method
from participant.training.adapters.configurations import OF_ATTENTION
from participant.training.bases.outline import Outline, outline
from participant.training.models import architecture
from participant.training.tasks.pooling import loader_for
from privacy.adapter_parts import StateStream
from privacy.draft import HEAD_STREAM
from privacy.errors import LocalError

LONGEST: Final = 128  # tokens of a text
SPARE_POSITIONS: Final = 2  # RoBERTa counts on from its padding
ATTENTION: Final = (  # modules that are adapted, by the names that families of bases have for them
    ("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"), ("q", "v"), ("query_proj", "value_proj"),
    ("c_attn",), ("query_key_value",), ("qkv_proj",), ("Wqkv",), ("qkv",), ("in_proj",),
)  # fmt: skip
# Modules that end a feed-forward part or an attention, likewise; some families have one name for both.
FEED_FORWARD: Final = (
    "down_proj", "fc2", "output.dense", "lin2", "ffn_output", "Wo", "c_proj", "wo", "dense_4h_to_h", "fc_out",
    "layer_2",
)  # fmt: skip
ATTENTION_OUTPUT: Final = (
    "o_proj", "out_proj", "attention.output.dense", "out_lin", "attention.dense", "self_attention.dense",
    "self_attn.dense", "Wo", "c_proj", "o",
)  # fmt: skip
SIZES: Final[dict[str, Any]] = {
    "rank": 4, "alpha": "16", "heads": 4, "target_rank": 2, "tokens": 8, "hidden_size": 64, "block_size": 8,
    "bottleneck_dim": 8,
}  # fmt: skip
UPPER: Final = 6  # of so many layers one is adapted, from the top
POOLED: Final = frozenset({"text-classification", "multi-label", "regression"})
HEADED: Final = frozenset({*POOLED, "image-classification", "token-classification"})
LOADERS: Final = {
    "image-classification": "AutoModelForImageClassification",
    "token-classification": "AutoModelForTokenClassification",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sentence-embedding": "AutoModel",
}
Written = TypeVar("Written", bound=RecipeFile | MeasureFile)
_FAMILY: Final = "of the attention, as the base names them"
_FEED_FORWARD: Final = "behind the feed-forward parts, as the base names them"
_BOTH: Final = "behind attention and feed-forward parts, as the base names them"


def with_base(recipe: Written, folder: Path) -> tuple[Written, tuple[Choice, ...]]:
    """Return a recipe with name, task and adapter filled in, and what was chosen.

    Args:
        recipe: as it is written.
        folder: of the base.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, the base does not say what is missing; ``E-MODEL-LOAD``.
    """
    chosen: list[Choice] = []
    name = recipe.base.name or re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower()).strip("-._")[:63] or "base"
    if recipe.base.name is None:
        chosen.append(Choice("base.name", name, "the folder's"))
    title = recipe.title or f"{recipe.task.data} on {name}"
    if recipe.title is None:
        chosen.append(Choice("title", title, "data and base"))
    task = list(_task(recipe, folder))
    chosen += task
    filled = recipe.model_copy(
        update={
            "title": title,
            "base": recipe.base.model_copy(update={"name": name}),
            "task": recipe.task.model_copy(update=_keys(task)),
        }
    )
    adapter = list(_adapter(filled, folder))
    chosen += adapter
    section = filled.adapter or AdapterSection()
    whole = filled.model_copy(
        update={"adapter": section.model_copy(update={"head_modules": section.head_modules or (), **_keys(adapter)})}
    )
    return cast("Written", whole), tuple(chosen)


def with_numbers(recipe: RecipeFile, state: Sequence[StateStream]) -> tuple[RecipeFile, tuple[Choice, ...], Strength]:
    """Return a recipe with rounds, sampling, rates and optimizer filled in, what was chosen, and signal over noise.

    Args:
        recipe: filled in by :func:`with_base`.
        state: what its adapter trains.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, rates are missing beside an optimizer of the recipe's own.
    """
    privacy, noised, method = recipe.privacy, recipe.privacy.mode != "none", methods.get(recipe.method)
    sizes, participants, units = _expected(recipe)
    delta = privacy.delta or (defaults.delta_for(units) if noised else "0")
    chosen = [*sizes]
    if privacy.delta is None and noised:
        chosen.append(Choice("privacy.delta", delta, "at most a tenth of one unit's share of the data"))
    head = any(stream.name == HEAD_STREAM for stream in state)
    setting = Setting(
        mode=privacy.mode,
        epsilon=float(privacy.epsilon),
        delta=float(delta),
        participants=participants,
        units=units,
        entries=sum(stream.length for stream in state),
        labels=len(recipe.task.labels or "1") if head else 1,
        head=head,
        alone=head and len(state) == 1,
        mean_only=method.plain_mean,
        averages=not (method.moves_basis or method.plain_mean),
    )
    chosen += defaults.choose(setting, _given(recipe))
    values = {choice.key: choice.value for choice in chosen} | {"privacy.delta": delta}
    filled = _set(recipe, values)
    found = defaults.strength(
        setting,
        rounds=int(filled.rounds or 1),
        local_steps=int(filled.privacy.local_steps or 1),
        rate=float(filled.privacy.sampling_rate or 1),
    )
    return filled, tuple(chosen), found


def _keys(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the values of one section, as its fields have them."""
    return {
        choice.key.partition(".")[2]: tuple(json.loads(str(choice.value))) if _is_list(choice.value) else choice.value
        for choice in choices
    }


def _is_list(value: str | int) -> bool:
    return isinstance(value, str) and value.startswith("[")


def _task(recipe: RecipeFile | MeasureFile, folder: Path) -> Iterator[Choice]:
    """Yield what the base's files say of a task that the recipe is silent on."""
    task, config = recipe.task, _config(folder)
    kind: str | None = task.kind
    if kind is None:
        kind, reason = _kind(config, architecture(folder), labels=task.labels is not None)
        yield Choice("task.kind", kind, reason)
    if kind == "causal-lm" and task.form is None:
        yield Choice("task.form", "text", "the plainest")
    if kind == "image-classification":
        if task.image_scale is None and task.image_mean is None and task.image_std is None:
            for key, value in chosen_normalisation(folder).items():
                yield Choice(f"task.{key}", value, "the base's own")
        return
    if task.max_length is None:
        positions = config.get("max_position_embeddings")
        least = positions - SPARE_POSITIONS if isinstance(positions, int) and positions > SPARE_POSITIONS else LONGEST
        yield Choice("task.max_length", min(LONGEST, least), "tokens; what is longer is cut")
    if kind in POOLED and task.pooling is None and (folder / MODULES).is_file():
        yield Choice("task.pooling", pooling_of(folder), f"as {MODULES} of the base has it")


def _kind(config: Mapping[str, Any], named: str, *, labels: bool) -> tuple[str, str]:
    if labels:
        images = "image_size" in config or "vision_config" in config
        return ("image-classification" if images else "text-classification"), "labels, and what the base reads"
    for end, kind in {"ForCausalLM": "causal-lm", "LMHeadModel": "causal-lm", "ForMaskedLM": "masked-lm"}.items():
        if named.endswith(end):
            return kind, f"no labels, and the base is a {named}"
    raise LocalError("E-CONFIG-INVALID", "task.kind: neither labels nor the base say what is to be learnt; name it")


def _adapter(recipe: RecipeFile | MeasureFile, folder: Path) -> Iterator[Choice]:
    """Yield size and place of the adapter where the recipe is silent."""
    section, method = recipe.adapter or AdapterSection(), methods.get(recipe.method)
    fields = method.options.model_fields
    needed = [name for name, field in fields.items() if field.is_required() and getattr(section, name, None) is None]
    for name in needed:
        if name in SIZES:
            yield Choice(f"adapter.{name}", SIZES[name], "small: noise grows with the number of entries")
    placed = "target_modules" in needed and (_low_rank(method) or _behind(method))
    if not placed and (section.head_modules is not None or recipe.adapter is not None):
        return
    made = outline(folder, _loader(recipe))
    if placed:
        yield from _place(made, method, section)
    if section.head_modules is None and recipe.task.kind in HEADED:
        yield Choice("adapter.head_modules", json.dumps(made.heads), "the task's head trains whole")


def _place(made: Outline, method: Method, section: AdapterSection) -> Iterator[Choice]:
    fields, reason = method.options.model_fields, _FAMILY
    names: tuple[str, ...] = next((names for names in ATTENTION if set(names) <= made.linear), ())
    if _behind(method):
        names = outputs(made, attention=section.placement == "houlsby")
        reason = _BOTH if section.placement == "houlsby" else _FEED_FORWARD
    if not names:
        detail = f"adapter.target_modules: name them; the base has {', '.join(sorted(made.linear))}"
        raise LocalError("E-CONFIG-INVALID", detail)
    yield Choice("adapter.target_modules", json.dumps(names), reason)
    numbers = made.layers(names)
    if "layers" in fields and section.layers is None and len(numbers) > 1:
        upper = numbers[-math.ceil(len(numbers) / UPPER) :]
        yield Choice("adapter.layers", json.dumps(upper), "the uppermost: what lies below is computed once")


def outputs(made: Outline, *, attention: bool) -> tuple[str, ...]:
    """Return the modules that end a base's feed-forward parts, and if wanted its attention; none where one is unknown.

    Args:
        made: the base's modules.
        attention: whether those of the attention are wanted too.
    """
    within = {path for path in made.paths if re.fullmatch(OF_ATTENTION, path)}
    last = _ending(made.paths - within, FEED_FORWARD)
    if last is None or not attention:
        return (last,) if last else ()
    of_attention = _ending(within, ATTENTION_OUTPUT)
    if of_attention is None:
        return ()
    return (last,) if f".{of_attention}".endswith(f".{last}") else (of_attention, last)


def _ending(paths: Set[str], ends: Sequence[str]) -> str | None:
    return next((end for end in ends if any(f".{path}".endswith(f".{end}") for path in paths)), None)


def _behind(method: Method) -> bool:
    """Return whether a method puts something behind the module that ends a part of a layer."""
    return "placement" in method.options.model_fields


def _low_rank(method: Method) -> bool:
    """Return whether a method adapts linear modules; what others adapt has no usual place."""
    return "rank" in method.options.model_fields


def _loader(recipe: RecipeFile | MeasureFile) -> str:
    kind = str(recipe.task.kind)
    return LOADERS.get(kind) or loader_for(recipe.task.pooling or "model")


def _expected(recipe: RecipeFile) -> tuple[list[Choice], int, int]:
    """Return what is assumed of the federation, how many participants it has, and how many units."""
    said, chosen = recipe.expected, list[Choice]()
    participants = said.participants or defaults.ASSUMED_PARTICIPANTS
    units = said.units or participants * defaults.ASSUMED_UNITS
    if said.participants is None:
        chosen.append(Choice("expected.participants", participants, "assumed; say how many you expect"))
    if said.units is None:
        chosen.append(Choice("expected.units", units, "assumed; say how much data all of them together have"))
    return chosen, participants, units


def _given(recipe: RecipeFile) -> dict[str, str | int]:
    """Return what a recipe says of what the rule would choose, by dotted key."""
    given: dict[str, str | int] = {}
    if recipe.rounds is not None:
        given |= {"rounds": recipe.rounds, "privacy.local_steps": 1}
    if recipe.privacy.mode == "distributed":
        given["privacy.local_steps"] = 1
    for name, section in (("privacy", recipe.privacy), ("training", recipe.training), ("optimizer", recipe.optimizer)):
        if section is not None:
            said = section.model_dump(include=section.model_fields_set, exclude_none=True)
            given |= {f"{name}.{key}": value for key, value in said.items() if isinstance(value, str | int)}
    return given | {"privacy.clip_norm": recipe.privacy.clip_norm}


def _set(recipe: RecipeFile, values: Mapping[str, str | int]) -> RecipeFile:
    """Return a recipe with values of the rule."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, field = key.rpartition(".")
        sections.setdefault(name, {})[field] = value
    top = sections.pop("", {})
    privacy = {"local_steps": 1, **recipe.privacy.model_dump(exclude_none=True), **sections.get("privacy", {})}
    return recipe.model_copy(
        update={
            **top,
            "expected": recipe.expected.model_copy(update=sections.get("expected", {})),
            "privacy": recipe.privacy.model_copy(update=privacy),
            "training": recipe.training.model_copy(update=sections.get("training", {})),
            "optimizer": (recipe.optimizer or OptimizerSection()).model_copy(update=sections.get("optimizer", {})),
        }
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # refused by name where the base is loaded
    return value if isinstance(value, dict) else {}
