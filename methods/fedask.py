"""FedASK: two thin sketches of each product are summed, from which the coordinator recovers their mean.

Guarantees: as FlexLoRA, with sketches of (c + 4) d + 2 c k numbers in place of d k: exact while the mean of the
products has at most c singular values, which n participants of rank r cannot exceed at c = n r; the error is logged
with every round. Both sketches go up in one round, where the paper's second one waits for the first: a round that
trains nothing would be charged like any other.
Source: "FedASK: Differentially Private Federated Low Rank Adaptation Beyond Fixed-Matrix", NeurIPS 2025,
arXiv:2507.09990; Tropp et al., arXiv:1609.00048, for the one pass.
"""

from __future__ import annotations

from typing import Final

from methods import sketches
from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

FEDASK: Final = Method(
    name="fedask",
    title="FedASK",
    category="reparameterised",
    source="NeurIPS 2025, arXiv:2507.09990; Tropp et al., arXiv:1609.00048",
    peft_type="LORA",
    start="orthonormal",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    upload="sketch",
    takes=frozenset({"sketch"}),
    advance=sketches.advance,
    exact_step=False,
    moves_basis=True,
    plain_mean=True,
    error=sketches.error,
    summed="two sketches of the product B A of each module, and the head",
    size="(c + 4) d + 2 c k for c columns",
    afterwards="the mean of the products, recovered from its sketches; its singular vectors, cut to the rank, are the "
    "next factors; the error of the recovery is logged",
    refused={
        "distributed": "a product is not linear in one step's gradient of the factors, so a sum of gradients has none; "
        "there FedIT's step is exact"
    },
    notes="[training] sketch is c: the rank times the number of participants makes it exact, and a few more than the "
    "rank suffice where participants agree.",
)
