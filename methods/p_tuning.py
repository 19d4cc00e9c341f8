"""P-tuning: a small network makes the learned vectors before a text, and the network trains.

Guarantees: what is exported is what the network makes, so that nobody who uses the adapter needs the network.
Source: Liu et al., "GPT Understands, Too", arXiv:2103.10385.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method, Published
from methods.selectors import PROMPT_KEY, PROMPT_NETWORK, Selector
from privacy.adapter_parts import Adapter, Role


def network_output(_adapter: Adapter, tensors: Published, _initial: Mapping[str, NDArray[Any]]) -> Published:
    """Return the prompt that the network makes, shape (tokens, width), in place of the network.

    The network is PEFT's: two hidden layers with ReLU, and a linear one.
    """
    values = {key.removeprefix(PROMPT_NETWORK): value for key, value in tensors.items()}
    prompt = values["embedding.weight"]
    for layer in (0, 2, 4):
        prompt = prompt @ values[f"mlp_head.{layer}.weight"].T + values[f"mlp_head.{layer}.bias"]
        prompt = np.maximum(prompt, 0) if layer < 4 else prompt
    others = {key: value for key, value in tensors.items() if not key.startswith(PROMPT_NETWORK)}
    return {PROMPT_KEY: prompt.astype(np.float32), **others}


P_TUNING: Final = Method(
    name="p-tuning",
    title="p-tuning",
    category="additive",
    source="Liu et al., arXiv:2103.10385",
    peft_type="P_TUNING",
    roles={Selector.PROMPT: Role.SHARED, Selector.ENCODER: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.PROMPT, Selector.ENCODER}), **HEAD},
    summed="the network and its inputs, and the head",
    size="tokens x width + 2 x hidden x width + hidden^2",
    afterwards="the mean of each tensor; the released prompt is what the mean network makes",
    publish=network_output,
    texts_only=True,
    notes="The prompt takes places of the base's positions: leave room for it in max_length.",
)
