"""Fed-SB: between two frozen factors a core of r x r numbers trains, and nothing else.

Guarantees: with both factors common the adapter is linear in the core, so the mean of the cores is exactly the mean
of the adapters, and noise on it is not multiplied by noise. The factors are singular vectors of the base's own
weights, of the initial adapter; the paper takes them from a first gradient step, which is private data, and is not
done here.
Source: Singhal et al., "Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private)
Federated LoRA Fine-Tuning", arXiv:2502.15436; Balazy et al., "LoRA-XS", arXiv:2405.17604, for the factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from numpy.typing import NDArray

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method, Published
from methods.selectors import Selector
from privacy.adapter_parts import Adapter, Role

CORE, OUT, WHOLE = ".lora_B.core.weight", ".lora_B.out.weight", ".lora_B.weight"


def multiplied_out(_adapter: Adapter, tensors: Published, _initial: Mapping[str, NDArray[Any]]) -> Published:
    """Return a plain LoRA: the outer factor times the core is its B."""
    published = {key: value for key, value in tensors.items() if not key.endswith((CORE, OUT))}
    for key, core in tensors.items():
        if key.endswith(CORE):
            layer = key.removesuffix(CORE)
            published[layer + WHOLE] = tensors[layer + OUT] @ core
    return published


FED_SB: Final = Method(
    name="fed-sb",
    title="Fed-SB (LoRA-SB, LoRA-XS)",
    category="reparameterised",
    source="Singhal et al., arXiv:2502.15436; Balazy et al., arXiv:2405.17604",
    peft_type="LORA_CORE",
    start="principal",
    roles={
        Selector.CORE: Role.SHARED,
        Selector.LORA_A: Role.FROZEN,
        Selector.LORA_B: Role.FROZEN,
        Selector.HEAD: Role.SHARED,
    },
    streams={ADAPTER_STREAM: frozenset({Selector.CORE}), **HEAD},
    summed="the cores, and the head",
    size="r^2",
    afterwards="the mean of the cores, which is exact because both factors are common",
    publish=multiplied_out,
    notes="A rank of 64 or more costs little: the size does not grow with the base.",
)
