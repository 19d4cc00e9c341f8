"""FedProx: plain federated LoRA whose local steps are drawn back towards the adapter that the round started from.

Guarantees: the term reads the position alone, never data, so that it costs no privacy: in mode ``local`` it acts on
steps that carry their noise, in ``distributed-participant`` before the one clip.
Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv:1812.06127.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

FEDPROX: Final = Method(
    name="fedprox",
    title="FedProx",
    category="reparameterised",
    source="Li et al., MLSys 2020, arXiv:1812.06127",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    proximal=True,
    summed="both LoRA factors, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor",
    refused={
        "distributed": "a round is one step from where it starts, and there the proximal term is zero; method fedit is "
        "the same"
    },
    notes="[training] proximal is the weight of the term; with one local step it does nothing.",
)
