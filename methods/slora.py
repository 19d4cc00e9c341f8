"""SLoRA: some rounds update a sparse part of the base's own weights; then LoRA starts from their singular vectors.

In the first rounds the entries of the adapted weights train that a public mask chose, the same in all of them. After
the last of them the coordinator takes each weight's move apart: its best approximation of the plan's rank is where the
factors start, and the base is as it was. From there on it is FedIT.

Guarantees: the mask depends on the plan alone; an example's gradient is cut to it before it is clipped; the
decomposition is post-processing of sums. What leaves is a LoRA that PEFT loads on the base as it was, also after an
early end.
Source: Babakniya et al., "SLoRA: Federated Parameter Efficient Fine-Tuning of Language Models", arXiv:2308.06522.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from methods.fedex_lora import of_full_rank, published_rank, scale
from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.optimizer import OptimizerState, Wide, step
from methods.products import BASE, best_factors, modules
from methods.selectors import Selector
from methods.vectors import READS, joined, split
from privacy.adapter_parts import Role, Schedule
from privacy.draft import HEAD_STREAM, Recipe

BASE_STREAM: Final = "base"


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state after the optimizer's step; after the last sparse round, with the base's move in the factors."""
    after = step(recipe, state, direction)
    if after.round != recipe.schedule.opening_rounds:
        return after
    tensors = {key: value.astype(np.float64) for key, value in split(recipe, after.iterate).items()}
    for reads, writes in modules(recipe):
        base = reads.removesuffix(READS) + BASE
        tensors[reads], tensors[writes] = best_factors(tensors[base] / scale(recipe.adapter), len(tensors[reads]))
        tensors[base] = np.zeros_like(tensors[base])
    iterate = joined(recipe, tensors)
    return replace(after, iterate=iterate, average=iterate)


SLORA: Final = Method(
    name="slora",
    title="SLoRA",
    category="reparameterised",
    source="Babakniya et al., arXiv:2308.06522",
    peft_type="LORA",
    base_moves=True,
    roles={
        Selector.LORA_A: Role.SHARED,
        Selector.LORA_B: Role.SHARED,
        Selector.BASE: Role.SHARED,
        Selector.HEAD: Role.SHARED,
    },
    streams={
        BASE_STREAM: frozenset({Selector.BASE}),
        ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}),
        **HEAD,
    },
    turns=(frozenset({BASE_STREAM, HEAD_STREAM}), frozenset({ADAPTER_STREAM, HEAD_STREAM})),
    schedule=Schedule(cycle=(1,)),
    upload="gather",
    takes=frozenset({"mask", "opening_rounds"}),
    masked=frozenset({BASE_STREAM}),
    mask_lasts=True,
    advance=advance,
    exact_step=False,
    plain_mean=True,
    publish=of_full_rank,
    published_options=published_rank,
    summed="in the first rounds the chosen entries of the adapted weights, then both LoRA factors; and the head",
    size="mask x d k in the first rounds, then r (d + k)",
    afterwards="the mean of each entry; after the last sparse round the base's move is taken apart, and its best "
    "approximation of the rank is where the factors go on",
    notes="[training] mask is the share of the adapted weights that train first, best a hundredth; opening_rounds is "
    "how many rounds. Moves of the base beyond the rank are lost.",
)
