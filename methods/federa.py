"""FeDeRA: LoRA that starts from the largest singular values of the base's weights (the start that PiSSA has).

Guarantees: the factors at the start are of the initial adapter, so that everybody takes the same B0 A0 out of the
base, whatever their own decomposition would give; answers at the start are the base's. What leaves is a LoRA of twice
the rank, B A - B0 A0, that PEFT loads on the base as it is.
Source: Yan et al., "FeDeRA: Efficient Fine-tuning of Language Models in Federated Learning Leveraging Weight
Decomposition", arXiv:2404.18848; Meng et al., "PiSSA", NeurIPS 2024, arXiv:2404.02948.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method, Published
from methods.second_lora import of_both_ranks
from methods.selectors import Selector, select
from privacy.adapter_parts import Adapter, Role


def difference(adapter: Adapter, tensors: Published, initial: Mapping[str, NDArray[Any]]) -> Published:
    """Return the factors of B A - B0 A0: [A; A0] and [B, -B0], of twice the rank."""
    published = dict(tensors)
    for key, value in tensors.items():
        selector = select(key, adapter.options, adapter.head_modules)
        if selector is Selector.LORA_A:
            published[key] = np.concatenate([value, initial[key].astype(np.float32)], axis=0)
        elif selector is Selector.LORA_B:
            published[key] = np.concatenate([value, -initial[key].astype(np.float32)], axis=1)
    return published


FEDERA: Final = Method(
    name="federa",
    title="FeDeRA (PiSSA)",
    category="reparameterised",
    source="Yan et al., arXiv:2404.18848; Meng et al., NeurIPS 2024, arXiv:2404.02948",
    peft_type="LORA",
    start="principal, out of the base",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    summed="both LoRA factors, and the head",
    size="r (d + k)",
    afterwards="the mean of each factor (mode distributed: the optimizer steps on the summed gradient)",
    publish=difference,
    published_options=of_both_ranks,
    notes="The base alone decides the start. The mean of products is biased in every mode but distributed.",
)
