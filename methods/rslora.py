"""rsLoRA: plain LoRA, scaled by alpha over the root of the rank.

Guarantees: steps keep their size when the rank grows; what is summed is what FedIT sums.
Source: Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", arXiv:2312.03732.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

RSLORA: Final = Method(
    name="rslora",
    title="rsLoRA",
    category="reparameterised",
    source="Kalajdzievski, arXiv:2312.03732",
    peft_type="LORA",
    settings={"use_rslora": True},
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    summed="both LoRA factors, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor (mode distributed: the optimizer steps on the summed gradient)",
    notes="The mean of products is not the product of means: biased in every mode but distributed.",
)
