"""FDLoRA: a shared LoRA trains as in FedIT, each participant trains another by itself at home and fuses both.

Guarantees: the LoRA at home is in no forward pass whose gradient goes up, and nothing else of it goes up; so what is
summed is FedIT's to the bit, in every mode, and the second LoRA needs no noise. How much of either is best an owner's
export looks for among a few weights on its own rows; that choice stays at home too.
Source: Qi et al., "FDLoRA: Personalized Federated Learning of Large Language Model via Dual LoRA Tuning",
arXiv:2406.07925; the paper's outer optimizer is the plan's (``sgd`` with momentum), and its own LoRA is not set to
the shared one now and then.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Fusion, Method
from methods.second_lora import ROLES, fused, of_both_ranks
from methods.selectors import Selector

# Of the shared LoRA and one's own: the paper searches between 0 and 1.5 for each.
FUSIONS: Final[tuple[Fusion, ...]] = (
    (0.0, 1.0),
    (0.25, 0.75),
    (0.5, 0.5),
    (0.75, 0.25),
    (1.0, 0.0),
    (0.75, 0.75),
    (1.0, 1.0),
)


FDLORA: Final = Method(
    name="fdlora",
    title="FDLoRA",
    category="personalised",
    source="Qi et al., arXiv:2406.07925",
    peft_type="LORA",
    home="alone",
    roles=ROLES,
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    mine=fused,
    fusions=FUSIONS,
    mine_options=of_both_ranks,
    summed="both factors of the shared LoRA, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor; the paper's outer optimizer is sgd with momentum",
    notes="`participant run export` weighs both by the owner's own rows, and gives one LoRA of twice the rank.",
)
