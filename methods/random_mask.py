"""Common random mask: in each round a public coin chooses the entries of the adapter that train, for everybody alike.

Guarantees: the mask depends on the plan and the round alone, so it costs no privacy; an example's gradient is cut to
the mask before it is clipped, so that clip and noise are over what goes up; entries outside stay as they are.
Source: Konecny et al., "Federated Learning: Strategies for Improving Communication Efficiency", arXiv:1610.05492.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

RANDOM_MASK: Final = Method(
    name="random-mask",
    title="LoRA under a common random mask",
    category="reparameterised",
    source="Konecny et al., arXiv:1610.05492",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    upload="gather",
    takes=frozenset({"mask"}),
    summed="the entries of both LoRA factors that the round's coin chose, and the head",
    size="mask x r (d + k)",
    afterwards="the mean of those entries; all others stay as they are",
    notes="[training] mask is the share of entries that train in a round. Both factors travel down whole.",
)
