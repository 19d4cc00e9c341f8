"""Bottleneck adapters: a small network behind a module, whose answer is added to the module's.

Guarantees: the projection back is zero at first, so that round 1 starts from the base's answers.
Leaves to others: the network itself (``participant.training.tuners.bottleneck``), which a reader of the released
adapter needs too.
Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv:1902.00751; for one adapter a
layer, behind its feed-forward part, Pfeiffer et al., "AdapterFusion", EACL 2021, arXiv:2005.00247; among participants
Cai et al., "FedAdapter: Efficient Federated Learning for Modern NLP", MobiCom 2023, arXiv:2205.10162.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

BOTTLENECK: Final = Method(
    name="bottleneck",
    title="bottleneck adapters (FedAdapter)",
    category="additive",
    source="Houlsby et al., ICML 2019, arXiv:1902.00751; Pfeiffer et al., EACL 2021, arXiv:2005.00247; "
    "Cai et al., MobiCom 2023, arXiv:2205.10162",
    peft_type="BOTTLENECK",
    roles={Selector.DOWN: Role.SHARED, Selector.UP: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.DOWN, Selector.UP}), **HEAD},
    summed="both projections of each network with their shifts, and the head",
    size="2 m d + m + d, m wide",
    afterwards="the mean of each tensor",
    notes="The mean of networks is not the network of means: biased in every mode but distributed. Placement pfeiffer "
    "leaves the attention's modules out, houlsby takes them too. Width and places are the plan's from the first round "
    "on, where FedAdapter lets them grow. What is released cannot be merged, and PEFT reads it once onlysum has "
    "registered the type.",
)
