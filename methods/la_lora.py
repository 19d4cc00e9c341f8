"""LA-LoRA: the factors of LoRA train in turns within a round, B in the first local step and A in the next.

Guarantees: each step's gradient is of one factor and the head, and that alone is clipped and noised, so that no noise
is multiplied by noise in a step. Steps are counted through the whole run, so that rounds of one step alternate too.
Source: Liu et al., "Rethinking LoRA for Privacy-Preserving Federated Learning in Large Models", ICLR 2026,
arXiv:2602.19926; without its low-pass filter.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

LA_LORA: Final = Method(
    name="la-lora",
    title="LA-LoRA",
    category="reparameterised",
    source="Liu et al., ICLR 2026, arXiv:2602.19926",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    alternates=(frozenset({Selector.LORA_B, Selector.HEAD}), frozenset({Selector.LORA_A, Selector.HEAD})),
    summed="both LoRA factors, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor",
    refused={
        "distributed": "a round is one step and one factor, and half of the sum would be zeros; method rolora is the "
        "same at half the size"
    },
    notes="Takes an even number of local steps a round, best two to four. The paper's low-pass filter is not applied.",
)
