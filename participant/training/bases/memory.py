"""How much memory training may take, and at what cost in time: the ``[memory]`` section of ``participant.toml``.

Guarantees: gradients of single examples never take more than is stated here: micro-batches shrink for it, while the
logical batch, the noise and what is charged stay the plan's. Nothing here changes what is computed, but for packed
weights, which are other weights. Needs no torch.
Leaves to others: packing (``bases.narrow``), checkpointing (``bases.checkpointing``).
Source: docs/models.md.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from host.settings import Section
from participant.training.trainer import Weights
from privacy.draft import Recipe
from privacy.errors import LocalError

MIB: Final = 2**20
BYTES_OF_AN_ENTRY: Final = 8  # of an example's gradient: float32, and once more while its parts are put together


class Memory(Section):
    """The keys of ``[memory]``."""

    weights: Weights = "own"  # of the frozen base
    gradients: Annotated[int, Field(ge=1, le=2**20)] = 1024  # MiB, of single examples at a time
    checkpointing: bool = False  # whether blocks are run again in the backward pass, instead of being remembered


def micro_batch(recipe: Recipe, memory: Memory, *, per_example: bool) -> int:
    """Return how many examples a forward pass takes: the plan's number, or as many as have room for their gradients.

    Args:
        recipe: of the plan.
        memory: what the owner's machine may take.
        per_example: whether single examples have gradients of their own: they are clipped.

    Raises:
        LocalError: ``E-CONFIG-INVALID``, there is no room for one.
    """
    from methods.vectors import local_tensors  # with every method, which no settings need

    if not per_example or recipe.measured is not None:  # no example has a gradient
        return recipe.training.micro_batch
    entries = (sum(tensor.entries for tensor in local_tensors(recipe, turn)) for turn in recipe.turns)
    most = max(entries) * BYTES_OF_AN_ENTRY
    if most > memory.gradients * MIB:
        needed = -(-most // MIB)
        detail = f"memory.gradients = {memory.gradients}: the gradient of one example takes {needed} MiB"
        raise LocalError("E-CONFIG-INVALID", f"{detail}; raise it in participant.toml, or refuse the plan")
    return min(recipe.training.micro_batch, memory.gradients * MIB // most)
