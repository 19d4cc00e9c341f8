"""On trial: a base, run forward on synthetic rows before it is registered; a recipe, checked before it makes a plan.

Leaves to others: the checks (``bases``, ``selfcheck``), what a recipe says (``authoring``).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import torch
from peft import PeftModel

from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.configurations import whole_modules
from participant.training.adapters.turns import TurnEngines
from participant.training.bases.checks import check_forward
from participant.training.bases.files import check_files
from participant.training.examples import synthetic_examples
from participant.training.measuring.check import MeasureCheck
from participant.training.models import Base, architecture, load_base, load_checked, refuse_gaps
from participant.training.selfcheck import LOGIT_TOLERANCE, SLOT_ROWS, SelfCheck, check_modules, routers
from privacy.dp.clipping import clip_radius
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.measure_parts import grid_step
from privacy.plan import LEAST_GRID_STEP
from privacy.plan_parts import Privacy
from privacy.task_parts import CausalLanguageModelling, ImageClassification, Task, TextClassification

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
WRITERS: Final = ("ForCausalLM", "LMHeadModel")  # how classes of models that write end
TRIAL_LENGTH: Final = 8  # tokens of the rows on which a base is tried
TRIAL_ROWS: Final = 2


def try_base(folder: Path, name: str) -> tuple[str, ...]:
    """Load a base as some task would, and run it forward: what no plan could use is refused before it is registered.

    Returns:
        What some plans could not use it for.

    Raises:
        LocalError: ``E-MODEL-PICKLE`` or ``E-MODEL-LOAD``.
    """
    check_files(folder)
    task = _task(folder)
    base, report = load_checked(folder, name, task, seed=0)
    body = f"{base.model.base_model_prefix}."

    def carried(key: str) -> bool:
        """Return whether a plan may carry a weight: a head, of which that of a writer is no part of any plan."""
        writes = isinstance(task, CausalLanguageModelling)
        return not writes and (not key.startswith(body) or "pooler" in key.split("."))

    refuse_gaps(name, report, carried)
    check_forward(name, base.model, synthetic_examples(base, task, TRIAL_ROWS).inputs, task, base)
    return tuple(
        f"{module} routes to experts: no plan in mode local or distributed can use it"
        for module in sorted(routers(base.model))[:1]
    )


def try_recipe(recipe: Recipe, privacy: Privacy, folder: Path, initial: Path) -> None:
    """Run the self-check of a recipe on the CPU, as each owner's daemon will before anything is charged.

    Args:
        recipe: of the draft.
        privacy: its mechanism.
        folder: of the base.
        initial: the safetensors file that the run starts from.

    Raises:
        LocalError: ``E-SELF-CHECK``, naming the check; or as :func:`~participant.training.models.load_base`.
    """

    def base() -> Base:
        adapter = recipe.adapter
        return load_base(folder, recipe.base, recipe.task, head_modules=whole_modules(adapter), seed=adapter.seed)

    loaded, tensors, size = base(), read_initial(initial, recipe.adapter), recipe.training.micro_batch
    adapted = AdaptedModel.attach(loaded.model, recipe, tensors, torch.device("cpu"))
    synthetic = synthetic_examples(loaded, recipe.task, size)
    slot_rows = synthetic_examples(loaded, recipe.task, max(size, SLOT_ROWS))
    if recipe.measured is not None:
        check_modules(adapted.model, privacy.mode)
        MeasureCheck(
            recipe=recipe,
            measured=recipe.measured,
            privacy=privacy,
            step=step_of(privacy, recipe),
            adapted=adapted,
            synthetic=synthetic,
            slot_rows=slot_rows,
        ).run()
        return
    SelfCheck(
        recipe=recipe,
        privacy=privacy,
        engines=TurnEngines(adapted, synthetic, "fast"),
        synthetic=synthetic,
        initial=tensors,
        clean_base=lambda: base().model,
        slot_rows=slot_rows,
    ).run()


def step_of(privacy: Privacy, recipe: Recipe) -> int:
    """Return what 1 becomes in a measurement by a draft's mechanism, which has no words yet."""
    if not privacy.noised:
        return LEAST_GRID_STEP
    return grid_step(clip_radius(privacy.sensitivity, recipe.entries), float(privacy.clip_norm))


def try_released(recipe: Recipe, folder: Path, initial: Path, released: Path) -> None:
    """Compare the answers of a plan's adapter with those of the folder that its values are from, as PEFT loads it.

    Args:
        recipe: of the draft.
        folder: of the base.
        initial: the safetensors file that the run starts from.
        released: the folder in PEFT's format.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: PEFT does not load it, or it answers otherwise.
    """

    def base() -> Base:
        adapter = recipe.adapter
        return load_base(folder, recipe.base, recipe.task, head_modules=whole_modules(adapter), seed=adapter.seed)

    loaded = base()
    inputs = synthetic_examples(loaded, recipe.task, TRIAL_ROWS).inputs
    adapted = AdaptedModel.attach(loaded.model, recipe, read_initial(initial, recipe.adapter), torch.device("cpu"))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice on names and formats does not concern this copy
            clean = PeftModel.from_pretrained(base().model, released).eval()
            answers, expected = adapted.logits(inputs), adapted.work.answers(clean, inputs)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise LocalError(
            "E-CONFIG-INVALID", f"measure.adapter: PEFT does not load it ({type(error).__name__})"
        ) from None
    if not (answers - expected).abs().max() <= LOGIT_TOLERANCE * expected.abs().max():
        rule = "the recipe's adapter answers otherwise than the folder's; compare method and [adapter] with its run"
        raise LocalError("E-CONFIG-INVALID", f"measure.adapter: {rule}")


def _task(folder: Path) -> Task:
    """Return the task that a base is tried on, by its files and the class that it says it is."""
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return ImageClassification(data="synthetic", labels=("0", "1"))
    if architecture(folder).endswith(WRITERS):
        return CausalLanguageModelling(data="synthetic", form="text", max_length=TRIAL_LENGTH)
    return TextClassification(data="synthetic", labels=("0", "1"), max_length=TRIAL_LENGTH)
