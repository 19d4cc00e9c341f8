"""HetLoRA: participants of smaller machines train LoRA of a smaller rank, and each entry's mean is over who trains it.

Guarantees: ranks are in the plan, so counts follow from it and the survivors, and nothing is summed to know them; noise
shares are added to every entry by everybody, so that an entry which few train has no less noise. Ranks stay as the plan
has them: the paper's pruning of ranks by each participant's own norms would tell of data.
Source: Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", EMNLP 2024,
arXiv:2401.06432.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

HETLORA: Final = Method(
    name="hetlora",
    title="HetLoRA with fixed ranks",
    category="reparameterised",
    source="Cho et al., EMNLP 2024, arXiv:2401.06432",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    counts="rank",
    summed="both LoRA factors, zero beyond a participant's own rank, and the head",
    size="r (d + k), for the largest rank",
    afterwards="the mean of each entry over those who train it, by the ranks that the plan names",
    notes="rank is the largest; `run create --ranks` names smaller ones. The mean of what few train is noisier.",
)
