"""FedDPA: a shared LoRA trains as in FedIT, and at home each participant trains a second one on top of it.

Guarantees: the second LoRA is in no forward pass whose gradient goes up, and nothing else of it goes up; so what is
summed is FedIT's to the bit, in every mode, and the second LoRA needs no noise. It trains after the shared steps, with
the shared LoRA of the round's start in place.
Source: Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", NeurIPS 2024, arXiv:2403.19211;
without its weights by the likeness of a text to the owner's own.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.second_lora import ROLES, fused, of_both_ranks
from methods.selectors import Selector

FEDDPA: Final = Method(
    name="feddpa",
    title="FedDPA",
    category="personalised",
    source="Yang et al., NeurIPS 2024, arXiv:2403.19211",
    peft_type="LORA",
    home="beside",
    roles=ROLES,
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    mine=fused,
    mine_options=of_both_ranks,
    summed="both factors of the shared LoRA, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor",
    notes="`participant run export` gives an owner the shared LoRA and its own as one of twice the rank.",
)
