"""A base on trial: loaded as some task would load it, and run forward on synthetic rows before it is registered.

Leaves to others: the checks (``bases``), a recipe's own trial (``authoring.draft``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from participant.training.bases.checks import check_forward
from participant.training.bases.files import check_files
from participant.training.examples import synthetic_examples
from participant.training.models import architecture, load_checked, refuse_gaps
from privacy.task_parts import CausalLanguageModelling, ImageClassification, Task, TextClassification

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
WRITERS: Final = ("ForCausalLM", "LMHeadModel")  # how classes of models that write end
TRIAL_LENGTH: Final = 8  # tokens of the rows on which a base is tried
TRIAL_ROWS: Final = 2


def try_base(folder: Path, name: str) -> None:
    """Load a base as some task would, and run it forward: what no plan could use is refused before it is registered.

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


def _task(folder: Path) -> Task:
    """Return the task that a base is tried on, by its files and the class that it says it is."""
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return ImageClassification(data="synthetic", labels=("0", "1"))
    if architecture(folder).endswith(WRITERS):
        return CausalLanguageModelling(data="synthetic", form="text", max_length=TRIAL_LENGTH)
    return TextClassification(data="synthetic", labels=("0", "1"), max_length=TRIAL_LENGTH)
