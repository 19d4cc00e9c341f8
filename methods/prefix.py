"""Prefix tuning: learned keys and values before those of every text, in every layer.

Guarantees: the base stays as it is; each example's gradient is that of the prefix as it uses it.
Source: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021, arXiv:2101.00190.
"""

from __future__ import annotations

from typing import Final

from methods.layout import ADAPTER_STREAM
from methods.method import HEAD, Method
from methods.selectors import Selector
from privacy.adapter_parts import Role

PREFIX: Final = Method(
    name="prefix",
    title="prefix tuning",
    category="additive",
    source="Li and Liang, ACL 2021, arXiv:2101.00190",
    peft_type="PREFIX_TUNING",
    roles={Selector.PROMPT: Role.SHARED, Selector.HEAD: Role.SHARED},
    streams={ADAPTER_STREAM: frozenset({Selector.PROMPT}), **HEAD},
    summed="the prefix's keys and values of every layer, and the head",
    size="2 x layers x tokens x width",
    afterwards="the mean of the prefixes",
    texts_only=True,
    notes="The prefix takes places of the base's positions: leave room for it in max_length.",
)
