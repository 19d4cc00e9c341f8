"""RoLoRA: the factors of LoRA train in turns, B in odd rounds and A in even ones.

Guarantees: in each round one factor is common to all, so the mean of the other is exactly the mean of the adapters;
half of plain LoRA's traffic up, and unlike FFA-LoRA both factors learn. B comes first: while it is zero,
A has no gradient.
Source: Chen et al., "Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA", arXiv:2502.01755.
"""

from __future__ import annotations

from typing import Final

from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role, Schedule
from privacy.draft import HEAD_STREAM

ROLORA: Final = Method(
    name="rolora",
    title="RoLoRA",
    category="reparameterised",
    source="Chen et al., arXiv:2502.01755",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={"a": frozenset({Selector.LORA_A}), "b": frozenset({Selector.LORA_B}), **HEAD},
    turns=(frozenset({"b", HEAD_STREAM}), frozenset({"a", HEAD_STREAM})),
    schedule=Schedule(cycle=(0, 1)),
    summed="one LoRA factor, B in odd rounds and A in even ones, and the head",
    size="r d in odd rounds, r k in even ones",
    afterwards="the mean of that factor, which is exact because the other is common; the other stays as it is",
    notes="Both factors travel down every round; at least two rounds are needed for both to train.",
)
