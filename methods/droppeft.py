"""DropPEFT: in each round some layers are left out of the model, for everybody the same, and their adapters rest.

Guarantees: which layers a public coin says, from plan and round alone, so the choice costs no privacy; a layer that is
left out passes on what it is given and is not computed. An example's gradient is cut to the other layers before
it is clipped. All layers are there for the evaluator and for whoever uses the adapter. (The paper's coins are each
participant's own, and a rate for each layer is sought by what training gains; both would be private choices.)
Source: Wang et al., "Efficient Federated Fine-Tuning of Large Language Models with Layer Dropout", arXiv:2503.10217.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

DROPPEFT: Final = Method(
    name="droppeft",
    title="DropPEFT with layers by a public coin",
    category="reparameterised",
    source="Wang et al., arXiv:2503.10217",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.LORA_A, Selector.LORA_B}), **HEAD},
    upload="gather",
    takes=frozenset({"mask"}),
    mask_of="layers",
    skips_layers=True,
    summed="both LoRA factors of the layers that the round's coin chose, and the head",
    size="mask x r (d + k)",
    afterwards="the mean of those layers' factors; all others stay as they are",
    notes="[training] mask is the share of layers that are computed in a round: time and memory fall with it. Take "
    "three quarters or more; layers must be of one size.",
)
