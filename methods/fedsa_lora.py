"""FedSA-LoRA: both factors of LoRA train, A is shared and B stays with its participant.

Guarantees: B never leaves its owner's machine. In mode ``local`` it trains in the same clip and under the same noise as
A, so what it carries into later rounds is noised; in ``distributed-participant`` the unit is the participant with all
that it keeps, and each round's upload is clipped whatever B is (docs/privacy-accounting.md, section 2).
Source: Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025, arXiv:2410.01463.
"""

from __future__ import annotations

from typing import Final

from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

FEDSA_LORA: Final = Method(
    name="fedsa-lora",
    title="FedSA-LoRA",
    category="reparameterised",
    source="Guo et al., ICLR 2025, arXiv:2410.01463",
    peft_type="LORA",
    home="part",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.PERSONAL, Selector.HEAD: Role.SHARED},
    streams={"a": frozenset({Selector.LORA_A}), **HEAD},
    summed="the LoRA factor A, and the head",
    size="r k",
    afterwards="the mean of A; each B stays where it is",
    refused={
        "distributed": "the shared gradient of A is taken at each participant's own B, which no noise covers there; "
        "and at the B that all start from, which is zero, A has no gradient"
    },
    notes="What is released has B at its start, so an evaluator measures the head; owners export theirs with "
    "`participant run export`. Take at least two local steps: in the very first A does not move.",
)
