"""LoKr: the update of a layer is a Kronecker product of small factors.

Guarantees: one factor is zero at first, so that round 1 starts from the base's answers.
Source: Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation", ICLR 2024,
arXiv:2309.14859.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

LOKR: Final = Method(
    name="lokr",
    title="LoKr",
    category="reparameterised",
    source="Yeh et al., ICLR 2024, arXiv:2309.14859",
    peft_type="LOKR",
    roles={Selector.FACTOR: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.FACTOR}), **HEAD},
    summed="the Kronecker factors, and the head",
    size="about 2 r root(d k), or less",
    afterwards="the mean of each factor",
    notes="The mean of products is not the product of means: biased in every mode but distributed.",
)
