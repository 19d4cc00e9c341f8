"""DoRA: LoRA changes the direction of each output's weights, a vector of magnitudes their length.

Guarantees: magnitudes start at the base's own lengths, so that round 1 starts from the base's answers.
Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv:2402.09353.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

DORA: Final = Method(
    name="dora",
    title="DoRA",
    category="reparameterised",
    source="Liu et al., ICML 2024, arXiv:2402.09353",
    peft_type="LORA",
    settings={"use_dora": True},
    roles={
        Selector.LORA_A: Role.SHARED,
        Selector.LORA_B: Role.SHARED,
        Selector.MAGNITUDE: Role.SHARED,
        Selector.HEAD: Role.SHARED,
    },
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B, Selector.MAGNITUDE}), **HEAD},
    summed="both LoRA factors, the magnitudes, and the head",
    size="r (d + k) + d",
    afterwards="the mean of each factor and magnitude (mode distributed: the optimizer steps on the summed gradient)",
    notes="The mean of products is not the product of means: biased in every mode but distributed.",
)
