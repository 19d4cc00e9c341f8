"""BitFit: the base's own biases train, and nothing else of it.

Guarantees: no layer is put beside the base's; the biases that travel start at the base's own, and leave as a file
that PEFT loads.
Source: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-
models", ACL 2022, arXiv:2106.10199; Bu et al., "Differentially Private Bias-Term Fine-tuning of Foundation Models",
ICML 2024, arXiv:2210.00036.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

BITFIT: Final = Method(
    name="bitfit",
    title="BitFit",
    category="selective",
    source="Ben Zaken et al., ACL 2022, arXiv:2106.10199; Bu et al., ICML 2024, arXiv:2210.00036",
    peft_type="BIAS",
    roles={Selector.BIAS: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.BIAS}), **HEAD},
    summed="the base's biases, and the head",
    size="d",
    afterwards="the mean of each bias",
    notes="A base without biases (Llama, T5) is refused. About a thousandth of the base; needs a larger learning rate.",
)
