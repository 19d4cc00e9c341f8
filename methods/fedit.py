"""FedIT: plain federated LoRA. Both factors train and both are summed.

Guarantees: in mode ``distributed`` the step is exact, because gradients of the factors add up; in the others the mean
of the factors is not the factor of the mean product, a bias that grows as participants differ.
Source: Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning", ICASSP 2024,
arXiv:2305.05644.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

FEDIT: Final = Method(
    name="fedit",
    title="FedIT",
    category="reparameterised",
    source="Zhang et al., ICASSP 2024, arXiv:2305.05644",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    summed="both LoRA factors, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor (mode distributed: the optimizer steps on the summed gradient)",
    notes="The mean of products is not the product of means: biased in every mode but distributed.",
)
