"""On trial: a base, run forward on synthetic rows before it is registered; a recipe, checked before it makes a plan.

Leaves to others: the checks (``bases``, ``selfcheck``), what a recipe says (``authoring``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from participant.training.adapters.adapted import AdaptedModel, read_initial
from participant.training.adapters.configurations import whole_modules
from participant.training.adapters.turns import TurnEngines
from participant.training.bases.checks import check_forward
from participant.training.bases.files import check_files
from participant.training.examples import synthetic_examples
from participant.training.models import Base, architecture, load_base, load_checked, refuse_gaps
from participant.training.selfcheck import SLOT_ROWS, SelfCheck, routers
from privacy.draft import Recipe
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
    SelfCheck(
        recipe=recipe,
        privacy=privacy,
        engines=TurnEngines(adapted, synthetic, "fast"),
        synthetic=synthetic,
        initial=tensors,
        clean_base=lambda: base().model,
        slot_rows=synthetic_examples(loaded, recipe.task, max(size, SLOT_ROWS)),
    ).run()


def _task(folder: Path) -> Task:
    """Return the task that a base is tried on, by its files and the class that it says it is."""
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return ImageClassification(data="synthetic", labels=("0", "1"))
    if architecture(folder).endswith(WRITERS):
        return CausalLanguageModelling(data="synthetic", form="text", max_length=TRIAL_LENGTH)
    return TextClassification(data="synthetic", labels=("0", "1"), max_length=TRIAL_LENGTH)
