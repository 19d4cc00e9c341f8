"""IA3: learned factors of activations, the smallest additive adapter.

Guarantees: the factors start at one, so that the first round starts from the base's own answers; what is summed is
their difference from the round's start, or their gradient.
Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", NeurIPS
2022, arXiv:2205.05638.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

IA3: Final = Method(
    name="ia3",
    title="IA3",
    category="additive",
    source="Liu et al., NeurIPS 2022, arXiv:2205.05638",
    peft_type="IA3",
    roles={Selector.SCALE: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.SCALE}), **HEAD},
    summed="the factors of activations, and the head",
    size="d, or k for a feed-forward module",
    afterwards="the mean of each factor, which is exact for what is linear in it",
    notes="Tiny: one number for each channel of a target module. Its learning rate is larger than that of LoRA.",
)
