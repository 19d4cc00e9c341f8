"""LN-tuning: scale and shift of normalisation layers train.

Guarantees: the statistics of each example stay its own: what trains is applied after them.
Source: Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning", ICLR 2024,
arXiv:2312.11420.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

LN_TUNING: Final = Method(
    name="ln-tuning",
    title="LN-tuning",
    category="selective",
    source="Zhao et al., ICLR 2024, arXiv:2312.11420",
    peft_type="LN_TUNING",
    roles={Selector.NORM: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.NORM}), **HEAD},
    summed="scale and shift of the norms, and the head",
    size="2 d for each norm of width d",
    afterwards="the mean of each",
    notes="target_modules names norms, e.g. LayerNorm of BERT or layernorm_before of ViT.",
)
