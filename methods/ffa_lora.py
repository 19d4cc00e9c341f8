"""FFA-LoRA: the factor A is frozen and common to all, only B trains.

Guarantees: with A fixed the adapter is linear in B, so the mean of the Bs is exactly the mean of the adapters, and
noise on B is not multiplied by noise on A; half of plain LoRA's traffic.
Source: Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv:2403.12313.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

FFA_LORA: Final = Method(
    name="ffa-lora",
    title="FFA-LoRA",
    category="reparameterised",
    source="Sun et al., ICLR 2024, arXiv:2403.12313",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.FROZEN, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_B}), **HEAD},
    summed="the LoRA factor B, and the head",
    size="r d",
    afterwards="the mean of B, which is exact because A is common",
    notes="A comes from the plan's seed and never changes.",
)
