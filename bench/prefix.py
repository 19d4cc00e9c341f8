"""What a step saves where the blocks below the lowest adapter run once per example instead of in every step.

LoRA of rank 8 and a head in the upper two of twelve blocks of a ViT-Tiny with random weights, on 16 synthetic images of
224 pixels. Steps with and without the lower blocks take turns in CPU seconds on one thread; their gradients are the
same bit for bit, or the benchmark fails.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Final

import torch

from bench import harness
from bench.dp_step import CASES, PACKAGES, Case, prepared
from participant.training.adapters.fast import FastEngine
from participant.training.adapters.prefix import ACTIVATIONS, FrozenPrefix

UPPER: Final = (10, 11)  # of twelve blocks, from 0


class UpperBlocks(Case):
    """A case whose adapters lie in the upper blocks alone."""

    def recipe(self, name: str, folder: Path) -> str:
        """Return the recipe."""
        return Case.recipe(self, name, folder).replace("rank = 8", f"rank = 8\nlayers = {list(UPPER)}")


def measure(turns: int) -> dict[str, float]:
    """Return the figures."""
    vit = CASES["vit"]
    case = UpperBlocks(**{field.name: getattr(vit, field.name) for field in fields(vit)})
    with tempfile.TemporaryDirectory(prefix="onlysum-prefix-") as folder:
        adapted, batch = prepared("vit", case, Path(folder))
        engine = FastEngine(adapted("cpu"))
    prefix = FrozenPrefix.find(engine.adapted)
    if prefix is None:
        raise SystemExit("no block lies below the adapters")
    kept = prefix.extended(batch, len(batch))
    whole, short = [], []
    for turn in range(turns + 1):
        began = time.process_time()
        rows = engine.rows(batch)
        between = time.process_time()
        prefix.cut()
        again = engine.rows(kept)
        ended = time.process_time()
        prefix.restore()
        if not torch.equal(rows, again):
            raise SystemExit("gradients differ without the lower blocks")
        if turn:  # the first warms up
            whole.append(between - began)
            short.append(ended - between)
    return {
        "whole_seconds": round(statistics.median(whole), 3),
        "short_over_whole": round(statistics.median(one / other for one, other in zip(short, whole, strict=True)), 3),
        "kib_per_example": round(kept.inputs[ACTIVATIONS].nbytes / len(batch) / 1024, 1),
    }


def main() -> int:
    """Measure, print the table and the JSON line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument("--turns", type=int, default=5, help="how often each step is taken")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    figures = measure(options.turns)
    print(harness.table(["figure", "value"], [[name, f"{value:g}"] for name, value in figures.items()]))
    harness.publish("prefix", figures, packages=PACKAGES, save=options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
