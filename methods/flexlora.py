"""FlexLoRA: the products of the factors are summed, and the coordinator takes their mean apart again by an SVD.

Guarantees: the mean of the products is exact, where FedIT has the product of means; what is lost is what the plan's
rank cannot hold. Both act on noised steps or on what was clipped whole. In mode ``distributed`` it is refused.
Source: Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources",
NeurIPS 2024, arXiv:2402.11505; with one rank for everybody.
"""

from __future__ import annotations

from typing import Final

from methods import products
from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

FLEXLORA: Final = Method(
    name="flexlora",
    title="FlexLoRA",
    category="reparameterised",
    source="Bai et al., NeurIPS 2024, arXiv:2402.11505",
    peft_type="LORA",
    start="orthonormal",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    upload="products",
    advance=products.advance,
    exact_step=False,
    moves_basis=True,
    plain_mean=True,
    summed="the product B A of each module, and the head",
    size="d k",
    afterwards="the exact mean of the products; its singular vectors, cut to the rank, are the next factors",
    refused={
        "distributed": "a product is not linear in one step's gradient of the factors, so a sum of gradients has none; "
        "there FedIT's step is exact"
    },
    notes="d/(2r) times the traffic of plain LoRA. Noise and clip grow with it: for small modules, or without noise.",
)
