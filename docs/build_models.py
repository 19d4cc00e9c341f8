"""Write the generated parts of ``docs/models.md``: which PEFT type works on which family of models, and why not.

Usage: ``python -m docs.build_models [--check]``. Every cell is measured: a small base is built, a recipe becomes a
draft, the self-check runs, and each example's gradient is compared with that of the example alone. It takes about four
minutes. With ``--check`` nothing is written; the exit status is 1 if the text is not what this script makes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
import transformers

import methods
from docs import generated_parts
from tests.worlds.families import FAMILIES
from tests.worlds.model_table import METHODS, Cell, cell

TEXT: Final = Path(__file__).with_name("models.md")
Cells = Mapping[tuple[str, str], Cell]


def measured() -> Cells:
    """Return every cell, by family and method."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    found: dict[tuple[str, str], Cell] = {}
    for name, family in FAMILIES.items():
        with tempfile.TemporaryDirectory(prefix="onlysum-models-") as directory:
            folder = Path(directory)
            family.write(folder / "base")
            found |= {(name, method): cell(family, method, folder) for method in METHODS}
    return found


def table(cells: Cells, reasons: list[str]) -> Iterator[str]:
    """Yield a table with one row per family; a number stands for a reason."""
    yield f"| family | {' | '.join(f'`{method}`' for method in METHODS)} |"
    yield "|" + "---|" * (len(METHODS) + 1)
    for name, family in FAMILIES.items():
        words = [_words(cells[name, method], reasons) for method in METHODS]
        yield f"| {family.title} | {' | '.join(words)} |"


def _words(found: Cell, reasons: list[str]) -> str:
    if found.refusal:
        return str(1 + reasons.index(found.refusal))
    return "exact" if found.exact else "INEXACT"


def families() -> Iterator[str]:
    """Yield what each family is, and what a recipe names in it."""
    yield "| family | class | `target_modules` | `feedforward_modules` | norms | `head_modules` | |"
    yield "|---|---|---|---|---|---|---|"
    for family in FAMILIES.values():
        names = [family.targets, family.dense, family.norms, family.head]
        words = [", ".join(f"`{name}`" for name in some) for some in names]
        yield f"| {family.title} | `{family.model}` | {' | '.join(words)} | {family.notes} |"


def rebuilt(text: str) -> str:
    """Return the text with its generated parts made anew."""
    cells = measured()
    reasons = list(dict.fromkeys(found.refusal for found in cells.values() if found.refusal))
    parts = {
        "table": table(cells, reasons),
        "reasons": (f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)),
        "types": (f"- `{name}`: {methods.get(name).title} (`{methods.get(name).peft_type}`)" for name in METHODS),
        "families": families(),
    }
    return generated_parts.rebuilt(text, parts, "build_models.py")


def main() -> int:
    """Write the file, or with ``--check`` return whether it is current."""
    return generated_parts.write_or_check(TEXT, rebuilt(TEXT.read_text()))


if __name__ == "__main__":
    sys.exit(main())
