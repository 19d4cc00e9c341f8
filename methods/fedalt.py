"""FedALT: each participant trains a LoRA of its own beside a frozen one of all others, and a mixer weighs them.

The state is M, the mean of everybody's own LoRA, of which participants send how far theirs went. A participant with a
share s of the roster's weight and its own x computes the mean of the others, (M - s x)/(1 - s), and trains x and
the mixer beside it: for each token a softmax says how much of either it gets.

Guarantees: x counts at home only if it was in the sum, and goes as far as what was sent went, clipped and rounded, so
that M - s x is the others' (in ``distributed-participant`` with the noise of all) and nothing else. In mode ``local``
x and mixer train in one clip and under one noise. In ``distributed-participant`` the unit is the participant
with all that it keeps (docs/privacy-accounting.md, section 2).
Source: Bian et al., "FedALT: Federated Fine-Tuning through Adaptive Local Training with Rest-of-World LoRA",
arXiv:2503.11880.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.optimizer import OptimizerState, Wide
from methods.products import stepped_head
from methods.second_lora import HOME_READS, HOME_WRITES
from methods.selectors import Selector
from methods.vectors import READS, WRITES, Vector, home_tensors, split, state_tensors
from privacy.adapter_parts import Role
from privacy.draft import Recipe


def own_change(recipe: Recipe, change: Wide) -> Wide:
    """Return how far one's own LoRA went, in the order of the mean's tensors.

    Args:
        recipe: names the tensors.
        change: of the state, followed by the tensors that stay at home.
    """
    tensors = split(recipe, change)
    keys = [tensor.key for tensor in state_tensors(recipe) if tensor.stream == ADAPTER_STREAM]
    return np.concatenate([tensors[_at_home(key)].reshape(-1) for key in keys])


def gone(recipe: Recipe, kept: Vector, stays: Vector, sent: Wide) -> Vector:
    """Return what stays at home after one's own LoRA went as far as was sent; the mixer is as it was trained.

    Args:
        recipe: names the tensors.
        kept: one's own LoRA and mixer before.
        stays: both after local steps.
        sent: begins with :func:`own_change`, clipped and rounded.
    """
    found = stays.copy()
    after, before = _own(recipe, found), _own(recipe, kept)  # views of the vectors
    start = 0
    for tensor in state_tensors(recipe):
        if tensor.stream == ADAPTER_STREAM:
            key, end = _at_home(tensor.key), start + tensor.entries
            after[key][...] = before[key] + sent[start:end].reshape(tensor.shape)
            start = end
    return found


def others(recipe: Recipe, state: Vector, kept: Vector, share: float) -> Vector:
    """Return the state with the mean of the others in place of that of all.

    Args:
        recipe: names the tensors.
        state: at the round's start.
        kept: one's own LoRA and mixer.
        share: of the roster's weight that is one's own.
    """
    seen = state.copy()
    tensors, mine = split(recipe, seen), _own(recipe, kept)  # views of the vectors
    for key, value in tensors.items():
        if _at_home(key) in mine:
            value[...] = (value - share * mine[_at_home(key)]) / (1 - share)
    return seen


def advance(recipe: Recipe, state: OptimizerState, direction: Wide) -> OptimizerState:
    """Return the state whose mean has gone as far as the LoRAs that it is of, and whose head has gone its step.

    Args:
        recipe: of the plan.
        state: of the previous round.
        direction: mean of :func:`own_change` over the whole roster, and of the head's change over the survivors.
    """
    iterate = state.iterate.astype(np.float64)
    count = next(stream.length for stream in recipe.state if stream.name == ADAPTER_STREAM)
    iterate[:count] += direction[:count]
    vector = stepped_head(recipe, iterate.astype(np.float32), direction)
    return replace(state, round=state.round + 1, iterate=vector, average=vector)


def _own(recipe: Recipe, kept: Vector) -> dict[str, Vector]:
    ends = np.cumsum([tensor.entries for tensor in home_tensors(recipe)])[:-1]
    parts = zip(home_tensors(recipe), np.split(kept, ends), strict=True)
    return {tensor.key: part.reshape(tensor.shape) for tensor, part in parts}


def _at_home(key: str) -> str:
    """Return the key of one's own tensor beside one of the mean."""
    for end, home in ((READS, HOME_READS), (WRITES, HOME_WRITES)):
        if key.endswith(end):
            return key.removesuffix(end) + home
    return key


FEDALT: Final = Method(
    name="fedalt",
    title="FedALT",
    category="personalised",
    source="Bian et al., arXiv:2503.11880",
    peft_type="LORA",
    home="mixed",
    roles={
        Selector.LORA_A: Role.DERIVED,
        Selector.LORA_B: Role.DERIVED,
        Selector.HOME_A: Role.PERSONAL,
        Selector.HOME_B: Role.PERSONAL,
        Selector.MIXER: Role.PERSONAL,
        Selector.HEAD: Role.SHARED,
    },
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    upload="own",
    over_all=frozenset({ADAPTER_STREAM}),
    seen=others,
    advance=advance,
    plain_mean=True,
    summed="how far everybody's own LoRA went, and the head",
    size="r (d + k)",
    afterwards="the mean of everybody's own LoRA; each participant takes its own out of it",
    refused={
        "distributed": "a participant's own LoRA would train at home without noise, and the shared gradient is taken "
        "beside it; and the mean of all less one's own, (S - x_i), strips from the others the noise that they rely on"
    },
    notes="What is released is the mean of everybody's LoRA. An owner's export has its own LoRA, the others' and the "
    "mixer, for which PEFT's format has no place.",
)
