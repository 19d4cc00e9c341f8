"""LoHa: the update of a layer is an entrywise product of two low-rank ones, of rank up to r squared.

Guarantees: one factor is zero at first, so that round 1 starts from the base's answers. Where each example's
gradient is clipped it is refused: nobody can vouch for that gradient.
Source: Hyeon-Woo et al., "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning", ICLR
2022, arXiv:2108.06098.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

LOHA: Final = Method(
    name="loha",
    title="LoHa (FedPara)",
    category="reparameterised",
    source="Hyeon-Woo et al., ICLR 2022, arXiv:2108.06098",
    peft_type="LOHA",
    roles={Selector.FACTOR: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.FACTOR}), **HEAD},
    summed="the four factors, and the head",
    size="2 r (d + k)",
    afterwards="the mean of each factor",
    refused=dict.fromkeys(
        ("local", "distributed"),
        "PEFT computes the entrywise product by a gradient rule of its own, which no engine takes apart into examples",
    ),
    notes="The mean of products is not the product of means: biased in every mode.",
)
