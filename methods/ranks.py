"""Ranks of single participants: which entries of a LoRA someone of a smaller rank trains, and how many train each.

Guarantees: a function of plan and survivors alone, so that nothing about ranks is ever summed; whoever has rank r
trains the first r rows of every A and the first r columns of every B, and the head; its update is zero elsewhere.
Leaves to others: who has which rank (``privacy.plan_parts.MemberOptions``), dividing by the counts
(``coordinator.runs.global_adapter``).
Source: Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", EMNLP 2024,
arXiv:2401.06432.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from methods.selectors import Selector, select
from methods.vectors import trained_tensors
from privacy.adapter_parts import Turn
from privacy.draft import Recipe
from privacy.plan_parts import Member


def held(recipe: Recipe, turn: Turn, member: Member) -> NDArray[np.bool_]:
    """Return which of a turn's entries a member trains, shape (entries that train in the turn,)."""
    adapter, parts = recipe.adapter, []
    rank = member.options.rank or adapter.rank
    for tensor in trained_tensors(recipe, turn):
        part = np.ones(tensor.shape, dtype=np.bool_)
        selector = select(tensor.key, adapter.options, adapter.head_modules)
        if selector is Selector.LORA_A:
            part[rank:] = False
        elif selector is Selector.LORA_B:
            part[:, rank:] = False
        parts.append(part.reshape(-1))
    return np.concatenate(parts)


def counts(recipe: Recipe, turn: Turn, members: Iterable[tuple[Member, int]]) -> NDArray[np.int64]:
    """Return for every entry of a turn the sum of what its holders count.

    Args:
        recipe: names the tensors.
        turn: of the round.
        members: survivors, each with its weight or its units.
    """
    total = np.zeros(sum(tensor.entries for tensor in trained_tensors(recipe, turn)), dtype=np.int64)
    for member, amount in members:
        total += amount * held(recipe, turn, member)
    return total
