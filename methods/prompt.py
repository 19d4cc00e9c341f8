"""Prompt tuning: learned vectors before the embedded tokens of every text.

Guarantees: the base, its embeddings included, stays as it is; per-example gradients are those of the prompt as each
example uses it, never one of the whole batch.
Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021, arXiv:2104.08691; Zhao
et al., "FedPrompt", ICASSP 2023, arXiv:2208.12268.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

PROMPT: Final = Method(
    name="prompt",
    title="prompt tuning (FedPrompt)",
    category="additive",
    source="Lester et al., EMNLP 2021, arXiv:2104.08691; Zhao et al., ICASSP 2023, arXiv:2208.12268",
    peft_type="PROMPT_TUNING",
    roles={Selector.PROMPT: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.PROMPT}), **HEAD},
    summed="the prompt's vectors, and the head",
    size="tokens x width",
    afterwards="the mean of the prompts, which is the prompt of the next round",
    texts_only=True,
    notes="The prompt takes places of the base's positions: leave room for it in max_length.",
)
