"""LoRA-A2: the factors of LoRA train in turns, and in each round only some ranks of every module do.

Guarantees: as in RoLoRA one factor is common to all in each round, so the mean of the other is exact; which ranks train
a public coin says, the same for everybody, so the choice costs no privacy. (The paper lets each participant choose
the ranks that its own data finds important: see ``lora-a2-importance`` among what is refused.)
Source: Koo et al., "Towards Robust and Efficient Federated Low-Rank Adaptation with Heterogeneous Clients",
arXiv:2410.22815.
"""

from __future__ import annotations

from typing import Final

from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role, Schedule
from privacy.draft import HEAD_STREAM

LORA_A2: Final = Method(
    name="lora-a2",
    title="LoRA-A2 with ranks by a public coin",
    category="reparameterised",
    source="Koo et al., arXiv:2410.22815",
    peft_type="LORA",
    roles={Selector.LORA_A: Role.SHARED, Selector.LORA_B: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={"a": frozenset({Selector.LORA_A}), "b": frozenset({Selector.LORA_B}), **HEAD},
    turns=(frozenset({"b", HEAD_STREAM}), frozenset({"a", HEAD_STREAM})),
    schedule=Schedule(cycle=(0, 1)),
    upload="gather",
    takes=frozenset({"mask"}),
    masked=frozenset({"a", "b"}),
    mask_of="ranks",
    summed="the chosen ranks of one LoRA factor, B in odd rounds and A in even ones, and the head",
    size="mask x r d in odd rounds, mask x r k in even ones",
    afterwards="the mean of those ranks, which is exact because the other factor is common; all else stays as it is",
    notes="[training] mask is the share of ranks that train in a round: a large rank with a small mask is cheap.",
)
