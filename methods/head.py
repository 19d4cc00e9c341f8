"""Head only: the base is a fixed reader, and the task head alone trains.

Guarantees: nothing of the base changes; with the activations below it kept, a step costs next to nothing.
Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022,
arXiv:2202.10054; Tramer and Boneh, "Differentially Private Learning Needs Better Features", ICLR 2021,
arXiv:2011.11660.
"""

from __future__ import annotations

from typing import Final

from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

HEAD_ONLY: Final = Method(
    name="head",
    title="head only (linear probing)",
    category="selective",
    source="Kumar et al., ICLR 2022, arXiv:2202.10054; Tramer and Boneh, ICLR 2021, arXiv:2011.11660",
    peft_type="HEAD",
    roles={Selector.HEAD: Role.SHARED},
    streams=HEAD,
    summed="the head",
    size="nothing beside the head",
    afterwards="the mean of the heads",
    notes="The baseline that others must beat: with good features and a small epsilon it often wins.",
)
